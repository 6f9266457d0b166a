package mqtt

import (
	"strings"
	"testing"
	"time"

	"github.com/lookout-video/lookout/event"
)

// Whatever a user writes as the address, a refusal never shows the password; and
// no stream's name makes a topic that goes elsewhere.
func FuzzOpen(f *testing.F) {
	f.Add("mqtt", "lookout", "pässword-1", "127.0.0.1:1883", "front/door")
	f.Add("mqtts", "", "s3cret%zz", "host:port", "#")
	f.Add("http", "u", "s3cret:pw", "[::1]", "a+b\x00")
	f.Fuzz(func(t *testing.T, scheme, user, password, rest, stream string) {
		if len(password) < 6 || strings.Contains("xxxxx"+scheme+user+rest, password) {
			t.Skip()
		}
		p, err := Open(Config{URL: scheme + "://" + user + ":" + password + "@" + rest})
		if err != nil {
			if strings.Contains(err.Error(), password) {
				t.Errorf("shows the password: %v", err)
			}
			return
		}
		if strings.Contains(p.target, password) {
			t.Errorf("the target %q shows the password", p.target)
		}
		topic := p.TopicOf(event.New(event.TypeStatus, time.Time{}, event.Data{Stream: stream}))
		if strings.Count(topic, "/") != 2 || strings.ContainsAny(topic, "+#\x00") {
			t.Errorf("stream %q goes to topic %q", stream, topic)
		}
	})
}
