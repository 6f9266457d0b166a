package configs

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// Schema is the JSON Schema (2020-12) of the configuration, for editors.
func Schema() []byte {
	s := schemaOf(reflect.TypeFor[Config](), reflect.ValueOf(Default()))
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "lookout.yaml"
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // maps of strings and numbers always marshal
	}
	return append(b, '\n')
}

func schemaOf(t reflect.Type, def reflect.Value) map[string]any {
	s := map[string]any{}
	switch {
	case t == reflect.TypeFor[time.Duration]():
		s["type"], s["pattern"] = "string", `^([0-9.]+(ns|us|ms|s|m|h))+$`
		if def.IsValid() {
			s["default"] = time.Duration(def.Int()).String()
		}
		return s
	case t.Kind() == reflect.Pointer:
		return schemaOf(t.Elem(), reflect.Value{})
	case t.Kind() == reflect.Struct:
		props := map[string]any{}
		for i := range t.NumField() {
			f := t.Field(i)
			d := reflect.Value{}
			if def.IsValid() {
				d = def.Field(i)
			}
			p := schemaOf(f.Type, d)
			p["description"] = f.Tag.Get("doc")
			if e := f.Tag.Get("enum"); e != "" {
				p["enum"] = strings.Split(e, ",")
			}
			key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			props[key] = p
		}
		s["type"], s["properties"], s["additionalProperties"] = []string{"object", "null"}, props, false
		return s
	case t.Kind() == reflect.Slice:
		item := reflect.Value{}
		if t.Elem() == reflect.TypeFor[Stream]() {
			item = reflect.ValueOf(DefaultStream())
		}
		s["type"], s["items"] = []string{"array", "null"}, schemaOf(t.Elem(), item)
		return s
	case t.Kind() == reflect.Map:
		s["type"], s["additionalProperties"] = "object", schemaOf(t.Elem(), reflect.Value{})
		return s
	case t.Kind() == reflect.Bool:
		s["type"] = "boolean"
	case t.Kind() == reflect.Float64:
		s["type"] = "number"
	case t.Kind() == reflect.String:
		s["type"] = "string"
	default:
		s["type"] = "integer"
	}
	if def.IsValid() && !def.IsZero() {
		s["default"] = def.Interface()
	}
	return s
}
