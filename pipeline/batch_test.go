package pipeline

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

// counter counts the frames of each stream that it is given.
type counter struct {
	served [5]int
	total  int
	enough context.CancelFunc
}

func (c *counter) Encode(_ context.Context, frames []*media.Frame, _ *Encoded) error {
	for _, f := range frames {
		c.served[f.Seq]++
	}
	if c.total += len(frames); c.total >= 1000 {
		c.enough()
	}
	time.Sleep(5 * time.Millisecond) // of the bubble: all others come to their wait
	return nil
}

// Streams that all want more than the machine gives get alike: none has less than
// four fifths of its equal share, though a call takes fewer than there are streams.
func TestBatcherIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := &counter{enough: cancel}
		b := NewBatcher(c, testInfo, 2)
		var wg sync.WaitGroup
		wg.Go(func() { _ = b.Run(ctx) })
		for i := range c.served {
			wg.Go(func() {
				f := &media.Frame{Seq: uint64(i)}
				dst := &Encoded{Tokens: tensor.Make[float32](1, testInfo.Patches, testInfo.Dim), Image: tensor.Make[float32](1, testInfo.Embed)}
				for b.Encode(ctx, f, dst) == nil {
					time.Sleep(time.Duration(i) * time.Millisecond) // the first asks again at once
				}
			})
		}
		wg.Wait()
		for i, n := range c.served {
			if share := c.total / len(c.served); n*5 < share*4 {
				t.Errorf("stream %d got %d of %d frames: %v", i, n, c.total, c.served)
			}
		}
	})
}

// slow notes the frames of each call, which takes 100 ms of the bubble's time.
type slow struct{ calls [][]uint64 }

func (s *slow) Encode(_ context.Context, frames []*media.Frame, _ *Encoded) error {
	var of []uint64
	for _, f := range frames {
		of = append(of, f.Seq)
	}
	s.calls = append(s.calls, of)
	time.Sleep(100 * time.Millisecond)
	return nil
}

func TestBatcherKeepsDeadlines(t *testing.T) {
	const ms = time.Millisecond
	type ask struct {
		at     time.Duration
		frame  uint64
		within time.Duration
		newer  bool // another frame, 10 more, waits and is asked for at once when this one is late
	}
	for _, c := range []struct {
		what  string
		limit int
		asks  []ask
		calls [][]uint64
		late  []uint64
	}{
		{"the earliest deadline is first of those that came during one call", 1,
			[]ask{{0, 1, 0, false}, {10 * ms, 2, 0, false}, {20 * ms, 3, 900 * ms, false}, {30 * ms, 4, 500 * ms, false}}, [][]uint64{{1}, {4}, {3}, {2}}, nil},
		{"but passes nobody who came during an earlier one", 1,
			[]ask{{0, 1, 0, false}, {10 * ms, 2, 950 * ms, false}, {20 * ms, 3, 900 * ms, false}, {110 * ms, 4, 300 * ms, false}}, [][]uint64{{1}, {3}, {2}, {4}}, nil},
		{"a late frame costs nothing, and the newer one has its turn", 1,
			[]ask{{0, 1, 0, false}, {10 * ms, 2, 50 * ms, true}, {20 * ms, 3, 500 * ms, false}}, [][]uint64{{1}, {3}, {12}}, []uint64{2}},
		{"the newest frame is never late", 1,
			[]ask{{0, 1, 0, false}, {10 * ms, 2, 50 * ms, false}}, [][]uint64{{1}, {2}}, nil},
		{"no stream is late twice in a row, and it goes before those that came later", 1,
			[]ask{{0, 1, 0, false}, {10 * ms, 2, 50 * ms, true}, {20 * ms, 3, 500 * ms, false}, {110 * ms, 4, 95 * ms, false}}, [][]uint64{{1}, {3}, {12}, {4}}, []uint64{2}},
		{"a call takes as many as there is room for", 2,
			[]ask{{0, 1, 0, false}, {10 * ms, 2, 900 * ms, false}, {20 * ms, 3, 800 * ms, false}, {30 * ms, 4, 700 * ms, false}}, [][]uint64{{1}, {4, 3}, {2}}, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				enc := &slow{}
				b := NewBatcher(enc, testInfo, c.limit)
				var run, wg sync.WaitGroup
				run.Go(func() { _ = b.Run(ctx) })
				var mu sync.Mutex
				var late []uint64
				for _, a := range c.asks {
					wg.Go(func() {
						time.Sleep(a.at)
						p := place{within: a.within, newer: func() bool { return a.newer }}
						dst := &Encoded{Tokens: tensor.Make[float32](1, testInfo.Patches, testInfo.Dim), Image: tensor.Make[float32](1, testInfo.Embed)}
						err := b.encodeAt(ctx, &media.Frame{Seq: a.frame}, dst, &p)
						if errors.Is(err, errLate) {
							mu.Lock()
							late = append(late, a.frame)
							mu.Unlock()
							err = b.encodeAt(ctx, &media.Frame{Seq: a.frame + 10}, dst, &p)
						}
						if err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				cancel()
				run.Wait()
				if !slices.EqualFunc(enc.calls, c.calls, slices.Equal) || !slices.Equal(late, c.late) {
					t.Errorf("encoded %v, late %v; want %v, late %v", enc.calls, late, c.calls, c.late)
				}
			})
		})
	}
}

// One who gives up waiting leaves the queue, and the frame is not read any more.
func TestBatcherLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		enc := &slow{}
		b := NewBatcher(enc, testInfo, 1)
		var wg sync.WaitGroup
		wg.Go(func() { _ = b.Run(ctx) })
		dst := &Encoded{Tokens: tensor.Make[float32](1, testInfo.Patches, testInfo.Dim), Image: tensor.Make[float32](1, testInfo.Embed)}
		wg.Go(func() {
			if err := b.Encode(ctx, &media.Frame{Seq: 1}, dst); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // it is in the encoder
		brief, stop := context.WithTimeout(ctx, time.Millisecond)
		defer stop()
		if err := b.Encode(brief, &media.Frame{Seq: 2}, dst); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		if !slices.EqualFunc(enc.calls, [][]uint64{{1}}, slices.Equal) {
			t.Errorf("encoded %v", enc.calls)
		}
	})
}

// A stream beside a slow encoder skips what is late, counts it, and goes on: a
// picture that was skipped is not held back by the gate when it comes again.
func TestLateFramesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scenes := append(repeat(1, 10), repeat(7, 20)...) // at 4 a second; all from the second on are one picture
		src := &testSource{scenes: scenes, pace: make(chan struct{})}
		w := newWorld(t, map[string]*testSource{"a": src})
		w.model.gate = make(chan struct{})
		s := NewStream(stream("a"), w.deps)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Run(t.Context()); err != nil {
				t.Error(err)
			}
		})
		src.pace <- struct{}{}
		w.model.gate <- struct{}{} // the first is encoded
		other := func() {
			dst := &Encoded{Tokens: tensor.Make[float32](1, testInfo.Patches, testInfo.Dim), Image: tensor.Make[float32](1, testInfo.Embed), Distance: make([]float32, 1)}
			f := &media.Frame{}
			f.Reset(8, 8)
			if err := w.deps.Batcher.Encode(t.Context(), f, dst); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		wg.Go(other)
		synctest.Wait() // another stream's frame is in the encoder
		for range 3 {
			src.pace <- struct{}{}
			time.Sleep(250 * time.Millisecond)
		}
		close(w.model.gate)
		synctest.Wait()
		if sn := s.Snapshot(); sn.Skipped[SkipLate] != 1 || sn.Encoded != 2 || sn.Looked != 2 {
			t.Errorf("skipped %v, encoded %d of %d", sn.Skipped, sn.Encoded, sn.Looked)
		}
		close(src.pace)
		wg.Wait()
	})
}
