package web

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/internal/follow"
	"github.com/lookout-video/lookout/output/webrtc"
)

// sse writes server-sent events. A client that takes longer than ten seconds
// for one is given up: it comes back and says what it has.
type sse struct {
	w   http.ResponseWriter
	c   *http.ResponseController
	err error
}

func newSSE(w http.ResponseWriter) *sse {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	s := &sse{w: w, c: http.NewResponseController(w)}
	s.write(": lookout\n\n")
	return s
}

func (s *sse) write(text string) {
	if s.err != nil {
		return
	}
	_ = s.c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, s.err = s.w.Write([]byte(text)); s.err == nil {
		s.err = s.c.Flush()
	}
}

func (s *sse) send(name, id string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.err = err
		return
	}
	if id != "" {
		id = "id: " + id + "\n"
	}
	s.write(fmt.Sprintf("event: %s\n%sdata: %s\n\n", name, id, b))
}

// events follows one stream or all: event and delta as on the data channels,
// lost where something is missing. An event's id is what the reader has of
// every stream, so that it can go on where it was.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	stream := r.URL.Query().Get("stream")
	if stream != "" {
		if err := permit(r, webrtc.View, stream); err != nil {
			fail(w, err)
			return
		}
	}
	last := r.Header.Get("Last-Event-ID")
	if last == "" {
		last = r.URL.Query().Get("after")
	}
	after, err := parsePosition(last)
	if err != nil {
		fail(w, err)
		return
	}
	if s.subscribers.Add(1) > int64(s.cfg.MaxSubscribers) {
		s.subscribers.Add(-1)
		fail(w, fmt.Errorf("readers of events: %w", webrtc.ErrBusy))
		return
	}
	defer s.subscribers.Add(-1)

	a := accountOf(r)
	out := newSSE(w)
	f := &follow.Follower{
		Newest:  s.cfg.Replay,
		Allowed: func(name string) bool { return (stream == "" || name == stream) && a.may(webrtc.View, name) },
		Delta:   func(d *event.Delta) { out.send("delta", "", d) },
		Lost: func(name string, n uint64, why string) {
			s.lostSSE.Add(n)
			out.send("lost", "", webrtc.Message{Type: "lost", Stream: name, Events: n, Reason: why})
		},
	}
	f.Event = func(e *event.Event) { out.send("event", position(f.Last()), e) }
	f.Has(after)
	sub := f.Join(s.bus, stream)
	defer sub.Close()
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	for out.err == nil {
		select {
		case it, ok := <-sub.C():
			if !ok {
				return
			}
			f.Hear(it)
		case <-beat.C:
			out.write(": beat\n\n") // keeps proxies from closing, finds who has gone
		case <-r.Context().Done():
			return
		}
	}
}

// position writes the Seq of the last event of each stream on one line.
func position(last map[string]uint64) string {
	var b strings.Builder
	for _, s := range slices.Sorted(maps.Keys(last)) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s:%d", url.QueryEscape(s), last[s])
	}
	return b.String()
}

func parsePosition(s string) (map[string]uint64, error) {
	after := map[string]uint64{}
	for part := range strings.SplitSeq(s, ",") {
		if part == "" {
			continue
		}
		name, n, ok := strings.Cut(part, ":")
		name, err := url.QueryUnescape(name)
		seq, err2 := strconv.ParseUint(n, 10, 64)
		if !ok || err != nil || err2 != nil || len(after) >= 1024 {
			return nil, fmt.Errorf("%w Last-Event-ID: need stream:seq, comma-separated", webrtc.ErrInvalid)
		}
		after[name] = seq
	}
	return after, nil
}
