package media

import (
	"strings"
	"testing"
)

func TestRedactURL(t *testing.T) {
	for in, want := range map[string]string{
		"rtsp://u:p@h/x":             "rtsp://u:xxxxx@h/x",
		"rtsp://u@h/x":               "rtsp://u@h/x",
		"http://h/a?token=secret":    "http://h/a?xxxxx",
		"rtsp://u:p%zz@h/x?k=secret": "rtsp://h/x",
		"yard.mp4":                   "yard.mp4",
		"rtsp://h:554/user=admin_password=S3_cret_channel=1.sdp?real_stream": "rtsp://h:554/user=admin_password=xxxxx?xxxxx",
		"rtsp://h/pwd=a%zz/live": "rtsp://h/pwd=xxxxx/live",
	} {
		if got := RedactURL(in); got != want {
			t.Errorf("RedactURL(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzRedactURL(f *testing.F) {
	f.Add("rtsp", "u", "pässword", "h/x")
	f.Add("http", "", "%zz", "[::1]:80/")
	f.Fuzz(func(t *testing.T, scheme, user, password, rest string) {
		if len(password) < 6 || strings.ContainsAny(password, "/?#@:") || strings.Contains("xxxxx"+scheme+user+rest, password) {
			t.Skip()
		}
		if got := RedactURL(scheme + "://" + user + ":" + password + "@" + rest); strings.Contains(got, password) {
			t.Errorf("password shown: %q", got)
		}
	})
}
