package configs

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

const envPrefix = "LOOKOUT_"

// notSettings are variables with our prefix that are no settings.
var notSettings = map[string]bool{"LOOKOUT_CACHE": true, "LOOKOUT_ONNXRUNTIME": true, "LOOKOUT_CONFIG": true}

// applyEnv lays variables over c: LOOKOUT_REDIS_URL is redis.url,
// LOOKOUT_STREAMS_0_URL is the first stream's url. A list of words is written
// with commas. Variables that name no setting are left alone.
func applyEnv(c *Config, environ []string) error {
	vars := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, envPrefix) && !notSettings[k] {
			vars[k] = v
		}
	}
	return overlay(reflect.ValueOf(c).Elem(), strings.TrimSuffix(envPrefix, "_"), vars)
}

func overlay(v reflect.Value, name string, vars map[string]string) error {
	switch {
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return overlay(v.Elem(), name, vars)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			if err := overlay(v.Field(i), name+"_"+strings.ToUpper(key), vars); err != nil {
				return err
			}
		}
		return nil
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			if err := overlay(v.Index(i), name+"_"+strconv.Itoa(i), vars); err != nil {
				return err
			}
		}
		return nil
	}
	s, ok := vars[name]
	if !ok {
		return nil
	}
	if err := set(v, s); err != nil {
		return fmt.Errorf("environment variable %s: %w", name, err)
	}
	return nil
}

func set(v reflect.Value, s string) error {
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is no duration; write it as 1.5s or 10m", s)
		}
		v.SetInt(int64(d))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is no whole number", s)
		}
		v.SetInt(n)
	case reflect.Float64:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("%q is no number", s)
		}
		v.SetFloat(f)
	case reflect.Uint16:
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is no port", s)
		}
		v.SetUint(n)
	case reflect.Slice:
		var list []string
		for w := range strings.SplitSeq(s, ",") {
			if w = strings.TrimSpace(w); w != "" {
				list = append(list, w)
			}
		}
		v.Set(reflect.ValueOf(list))
	default:
		return fmt.Errorf("cannot be set from the environment; write it in the file")
	}
	return nil
}
