//go:build !race

package engine // the race detector lets pools forget what they hold

import (
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
)

// A frame that is looked at allocates nothing in Go, from the gate through
// encoder, temporal memory and session, with an old frame leaving the window.
func TestAFrameAllocatesNothing(t *testing.T) {
	e, deps := open(t)
	i := e.Models.Info
	lookAllocatesNothing(t, e.Models, deps.Batcher, i.Width, i.Height)
}

// Nor does one that a public model looks at, which it does at the source's size, when
// some of the tokens of the frame before it are left out.
func TestAPublicFrameAllocatesNothing(t *testing.T) {
	for _, name := range []string{"smolvlm-a", "llava_next-a", "llava_onevision-a", "clip-a"} {
		t.Run(name, func(t *testing.T) {
			e, b, end := public(t, name, 1, 0.5)
			defer end()
			lookAllocatesNothing(t, e.Models, b, 160, 90)
		})
	}
}

func lookAllocatesNothing(t *testing.T, m *pipeline.Models, b *pipeline.Batcher, w, h int) {
	t.Helper()
	l, err := pipeline.NewLooker(m, b, 1.5)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var f media.Frame
	f.Reset(w, h)
	n, ctx := 0, t.Context()
	look := func() {
		n++
		for k := range f.Pix { // nothing stands still
			f.Pix[k] = uint8(40*n + k/(3*16))
		}
		f.Seq, f.At = uint64(n), media.At(time.Time{}, time.Duration(n)*250*time.Millisecond)
		seen, err := l.Look(ctx, &f)
		if err != nil || !seen.Encoded {
			t.Fatalf("frame %d: %+v, %v", n, seen, err)
		}
	}
	for range 2*m.Info.Window + 2 {
		look()
	}
	if got := testing.AllocsPerRun(20, look); got != 0 {
		t.Errorf("%v allocations a frame", got)
	}
}
