package web_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/output/web"
	"github.com/lookout-video/lookout/output/webrtc"
)

// The seeds are in testdata/fuzz.

// FuzzBody sends any body, of any type, to all that take one. What cannot be
// understood is refused in the API's own form; nothing fails inside.
func FuzzBody(f *testing.F) {
	bus := event.NewBus(10)
	b := newBackend(bus)
	b.Add("yard", media.NewTap(0))
	s, err := web.New(web.Config{Listen: "127.0.0.1:0", SessionsPerMinute: 1 << 30, QuestionsPerMinute: 1 << 30, Log: slog.New(slog.DiscardHandler),
		WebRTC: webrtc.Config{Addresses: []string{"127.0.0.1"}}}, b, bus)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	routes := []string{"POST /api/session", "POST /api/streams", "PATCH /api/streams/yard", "POST /api/streams/yard/ask", "PUT /api/streams/yard/labels",
		"POST /whep/none", "PATCH /whep/yard/none", "PATCH /whip/yard/none"}
	f.Fuzz(func(t *testing.T, contentType, query, body string) {
		if len(body) > 1<<16 || strings.Contains(body, `"wait"`) { // the fake's question without an answer
			t.Skip()
		}
		for _, r := range routes {
			method, path, _ := strings.Cut(r, " ")
			req := httptest.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body))
			req.Header.Set("Content-Type", contentType)
			req.Header.Set("If-Match", "*")
			req.URL.RawQuery = query
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, req)
			if w.Code < 300 {
				continue
			}
			var out struct{ Error *webrtc.Error }
			dec := json.NewDecoder(w.Body)
			if err := dec.Decode(&out); err != nil || out.Error == nil || out.Error.Code == "" || out.Error.Message == "" || w.Code >= 500 {
				t.Errorf("%s: %d, %v", r, w.Code, err)
			}
			if _, err := dec.Token(); err != io.EOF {
				t.Errorf("%s: more than an error", r)
			}
		}
	})
}

// FuzzPosition is a Last-Event-ID.
func FuzzPosition(f *testing.F) {
	f.Fuzz(func(t *testing.T, id string) {
		at, err := web.ParsePosition(id)
		if err != nil {
			return
		}
		again, err := web.ParsePosition(web.Position(at))
		if err != nil || !maps.Equal(at, again) {
			t.Errorf("%q is %v, written and read again %v, %v", id, at, again, err)
		}
	})
}
