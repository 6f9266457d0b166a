package vlm

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lookout-video/lookout/encoder/vision"
	"github.com/lookout-video/lookout/media"
)

func (p *Pair) prepare(f *media.Frame) (vision.Image, error) { return p.tile(nil, image(f)) }

// Looking at a frame allocates nothing, for any layout, whatever sizes come by,
// and gives what it gives for that frame alone.
func TestAFrameAllocatesNothing(t *testing.T) {
	env := environment(t)
	for _, name := range []string{"smolvlm-a", "smolvlm-b", "idefics3-a", "fastvlm-a", "llava_next-a", "llava_onevision-a", "llava-a", "clip-a", "siglip-a"} {
		t.Run(name, func(t *testing.T) {
			g := unpack(t, "testdata/"+name+".tar.gz")
			var look func(f *media.Frame, dst []float32) error
			var size int
			if p, err := OpenPair(g.dir, env, Options{}); err == nil {
				defer p.Close()
				size, look = p.Width(), func(f *media.Frame, dst []float32) error { return p.EmbedImageInto(t.Context(), f, dst) }
			} else {
				m, err := Open(g.dir, env, Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				size, look = m.FrameTokens()*m.Width(), func(f *media.Frame, dst []float32) error { return m.EncodeFrameInto(t.Context(), f, dst) }
			}
			frames := []*media.Frame{picture(64, 36, 3, 0), picture(50, 70, 5, 0)}
			want := [2][]float32{}
			got := make([]float32, size)
			for i, f := range frames {
				want[i] = make([]float32, size)
				if err := look(f, want[i]); err != nil {
					t.Fatal(err)
				}
			}
			n := 0
			if allocs := testing.AllocsPerRun(10, func() {
				n++
				if err := look(frames[n%2], got); err != nil || !slices.Equal(got, want[n%2]) {
					t.Errorf("look %d differs, or %v", n, err)
				}
			}); allocs > 0 {
				t.Errorf("%v allocations a frame", allocs)
			}
			if slices.Equal(want[0], want[1]) {
				t.Error("the frames do not matter")
			}
			if err := look(frames[0], got[:size-1]); err == nil {
				t.Error("looked without room for what is seen")
			}
		})
	}
}

// Frames that are looked at from many goroutines take turns, and one that may
// wait no longer gives up.
func TestFramesTakeTurns(t *testing.T) {
	g := unpack(t, "testdata/smolvlm-a.tar.gz")
	m, err := Open(g.dir, environment(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var wg sync.WaitGroup
	for i := range 4 {
		f := picture(40+i, 30, i+1, 0)
		want, err := m.EncodeFrame(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range 5 {
				v, err := m.EncodeFrame(t.Context(), f)
				if err != nil || !slices.Equal(v.Data, want.Data) {
					t.Errorf("frame %d differs: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if err := m.front.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer m.front.end()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := m.EncodeFrame(ctx, picture(40, 30, 1, 0)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("did not wait: %v", err)
	}
}
