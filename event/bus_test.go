package event

import (
	"slices"
	"sync"
	"testing"
)

func ev(stream string, seq uint64) *Event { return &Event{Data: Data{Stream: stream, Seq: seq}} }

// drain reads what is queued in a closed subscription: positive numbers are
// events, -1 a delta.
func drain(s *Subscription) (got []int) {
	for it := range s.C() {
		if it.Delta != nil {
			got = append(got, -1)
		} else {
			got = append(got, int(it.Event.Data.Seq))
		}
	}
	return got
}

func TestBus(t *testing.T) {
	b := NewBus(2)
	for i := range uint64(4) {
		b.Publish(ev("a", i+1))
	}
	b.Publish(ev("b", 10))
	for name, c := range map[string]struct {
		o       SubOptions
		want    []int
		dropped uint64
	}{
		"all, nothing past":         {SubOptions{}, []int{-1, 5, 11}, 0},
		"one stream with its past":  {SubOptions{Stream: "a", Replay: 9}, []int{3, 4, -1, 5}, 0},
		"the newest of all streams": {SubOptions{Replay: 2}, []int{4, 10, -1, 5, 11}, 0},
		"slow":                      {SubOptions{Queue: 1}, []int{-1}, 2},
		"replay fits the queue":     {SubOptions{Queue: 1, Replay: 5}, []int{10}, 3},
		"a stream that is not":      {SubOptions{Stream: "c", Replay: 5}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := &Bus{keep: b.keep, history: slices.Clone(b.history), count: map[string]int{"a": 2, "b": 1}, subs: map[*Subscription]struct{}{}}
			s := b.Subscribe(c.o)
			b.PublishDelta(&Delta{Stream: "a"})
			b.Publish(ev("a", 5))
			b.Publish(ev("b", 11))
			b.Close()
			b.Publish(ev("a", 6))
			if got := drain(s); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if s.Dropped() != c.dropped {
				t.Errorf("dropped %d, want %d", s.Dropped(), c.dropped)
			}
		})
	}
}

func TestSubscriptionCloses(t *testing.T) {
	b := NewBus(1)
	s := b.Subscribe(SubOptions{})
	s.Close()
	s.Close()
	b.Publish(ev("a", 1))
	b.Close()
	if got := drain(s); got != nil {
		t.Errorf("a closed subscription got %v", got)
	}
	late := b.Subscribe(SubOptions{Replay: 1})
	if got := drain(late); !slices.Equal(got, []int{1}) {
		t.Errorf("who comes after the end got %v, want the past", got)
	}
}

func TestNoGapBetweenPastAndPresent(t *testing.T) {
	b := NewBus(10000)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint64(5000) {
			b.Publish(ev("a", i))
		}
		b.Close()
	})
	for range 20 {
		wg.Go(func() {
			got := drain(b.Subscribe(SubOptions{Queue: 10000, Replay: 10000}))
			for i, n := range got {
				if n != i {
					t.Errorf("item %d is event %d", i, n)
					return
				}
			}
			if len(got) != 5000 {
				t.Errorf("got %d events, want 5000", len(got))
			}
		})
	}
	wg.Wait()
}
