package outbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a sink whose answer a test decides.
type fake struct {
	mu     sync.Mutex
	got    []uint64 // the seqs that were taken
	answer func(ctx context.Context, evs []*event.Event) error
	calls  int
	closed bool
}

func (f *fake) Deliver(ctx context.Context, evs []*event.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.answer != nil {
		if err := f.answer(ctx, evs); err != nil {
			return err
		}
	}
	for _, ev := range evs {
		f.got = append(f.got, ev.Data.Seq)
	}
	return nil
}

func (f *fake) Close() error { f.closed = true; return nil }

func (f *fake) set(answer func(context.Context, []*event.Event) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *fake) taken() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got)
}

func ev(stream string, seq uint64) *event.Event {
	return event.New(event.TypeStatus, time.Unix(int64(seq), 0).UTC(), event.Data{Stream: stream, Seq: seq, EventID: "e", Phase: event.Point, Status: &event.Status{State: "live"}})
}

func span(from, to uint64) (s []uint64) {
	for i := from; i <= to; i++ {
		s = append(s, i)
	}
	return s
}

func config(t *testing.T) Config {
	return Config{Path: filepath.Join(t.TempDir(), "box.db"), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond}
}

func open(t *testing.T, cfg Config, sink Sink) *Outbox {
	t.Helper()
	o, err := Open(cfg, sink)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	return o
}

func publish(t *testing.T, o *Outbox, from, to uint64) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := o.Publish(t.Context(), ev("a", i)); err != nil {
			t.Fatal(err)
		}
	}
}

// run runs o until the test ends or stop is called.
func run(t *testing.T, o *Outbox) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- o.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func flush(t *testing.T, o *Outbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := o.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 20 s for: %s", what)
		}
	}
}

func want(t *testing.T, f *fake, w []uint64) {
	t.Helper()
	if got := f.taken(); !slices.Equal(got, w) {
		t.Errorf("the sink took %v, want %v", got, w)
	}
}

func TestInOrderThroughFailures(t *testing.T) {
	n := 0
	f := &fake{answer: func(context.Context, []*event.Event) error {
		if n++; n%3 != 0 {
			return errors.New("away")
		}
		return nil
	}}
	o := open(t, config(t), f)
	run(t, o)
	publish(t, o, 1, 50)
	flush(t, o)
	want(t, f, span(1, 50))
	if s := o.Stats(); s.Pending != 0 || s.Bytes != 0 || s.Delivered != 50 || s.Retries == 0 || s.Lost != 0 || s.LastError != "" {
		t.Errorf("%+v", s)
	}
}

func TestSurvivesRestart(t *testing.T) {
	cfg := config(t)
	o := open(t, cfg, &fake{})
	publish(t, o, 1, 10)
	if s := o.Stats(); s.Pending != 10 || s.OldestAge <= 0 {
		t.Errorf("%+v", s)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if err := o.Publish(t.Context(), ev("a", 99)); !errors.Is(err, ErrClosed) {
		t.Errorf("publish after close: %v", err)
	}
	f := &fake{}
	o = open(t, cfg, f)
	stop := run(t, o)
	publish(t, o, 11, 12)
	flush(t, o)
	stop()
	_ = o.Close()
	if !f.closed {
		t.Error("the sink was not closed")
	}
	want(t, f, span(1, 12))
	for n := uint64(13); n < 33; n++ { // closed at once, it has noted what was delivered
		o = open(t, cfg, f)
		if s := o.Stats(); s.Pending != 0 {
			t.Fatalf("delivered events came back: %+v", s)
		}
		stop = run(t, o)
		publish(t, o, n, n)
		flush(t, o)
		stop()
		_ = o.Close()
	}
	want(t, f, span(1, 32))
}

func TestBounds(t *testing.T) {
	one, _ := encodeRecord(time.Now(), ev("a", 1))
	for name, change := range map[string]func(*Config){
		"events": func(c *Config) { c.MaxEvents = 10 },
		"bytes":  func(c *Config) { c.MaxBytes = int64(len(one))*10 + 200 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			change(&cfg)
			lost := make(chan uint64, 100)
			cfg.LostEvery = time.Millisecond
			cfg.Lost = func(stream string, n uint64, reason string) {
				if stream != "a" || reason != "outbox full" {
					t.Errorf("lost %d of %q: %s", n, stream, reason)
				}
				lost <- n
			}
			f := &fake{}
			o := open(t, cfg, f)
			publish(t, o, 1, 25)
			s := o.Stats()
			if s.Pending < 9 || s.Pending > 10 || s.Lost != 25-uint64(s.Pending) {
				t.Errorf("%+v", s)
			}
			for told := uint64(0); told < s.Lost; {
				select {
				case n := <-lost:
					told += n
				case <-time.After(20 * time.Second):
					t.Fatalf("told of %d of %d", told, s.Lost)
				}
			}
			run(t, o)
			flush(t, o)
			want(t, f, span(s.Lost+1, 25)) // the newest
		})
	}
}

func TestEventsWithTheSinkAreNotPushedOut(t *testing.T) {
	cfg := config(t)
	cfg.MaxEvents, cfg.Batch = 6, 4
	entered, leave := make(chan bool, 10), make(chan bool)
	f := &fake{answer: func(context.Context, []*event.Event) error { entered <- true; <-leave; return nil }}
	o := open(t, cfg, f)
	publish(t, o, 1, 4)
	run(t, o)
	<-entered // 1 to 4 are on their way
	publish(t, o, 5, 9)
	close(leave)
	flush(t, o)
	want(t, f, []uint64{1, 2, 3, 4, 8, 9})
	if s := o.Stats(); s.Lost != 3 {
		t.Errorf("%+v", s)
	}
}

func TestTheCallbackMayPublish(t *testing.T) {
	cfg := config(t)
	cfg.MaxEvents = 5
	var o *Outbox
	told := make(chan bool, 1)
	cfg.Lost = func(string, uint64, string) {
		if err := o.Publish(context.Background(), ev("a", 1000)); err != nil {
			t.Error(err)
		}
		select {
		case told <- true:
		default:
		}
	}
	f := &fake{}
	o = open(t, cfg, f)
	publish(t, o, 1, 6)
	<-told
	run(t, o)
	flush(t, o)
	if got := f.taken(); got[len(got)-1] != 1000 {
		t.Errorf("took %v", got)
	}
}

func TestRefusedEventsDoNotBlock(t *testing.T) {
	refuse := func(_ context.Context, evs []*event.Event) error {
		for _, e := range evs {
			if e.Data.Seq%5 == 0 {
				return fmt.Errorf("bad: %w", ErrRefused)
			}
		}
		return nil
	}
	f := &fake{answer: refuse}
	o := open(t, config(t), f)
	publish(t, o, 1, 12)
	run(t, o)
	flush(t, o)
	want(t, f, []uint64{1, 2, 3, 4, 6, 7, 8, 9, 11, 12})
	if s := o.Stats(); s.Refused != 2 || s.Delivered != 10 || s.Pending != 0 {
		t.Errorf("%+v", s)
	}
}

func TestRewind(t *testing.T) {
	cfg := config(t)
	cfg.Linger = time.Hour
	f := &fake{}
	o := open(t, cfg, f)
	run(t, o)
	publish(t, o, 1, 3)
	flush(t, o)
	lostIt := true
	f.set(func(context.Context, []*event.Event) error {
		if lostIt {
			lostIt = false
			return fmt.Errorf("behind: %w", ErrRewind)
		}
		return nil
	})
	publish(t, o, 4, 4)
	flush(t, o)
	want(t, f, []uint64{1, 2, 3, 1, 2, 3, 4})
	if s := o.Stats(); s.Rewinds != 1 || s.Pending != 0 || s.Bytes != 0 {
		t.Errorf("%+v", s)
	}
}

func TestLingeringEventsGoInTheEnd(t *testing.T) {
	cfg := config(t)
	cfg.Linger = 10 * time.Millisecond
	o := open(t, cfg, &fake{})
	run(t, o)
	publish(t, o, 1, 3)
	flush(t, o)
	wait(t, "the file to be empty", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.head == o.tail && len(o.done) == 0
	})
}

func TestHangingSinkIsTimedOut(t *testing.T) {
	cfg := config(t)
	cfg.Timeout = 10 * time.Millisecond
	first := true
	f := &fake{answer: func(ctx context.Context, _ []*event.Event) error {
		if first {
			first = false
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}}
	o := open(t, cfg, f)
	run(t, o)
	publish(t, o, 1, 1)
	flush(t, o)
	want(t, f, span(1, 1))
}

func TestCloseEndsADeliveryUnderWay(t *testing.T) {
	entered := make(chan bool)
	f := &fake{answer: func(ctx context.Context, _ []*event.Event) error { entered <- true; <-ctx.Done(); return ctx.Err() }}
	o := open(t, config(t), f)
	run(t, o)
	publish(t, o, 1, 1)
	<-entered
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTheLastOfABatchIsRefused(t *testing.T) {
	f := &fake{}
	o := open(t, config(t), sinkFunc(func(ctx context.Context, evs []*event.Event) error {
		for i, e := range evs {
			if e.Data.Seq == 5 {
				return &PartialError{i, ErrRefused}
			}
			_ = f.Deliver(ctx, []*event.Event{e})
		}
		return nil
	}))
	publish(t, o, 1, 5)
	run(t, o)
	flush(t, o)
	want(t, f, span(1, 4))
	if s := o.Stats(); s.Delivered != 4 || s.Refused != 1 || s.Pending != 0 || s.Bytes != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWhatAPartialErrorTookDoesNotComeAgain(t *testing.T) {
	f := &fake{}
	n := 0
	partial := sinkFunc(func(ctx context.Context, evs []*event.Event) error {
		for i, e := range evs {
			if n++; n%3 == 0 {
				return &PartialError{i, errors.New("away")}
			}
			if e.Data.Seq%7 == 0 {
				return &PartialError{i, ErrRefused}
			}
			_ = f.Deliver(ctx, []*event.Event{e})
		}
		return nil
	})
	o := open(t, config(t), partial)
	publish(t, o, 1, 20)
	run(t, o)
	flush(t, o)
	want(t, f, []uint64{1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 19, 20})
	if s := o.Stats(); s.Delivered != 18 || s.Refused != 2 || s.Pending != 0 || s.Bytes != 0 {
		t.Errorf("%+v", s)
	}
}

type sinkFunc func(context.Context, []*event.Event) error

func (f sinkFunc) Deliver(ctx context.Context, evs []*event.Event) error { return f(ctx, evs) }
func (sinkFunc) Close() error                                            { return nil }

func TestARefusedReportMakesNoOther(t *testing.T) {
	cfg := config(t)
	cfg.LostEvery = time.Millisecond
	var o *Outbox
	var mu sync.Mutex
	told := 0
	cfg.Lost = func(stream string, n uint64, reason string) {
		mu.Lock()
		told++
		mu.Unlock()
		e := ev(stream, 100)
		e.Data.Status.State = "lost_events"
		if err := o.Publish(context.Background(), e); err != nil {
			t.Error(err)
		}
	}
	o = open(t, cfg, &fake{answer: func(context.Context, []*event.Event) error { return ErrRefused }})
	run(t, o)
	publish(t, o, 1, 1)
	wait(t, "the event and its report to be refused", func() bool { return o.Stats().Refused == 2 })
	publish(t, o, 2, 2) // a later loss is told again, the report's was not
	wait(t, "both again", func() bool { return o.Stats().Refused == 4 })
	mu.Lock()
	defer mu.Unlock()
	if told != 2 {
		t.Errorf("told %d times, want 2", told)
	}
}

type later struct{ error }

func (later) RetryAfter() time.Duration { return time.Minute }

func TestBackoff(t *testing.T) {
	cfg := config(t)
	cfg.MinBackoff, cfg.MaxBackoff = 100*time.Millisecond, 10*time.Second
	o := open(t, cfg, &fake{})
	for n, most := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 5: 1600 * time.Millisecond, 9: 10 * time.Second, 500: 10 * time.Second} {
		for range 50 {
			if d := o.backoff(n, nil); d > most || d < most/2-1 {
				t.Errorf("failure %d: %v, want between %v and %v", n, d, most/2, most)
			}
		}
	}
	if d := o.backoff(1, fmt.Errorf("x: %w", later{errors.New("busy")})); d != time.Minute {
		t.Errorf("the sink asked for a minute, got %v", d)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	cfg := config(t)
	open(t, cfg, &fake{})
	if _, err := Open(cfg, &fake{}); err == nil {
		t.Error("opened twice")
	}
	if m, _ := filepath.Glob(cfg.Path + ".damaged*"); m != nil {
		t.Errorf("a busy file was moved aside: %v", m)
	}
}

// TestDamagedFile damages a good file in many ways: each must open, either as
// it was or moved aside, and work.
func TestDamagedFile(t *testing.T) {
	cfg := config(t)
	o := open(t, cfg, &fake{})
	publish(t, o, 1, 200)
	_ = o.Close()
	good, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	moved := 0
	for i := range 40 {
		b := slices.Clone(good)
		switch {
		case i == 0:
			b = b[:100]
		case i == 1:
			b = []byte("not a database at all, but long enough to be looked at")
		case i < 8:
			b = b[:rnd.IntN(len(b))]
		case i < 16: // a page of noise
			p := rnd.IntN(len(b)/4096) * 4096
			for j := range 4096 {
				b[p+j] = byte(rnd.Uint32())
			}
		default:
			for range 1 + rnd.IntN(200) {
				b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
			}
		}
		c := cfg
		c.Path = filepath.Join(t.TempDir(), "box.db")
		if err := os.WriteFile(c.Path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f := &fake{}
		o, err := Open(c, f)
		if err != nil {
			t.Errorf("damage %d: %v", i, err)
			continue
		}
		if aside := o.Stats().MovedAside; aside != "" {
			moved++
			if kept, err := os.ReadFile(aside); err != nil || !slices.Equal(kept, b) {
				t.Errorf("damage %d: the damaged file was not kept as it was: %v", i, err)
			}
		}
		run(t, o)
		publish(t, o, 201, 203)
		flush(t, o)
		// Damage that only a later write meets may cost what was published before it; that is counted.
		got, least := f.taken(), span(201, 203)
		if o.Stats().Lost > 0 {
			least = least[2:]
		}
		if n := len(got) - len(least); n < 0 || !slices.Equal(got[n:], least) || !slices.IsSorted(got) {
			t.Errorf("damage %d: took %v, %+v", i, got, o.Stats())
		}
		_ = o.Close()
	}
	if moved < 5 {
		t.Errorf("only %d of 40 damaged files were noticed", moved)
	}
}

func TestManyPublishersKeepTheirOrder(t *testing.T) {
	f := &fake{}
	last := map[string]uint64{}
	f.answer = func(_ context.Context, evs []*event.Event) error {
		for _, e := range evs {
			if e.Data.Seq != last[e.Data.Stream]+1 {
				t.Errorf("%s: %d after %d", e.Data.Stream, e.Data.Seq, last[e.Data.Stream])
			}
			last[e.Data.Stream] = e.Data.Seq
		}
		return nil
	}
	o := open(t, config(t), f)
	run(t, o)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range uint64(40) {
				if err := o.Publish(t.Context(), ev(fmt.Sprint("cam", i), n+1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	flush(t, o)
	if got := len(f.taken()); got != 320 {
		t.Errorf("took %d", got)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	b, _ := encodeRecord(time.Unix(1, 2), ev("front door", 7))
	f.Add(b)
	f.Add([]byte{1, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0, 0, 0x80, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		at, stream, js, err := decodeHeader(b)
		if err != nil {
			return
		}
		if at.IsZero() && stream == "" && js == nil {
			t.Error("nothing read without an error")
		}
		if e, err := decodeRecord(b); err == nil {
			if _, err := encodeRecord(at, e); err != nil {
				t.Skip(err)
			}
		}
	})
}

func TestRecordRoundTrip(t *testing.T) {
	at := time.Unix(5, 6)
	b, err := encodeRecord(at, ev("front door", 7))
	if err != nil {
		t.Fatal(err)
	}
	gotAt, stream, _, err := decodeHeader(b)
	if err != nil || !gotAt.Equal(at) || stream != "front door" {
		t.Errorf("%v %q %v", gotAt, stream, err)
	}
	e, err := decodeRecord(b)
	if err != nil || e.Data.Seq != 7 {
		t.Errorf("%+v, %v", e, err)
	}
	for i := range b {
		c := slices.Clone(b)
		c[i] ^= 0x10
		if _, err := decodeRecord(c); err == nil {
			t.Errorf("a flipped bit in byte %d went unnoticed", i)
		}
	}
}
