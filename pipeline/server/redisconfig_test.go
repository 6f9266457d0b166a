package server

import (
	"reflect"
	"testing"

	"github.com/lookout-video/lookout/configs"
)

// A setting that does not arrive is worse than one that is missing.
func TestEveryRedisSettingArrives(t *testing.T) {
	typ := reflect.TypeFor[configs.Redis]()
	for i := range typ.NumField() {
		var c configs.Redis
		switch f := reflect.ValueOf(&c).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"x"}))
		default:
			f.SetInt(7)
		}
		if reflect.DeepEqual(RedisConfig(c), RedisConfig(configs.Redis{})) {
			t.Errorf("redis.%s changes nothing", typ.Field(i).Tag.Get("yaml"))
		}
	}
}
