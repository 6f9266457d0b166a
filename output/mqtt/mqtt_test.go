package mqtt

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	broker "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ev(stream string, seq uint64) *event.Event {
	return event.New(event.TypeStatus, time.Unix(1e9, 0).UTC(), event.Data{Stream: stream, Seq: seq, EventID: fmt.Sprint(stream, seq), Phase: event.Point,
		Status: &event.Status{State: "live"}})
}

// inbox is what a subscriber of the broker has received.
type inbox struct {
	mu  sync.Mutex
	ids []string
}

func (b *inbox) first() string { // each id once, in the order of its first coming
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	seen := map[string]bool{}
	for _, id := range b.ids {
		if !seen[id] {
			out = append(out, id)
		}
		seen[id] = true
	}
	return strings.Join(out, " ")
}

// start runs a real broker that lets in user "lookout" with password "pw".
func start(t *testing.T, addr string, in *inbox) *broker.Server {
	t.Helper()
	s := broker.New(&broker.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := s.AddHook(new(auth.Hook), &auth.Options{Ledger: &auth.Ledger{Auth: auth.AuthRules{{Username: "lookout", Password: "pw", Allow: true}}}}); err != nil {
		t.Fatal(err)
	}
	// Before it listens, so that nothing is missed.
	err := s.Subscribe("#", 1, func(_ *broker.Client, _ packets.Subscription, pk packets.Packet) {
		e, err := event.Parse(pk.Payload)
		if err != nil {
			return // the broker's own figures
		}
		if want := "lookout/" + strings.ReplaceAll(e.Data.Stream, "/", "_") + "/status"; pk.TopicName != want {
			t.Errorf("topic %s, want %s", pk.TopicName, want)
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		in.ids = append(in.ids, e.ID)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddListener(listeners.NewTCP(listeners.Config{ID: "t", Address: addr})); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	return s
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestThroughARestartOfTheBroker(t *testing.T) {
	addr := freeAddr(t)
	var in inbox
	p, err := Open(Config{URL: "mqtt://lookout:pw@" + addr})
	if err != nil {
		t.Fatal(err)
	}
	box, err := outbox.Open(outbox.Config{Path: filepath.Join(t.TempDir(), "m.db"), MinBackoff: 5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond, Batch: 4}, p)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	go func() { _ = box.Run(t.Context()) }()
	want := []string{}
	put := func(from, to uint64) {
		for i := from; i <= to; i++ {
			e := ev("yard/1", i)
			if err := box.Publish(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			want = append(want, e.ID)
		}
	}
	flush := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := box.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 10) // nobody is there yet
	s := start(t, addr, &in)
	flush()
	_ = s.Close()
	put(11, 15)
	s = start(t, addr, &in)
	defer s.Close()
	put(16, 20)
	flush()
	// The broker confirms before it passes on.
	for end := time.Now().Add(20 * time.Second); in.first() != strings.Join(want, " ") && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if got := in.first(); got != strings.Join(want, " ") {
		t.Errorf("received %s\n    want %s", got, strings.Join(want, " "))
	}
}

func TestRetain(t *testing.T) {
	addr := freeAddr(t)
	s := start(t, addr, new(inbox))
	defer s.Close()
	p, err := Open(Config{URL: "tcp://" + addr, Username: "lookout", Password: "pw", Retain: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Deliver(t.Context(), []*event.Event{ev("a", 1), ev("a", 2), ev("b", 3)}); err != nil {
		t.Fatal(err)
	}
	for topic, id := range map[string]string{"lookout/a/status": "a2.0", "lookout/b/status": "b3.0"} {
		ms := s.Topics.Messages(topic)
		if len(ms) != 1 {
			t.Fatalf("%s: %d retained", topic, len(ms))
		}
		if e, err := event.Parse(ms[0].Payload); err != nil || e.ID != id {
			t.Errorf("%s retains %v, %v, want %s", topic, e, err, id)
		}
	}
}

func TestErrors(t *testing.T) {
	addr := freeAddr(t)
	s := start(t, addr, new(inbox))
	defer s.Close()
	plain, err := net.Listen("tcp", "127.0.0.1:0") // hangs up: it does not speak TLS
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	go func() {
		for {
			c, err := plain.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	for name, c := range map[string]struct{ url, want string }{
		"wrong password": {"tcp://lookout:s3cret@" + addr, "check username and password"},
		"nobody there":   {"tcp://" + freeAddr(t), "start the broker"},
		"no TLS":         {"ssl://" + plain.Addr().String(), ""},
	} {
		p, err := Open(Config{URL: c.url, Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		err = p.Deliver(ctx, []*event.Event{ev("a", 1)})
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
		_ = p.Close()
	}
	for _, c := range []Config{{}, {URL: "http://x"}, {URL: "tcp://x", Topic: "a/#"}, {URL: "ssl://x", CAFile: "/nowhere"}, {URL: "ssl://x", CertFile: "x"}} {
		if _, err := Open(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}
