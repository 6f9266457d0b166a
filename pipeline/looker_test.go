package pipeline

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lookout-video/lookout/media"
)

// running gives a Batcher that serves until the test ends.
func running(t *testing.T, m *testModel) *Batcher {
	b := NewBatcher(m, testInfo, 1)
	ctx, stop := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = b.Run(ctx) })
	t.Cleanup(func() { stop(); run.Wait() })
	return b
}

// TestExpectedFramesAreSeenTheSame looks at frames with and without telling what
// comes, and at some that were not told of, or told of and never shown.
func TestExpectedFramesAreSeenTheSame(t *testing.T) {
	m := &testModel{}
	models := &Models{Info: testInfo, Encoder: m, NewSession: func() (Session, error) { return &testSession{m: m, asked: new(atomic.Int32)}, nil },
		NewMemory: func() (StreamMemory, error) { return &testMemory{last: -1}, nil }}
	b := running(t, m)
	scenes := []uint8{10, 10, 20, 20, 20, 30, strange, strange, strange, strange, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 20}
	// told[i] is which of scenes, behind i, is said to follow; none when it is 0.
	for name, told := range map[string]func(i int) int{
		"never": func(int) int { return 0 }, "always": func(int) int { return 1 }, "at times": func(i int) int { return i % 2 },
		"what does not come": func(i int) int { return i % 3 },
	} {
		t.Run(name, func(t *testing.T) {
			plain, err := NewLooker(models, b, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			l, err := NewLooker(models, b, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			frames := make([]*media.Frame, len(scenes))
			for i, v := range scenes {
				frames[i] = new(media.Frame)
				frames[i].Reset(testInfo.Width, testInfo.Height)
				for j := range frames[i].Pix {
					frames[i].Pix[j] = v
				}
			}
			for i, f := range frames {
				if k := told(i); k > 0 && i+k < len(frames) {
					l.Expect(frames[i+k])
				}
				want, err := plain.Look(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				got, err := l.Look(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				if got.Novelty != want.Novelty || got.Distance != want.Distance || got.OutOfDomain != want.OutOfDomain || got.Picture.Image[0] != want.Picture.Image[0] {
					t.Fatalf("frame %d: %+v, want %+v", i, got, want)
				}
				if name != "what does not come" && (got.Encoded != want.Encoded || got.Settled != want.Settled) { // after such a one nothing is known to be still
					t.Fatalf("frame %d: encoded %v, settled %v, want %v and %v", i, got.Encoded, got.Settled, want.Encoded, want.Settled)
				}
				if i == 12 {
					for _, l := range []*Looker{plain, l} {
						if err := l.Reset(); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		})
	}
}

// TestTheExpectedFrameIsEncodedAhead sees the encoder take up a frame before its Look.
func TestTheExpectedFrameIsEncodedAhead(t *testing.T) {
	m := &testModel{gate: make(chan struct{})}
	b := running(t, m)
	l, err := NewLooker(&Models{Info: testInfo, Encoder: m, NewSession: func() (Session, error) { return &testSession{m: m}, nil }}, b, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	one, two := new(media.Frame), new(media.Frame)
	for _, f := range []*media.Frame{one, two} {
		f.Reset(testInfo.Width, testInfo.Height)
	}
	go func() { m.gate <- struct{}{} }()
	l.Expect(two)
	if _, err := l.Look(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	m.gate <- struct{}{} // taken by nobody but the encoding of two, which no Look has asked for
}
