package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/output/redis/redistest"
)

func replay(t *testing.T, c *redis.Client, o redis.ReplayOptions) (got []string, bad int) {
	t.Helper()
	for e, err := range c.Replay(t.Context(), o) {
		switch {
		case errors.Is(err, redis.ErrEntry):
			bad++
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, fmt.Sprint(e.Event.Data.Stream, e.Event.Data.Seq))
		}
	}
	return got, bad
}

func TestReplay(t *testing.T) {
	srv := redistest.Start(t)
	c := redistest.Open(t, redis.Config{URL: srv.URL()})
	var evs []*event.Event
	for i := range uint64(1200) { // more than two pages
		evs = append(evs, desc("a", i+1))
	}
	deliver(t, c, evs...)
	deliver(t, c, desc("b", 1))
	if err := c.Redis().XAdd(t.Context(), &goredis.XAddArgs{Stream: c.Config().AllKey(), Values: []string{"x", "y"}}).Err(); err != nil {
		t.Fatal(err)
	}
	deliver(t, c, desc("b", 2))
	if got, bad := replay(t, c, redis.ReplayOptions{}); len(got) != 1202 || bad != 1 || got[1201] != "b2" {
		t.Errorf("%d events, %d bad", len(got), bad)
	}
	if got, _ := replay(t, c, redis.ReplayOptions{Stream: "a"}); len(got) != 1200 || got[0] != "a1" || got[1199] != "a1200" {
		t.Errorf("%d events", len(got))
	}
	span := redis.ReplayOptions{Stream: "a", From: redis.TimeID(noon.Add(10 * time.Second)), To: redis.TimeID(noon.Add(13 * time.Second))}
	if got, _ := replay(t, c, span); strings.Join(got, " ") != "a10 a11 a12" {
		t.Errorf("a span of time: %v", got)
	}
	if got, _ := replay(t, c, redis.ReplayOptions{Stream: "nobody"}); got != nil {
		t.Error(got)
	}
	for range c.Replay(t.Context(), redis.ReplayOptions{}) {
		break // a reader may leave
	}
}

// What comes first is the last of the past, and then all that follows it.
func TestTailBeginsWithTheLast(t *testing.T) {
	srv := redistest.Start(t)
	c := redistest.Open(t, redis.Config{URL: srv.URL()})
	for last, want := range map[int64]string{1: "3 4", 2: "2 3 4", 3: "1 2 3 4", 9: "1 2 3 4"} {
		cam := fmt.Sprint("cam", last)
		deliver(t, c, desc(cam, 1), desc(cam, 2), desc(cam, 3))
		var got []string
		for e, err := range c.Tail(t.Context(), redis.TailOptions{Stream: cam, Last: last}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(e.Event.Data.Seq))
			if e.Event.Data.Seq == 3 {
				deliver(t, c, desc(cam, 4))
			}
			if e.Event.Data.Seq == 4 {
				break
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("the last %d: %s, want %s", last, s, want)
		}
	}
}

// TestTailThroughARestart follows a server that is killed and comes back.
func TestTailThroughARestart(t *testing.T) {
	dir := t.TempDir()
	args := []string{"--save", "", "--appendonly", "yes", "--appendfsync", "always"}
	srv := redistest.StartIn(t, dir, 0, args...)
	_, p, _ := net.SplitHostPort(srv.Addr())
	port, _ := strconv.Atoi(p)
	c := redistest.Open(t, redis.Config{URL: srv.URL()})
	deliver(t, c, desc("a", 1))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, failed := make(chan string, 100), make(chan error, 1000)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for e, err := range c.Tail(ctx, redis.TailOptions{Stream: "a"}) {
			if err != nil {
				failed <- err
				continue
			}
			got <- fmt.Sprint(e.Event.Data.Seq)
		}
	}()
	// Tail begins with what comes after its own beginning, which nobody is told of:
	// add until the first arrives.
	seq := uint64(1)
	first := ""
	redistest.Wait(t, "the first event", func() bool {
		select {
		case first = <-got:
			return true
		default:
			seq++
			deliver(t, c, desc("a", seq))
			return false
		}
	})
	if first == "1" {
		t.Error("it began with the past")
	}
	srv.Kill()
	redistest.Wait(t, "an error", func() bool { return len(failed) > 0 })
	redistest.StartIn(t, dir, port, args...)
	seq++
	redistest.Wait(t, "the server to take events again", func() bool { return c.Deliver(t.Context(), []*event.Event{desc("a", seq)}) == nil })
	last, _ := strconv.Atoi(first)
	for uint64(last) < seq {
		select {
		case s := <-got:
			n, _ := strconv.Atoi(s)
			if n != last+1 {
				t.Errorf("%d after %d", n, last)
			}
			last = n
		case <-time.After(20 * time.Second):
			t.Fatalf("stuck at %d of %d", last, seq)
		}
	}
	cancel()
	<-ended
}

func TestLag(t *testing.T) {
	srv := redistest.Start(t)
	c := redistest.Open(t, redis.Config{URL: srv.URL()})
	if lag, err := c.Lag(t.Context(), "a"); err != nil || lag != nil {
		t.Errorf("no stream yet: %v, %v", lag, err)
	}
	deliver(t, c, desc("a", 1), desc("a", 2), desc("a", 3))
	key := c.Config().EventsKey("a")
	if err := c.Redis().XGroupCreate(t.Context(), key, "g", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Redis().XReadGroup(t.Context(), &goredis.XReadGroupArgs{Group: "g", Consumer: "me", Streams: []string{key, ">"}, Count: 1}).Err(); err != nil {
		t.Fatal(err)
	}
	lag, err := c.Lag(t.Context(), "a")
	if err != nil || len(lag) != 1 || lag[0].Group != "g" || lag[0].Pending != 1 || lag[0].Lag != 2 || lag[0].Consumers != 1 {
		t.Errorf("%+v, %v", lag, err)
	}
}
