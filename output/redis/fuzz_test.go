package redis

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/lookout-video/lookout/event"
)

// Whatever a user writes as the address, a refusal never shows the password.
func FuzzURL(f *testing.F) {
	f.Add("redis", "lookout", "pässword-1", "127.0.0.1:6379/0")
	f.Add("rediss", "", "s3cret%zz", "host:port/x")
	f.Add("unix", "u", "s3cret/pw", "/tmp/x.sock?db=z")
	f.Add("http", "u", "s3cret:pw", "[::1]")
	f.Fuzz(func(t *testing.T, scheme, user, password, rest string) {
		if len(password) < 6 || strings.Contains("xxxxx"+scheme+user+rest, password) {
			t.Skip()
		}
		c := Config{URL: scheme + "://" + user + ":" + password + "@" + rest}
		_, target, err := c.options()
		if strings.Contains(target, password) || err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("%q shows the password: target %q, %v", c.URL, target, err)
		}
	})
}

// What stands in a stream may be anybody's; what is an event is read back as it
// was written.
func FuzzEntry(f *testing.F) {
	js, _ := json.Marshal(event.New(event.TypeStatus, time.Unix(1e9, 0).UTC(), event.Data{Stream: "a", Seq: 1, EventID: "e", Phase: event.Point, Status: &event.Status{State: "live"}}))
	f.Add("1-1", string(js))
	f.Add("x", `{"specversion":"1.0"}`)
	f.Add("", "")
	f.Fuzz(func(t *testing.T, id, js string) {
		e, err := entryOf("k", goredis.XMessage{ID: id, Values: map[string]any{"json": js}})
		if err != nil {
			return
		}
		fields, err := entry(e.Event)
		if err != nil {
			t.Skip(err) // a time that RFC 3339 cannot write back
		}
		again := map[string]any{}
		for i := 0; i < len(fields); i += 2 {
			if fields[i+1] == "" {
				t.Errorf("field %v is empty", fields[i])
			}
			again[fmt.Sprint(fields[i])] = fields[i+1]
		}
		back, err := entryOf("k", goredis.XMessage{ID: id, Values: again})
		if err != nil || back.Event.ID != e.Event.ID || back.Event.Data.Text != e.Event.Data.Text {
			t.Errorf("%s came back as %+v, %v", js, back.Event, err)
		}
		_ = parseID(id).args()
	})
}
