package event

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func next(t *testing.T, s *Sequencer, stream string) uint64 {
	t.Helper()
	n, err := s.Next(stream)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func open(t *testing.T, path string) *Sequencer {
	t.Helper()
	s, err := OpenSequencer(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSequencerAcrossRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "seq.json")
	s := open(t, path)
	for want := uint64(1); want <= 600; want++ {
		if got := next(t, s, "a"); got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
	}
	if got := next(t, s, "b"); got != 1 {
		t.Fatalf("stream b begins at %d", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if got := next(t, s, "a"); got != 601 {
		t.Errorf("after a clean end: %d, want 601", got)
	}
	crashed := s // no Close
	s = open(t, path)
	if got := next(t, s, "a"); got <= 601 || got > 601+reserve {
		t.Errorf("after a crash: %d, want just above 601", got)
	}
	_ = crashed
}

func TestSequencerTellsOfADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seq.json")
	for _, content := range []string{"", "null", "{", "[]", `{"a":-1}`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSequencer(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestSequencerGivesNoNumberThatIsNotKept(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "gone", "seq.json"))
	if err := os.RemoveAll(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n, err := s.Next("a"); err == nil {
			t.Fatalf("got %d without a file", n)
		}
	}
}

type outFunc func(*Event) error

func (f outFunc) Publish(_ context.Context, ev *Event) error { return f(ev) }

func TestEmitterKeepsTheOrderOfNumbers(t *testing.T) {
	last := map[string]uint64{}
	var mu sync.Mutex
	out := outFunc(func(ev *Event) error {
		mu.Lock()
		defer mu.Unlock()
		if ev.Data.Seq != last[ev.Data.Stream]+1 || ev.Time.IsZero() {
			t.Errorf("%s: %d after %d", ev.Data.Stream, ev.Data.Seq, last[ev.Data.Stream])
		}
		last[ev.Data.Stream] = ev.Data.Seq
		return nil
	})
	e := NewEmitter(open(t, ""), nil, out)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			stream := []string{"a", "b"}[i%2]
			for range 200 {
				if err := e.Emit(t.Context(), New(TypeStatus, time.Time{}, Data{Stream: stream, EventID: "x", Phase: Point})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if last["a"] != 800 || last["b"] != 800 {
		t.Errorf("last numbers %v", last)
	}
}

func TestEmitterServesViewersWhenAnOutboxFails(t *testing.T) {
	full := errors.New("disk full")
	got := 0
	bus := NewBus(1)
	sub := bus.Subscribe(SubOptions{})
	e := NewEmitter(open(t, ""), bus, outFunc(func(*Event) error { return full }), outFunc(func(*Event) error { got++; return nil }))
	if err := e.Emit(t.Context(), New(TypeStatus, noon, Data{Stream: "a", EventID: "x", Phase: Point})); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	bus.Close()
	if it := <-sub.C(); it.Event == nil || got != 1 {
		t.Errorf("viewer got %v, second outbox %d", it, got)
	}
}
