package redis_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/outbox"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/output/redis/redistest"
)

// A pool of go-redis that was closed while it dialled ends that within a
// second (pool.go, tryDial): the check for leaks waits for it.
func TestMain(m *testing.M) {
	code := m.Run()
	for try := 0; code == 0; try++ {
		err := goleak.Find() // looks for about a second itself
		if err == nil {
			break
		}
		if try == 3 {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// desc is a description of stream, the seq'th event, at noon plus seq seconds.
func desc(stream string, seq uint64) *event.Event {
	ev := event.New(event.TypeDescription, noon.Add(time.Duration(seq)*time.Second), event.Data{
		Stream: stream, Seq: seq, EventID: fmt.Sprint(stream, seq), Phase: event.Start, Text: fmt.Sprint("text ", seq),
	})
	return ev
}

// seqs reads the seq fields of a stream key.
func seqs(t *testing.T, c *redis.Client, key string) string {
	t.Helper()
	es, err := c.Redis().XRange(t.Context(), key, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range es {
		s = append(s, fmt.Sprint(e.Values["stream"], e.Values["seq"]))
	}
	return strings.Join(s, " ")
}

func deliver(t *testing.T, c *redis.Client, evs ...*event.Event) {
	t.Helper()
	if err := c.Deliver(t.Context(), evs); err != nil {
		t.Fatal(err)
	}
}

func TestDeliverExactlyOnce(t *testing.T) {
	srv := redistest.Start(t)
	c := redistest.Open(t, redis.Config{URL: srv.URL()})
	check := func(when, a, b, all string) {
		t.Helper()
		for key, want := range map[string]string{c.Config().EventsKey("a"): a, c.Config().EventsKey("b"): b, c.Config().AllKey(): all} {
			if got := seqs(t, c, key); got != want {
				t.Errorf("%s: %s has %q, want %q", when, key, got, want)
			}
		}
	}
	deliver(t, c, desc("a", 1), desc("b", 1), desc("a", 2))
	check("first", "a1 a2", "b1", "a1 b1 a2")
	deliver(t, c, desc("a", 1), desc("b", 1), desc("a", 2))
	deliver(t, c, desc("a", 2), desc("a", 5), desc("b", 2))
	check("replayed", "a1 a2 a5", "b1 b2", "a1 b1 a2 a5 b2")

	other := redistest.Open(t, redis.Config{URL: srv.URL()}) // after a restart
	deliver(t, other, desc("a", 2), desc("a", 5), desc("a", 6))
	deliver(t, c, desc("a", 5), desc("a", 6), desc("a", 7)) // the old process's late writes
	check("by two clients", "a1 a2 a5 a6 a7", "b1 b2", "a1 b1 a2 a5 b2 a6 a7")

	back := desc("a", 8)
	back.Time = noon.Add(-time.Hour)
	for range 2 {
		deliver(t, c, back, desc("a", 9))
	}
	check("a clock set back", "a1 a2 a5 a6 a7 a8 a9", "b1 b2", "a1 b1 a2 a5 b2 a6 a7 a8 a9")

	anew := desc("a", 1) // the state folder was lost
	anew.Time = noon.Add(time.Hour)
	for range 2 {
		deliver(t, c, anew)
	}
	check("a sequence begun anew", "a1 a2 a5 a6 a7 a8 a9 a1", "b1 b2", "a1 b1 a2 a5 b2 a6 a7 a8 a9 a1")

	if err := c.Deliver(t.Context(), []*event.Event{desc("a", 0)}); !errors.Is(err, outbox.ErrRefused) {
		t.Errorf("an event without seq: %v", err)
	}
}

// roundTrips counts what is sent to the server.
type roundTrips struct{ single, pipelines atomic.Int64 }

func (*roundTrips) DialHook(next goredis.DialHook) goredis.DialHook { return next }

func (r *roundTrips) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error { r.single.Add(1); return next(ctx, cmd) }
}

func (r *roundTrips) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error { r.pipelines.Add(1); return next(ctx, cmds) }
}

func TestABatchIsOneRoundTrip(t *testing.T) {
	c := redistest.Open(t, redis.Config{URL: redistest.Start(t).URL()})
	deliver(t, c, desc("a", 1)) // the server learns the scripts
	var trips roundTrips
	c.Redis().AddHook(&trips)
	var evs []*event.Event
	for seq := uint64(2); seq <= 30; seq++ {
		for _, cam := range []string{"a", "b", "c"} {
			evs = append(evs, desc(cam, seq))
		}
	}
	deliver(t, c, evs...)
	if trips.single.Load() != 0 || trips.pipelines.Load() != 1 {
		t.Errorf("%d events took %d commands and %d pipelines", len(evs), trips.single.Load(), trips.pipelines.Load())
	}
}

func TestServerRefusesAReplayItself(t *testing.T) {
	srv := redistest.Start(t)
	c := redistest.Open(t, redis.Config{URL: srv.URL()})
	deliver(t, c, desc("a", 4))
	id := fmt.Sprintf("%d-4", noon.Add(4*time.Second).UnixMilli())
	err := c.Redis().Do(t.Context(), "XADD", c.Config().EventsKey("a"), id, "x", "y").Err()
	if err == nil || !strings.Contains(err.Error(), "equal or smaller") {
		t.Errorf("XADD %s: %v", id, err)
	}
}

func TestEntryStateAndNotice(t *testing.T) {
	srv := redistest.Start(t)
	c := redistest.Open(t, redis.Config{URL: srv.URL(), Notify: true, Prefix: "x"})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	sub := c.Redis().PSubscribe(ctx, "x:*:notice")
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	p := 0.9
	alert := event.New(event.TypeAlert, noon, event.Data{
		Stream: "front door", Seq: 1, EventID: "e", Phase: event.Start, Text: "yes", Probability: &p,
		Prompt: &event.Prompt{ID: "van", Text: "is there a van?"}, Labels: []event.Label{{Name: "van", Probability: 0.8}, {Name: "car", Probability: 0.2}},
		Evidence: []event.Evidence{{Capture: noon, MediaMS: 1500, RTP: 135000}}, Latency: &event.Latency{GlassToWordMS: 412.4},
		Model: &event.Model{Name: "m", Hash: "sha256:1"}, Viewer: "v",
	})
	status := event.New(event.TypeStatus, noon, event.Data{Stream: "front door", Seq: 2, EventID: "s", Phase: event.Point,
		Status: &event.Status{State: "lost_events", Reason: "outbox full", Fix: "f", Count: 3}})
	d := desc("front door", 3)
	deliver(t, c, alert, status, d)
	if m, err := sub.ReceiveMessage(ctx); err != nil || m.Channel != "x:{front door}:notice" || !strings.HasSuffix(m.Payload, "-3") {
		t.Errorf("notice %v, %v", m, err)
	}
	es, err := c.Redis().XRange(ctx, "x:{front door}:events", "-", "+").Result()
	if err != nil || len(es) != 3 {
		t.Fatal(es, err)
	}
	for k, want := range map[string]string{
		"time": "2026-06-01T12:00:00.000Z", "kind": "alert", "phase": "start", "text": "yes", "prompt_id": "van", "prompt": "is there a van?",
		"probability": "0.9000", "label": "van", "labels": "van=0.8000,car=0.2000", "capture": "2026-06-01T12:00:00.000Z",
		"media_ms": "1500", "rtp": "135000", "glass_to_word_ms": "412", "model": "m@sha256:1", "viewer": "v", "seq": "1", "event_id": "e", "revision": "0",
	} {
		if got := es[0].Values[k]; got != want {
			t.Errorf("field %s is %v, want %q", k, got, want)
		}
	}
	want, _ := json.Marshal(alert)
	if es[0].Values["json"] != string(want) {
		t.Errorf("json is %v", es[0].Values["json"])
	}
	if es[1].Values["state"] != "lost_events" || es[1].Values["count"] != "3" {
		t.Errorf("status entry %v", es[1].Values)
	}
	st, err := c.State(ctx, "front door")
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{"alert:van": "on", "status": "lost_events", "text": "text 3", "text_phase": "start", "seq": "3", "last_id": es[2].ID} {
		if st[k] != want {
			t.Errorf("state %s is %q, want %q", k, st[k], want)
		}
	}
	alert.Data.Seq, alert.Data.Phase, alert.Time = 4, event.End, noon.Add(time.Minute)
	deliver(t, c, alert)
	deliver(t, c, d) // a replay must not bring the state back
	if st, _ = c.State(ctx, "front door"); st["alert:van"] != "off" || st["seq"] != "4" {
		t.Errorf("state %v", st)
	}
}

func TestRetention(t *testing.T) {
	srv := redistest.Start(t)
	now := time.Now()
	c := redistest.Open(t, redis.Config{URL: srv.URL(), MaxLen: 200, AllMaxLen: 400})
	aged := redistest.Open(t, redis.Config{URL: srv.URL(), MaxLen: -1, MaxAge: time.Hour, Prefix: "aged"})
	for i := range uint64(20) {
		var evs []*event.Event
		for j := range uint64(50) {
			ev := desc("a", i*50+j+1)
			ev.Time = now.Add(-time.Hour*2 + time.Duration(ev.Data.Seq)*8*time.Second)
			evs = append(evs, ev)
		}
		deliver(t, c, evs...)
		deliver(t, aged, evs...)
	}
	for key, most := range map[string]int64{c.Config().EventsKey("a"): 300, c.Config().AllKey(): 500, aged.Config().EventsKey("a"): 700} {
		n, err := c.Redis().XLen(t.Context(), key).Result()
		if err != nil || n > most || n < most-300 {
			t.Errorf("%s holds %d (%v), want about %d", key, n, err, most)
		}
	}
	if n, _ := c.Redis().XLen(t.Context(), c.Config().EventsKey("a")).Result(); n < 200 {
		t.Errorf("%d events are left of 200 that must be kept", n)
	}
}

func TestLostTailIsNoticed(t *testing.T) {
	srv := redistest.Start(t)
	c := redistest.Open(t, redis.Config{URL: srv.URL()})
	deliver(t, c, desc("a", 1), desc("a", 2))
	if err := c.Redis().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Deliver(t.Context(), []*event.Event{desc("a", 3)}); !errors.Is(err, outbox.ErrRewind) {
		t.Fatalf("got %v, want ErrRewind", err)
	}
	deliver(t, c, desc("a", 1), desc("a", 2), desc("a", 3))
	for _, key := range []string{c.Config().EventsKey("a"), c.Config().AllKey()} {
		if got := seqs(t, c, key); got != "a1 a2 a3" {
			t.Errorf("%s: %q", key, got)
		}
	}
}
