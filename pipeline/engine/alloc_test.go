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
	l, err := pipeline.NewLooker(e.Models, deps.Batcher, 1.5)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	i := e.Models.Info
	var f media.Frame
	f.Reset(i.Width, i.Height)
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
	for range 2 * i.Window {
		look()
	}
	if got := testing.AllocsPerRun(20, look); got != 0 {
		t.Errorf("%v allocations a frame", got)
	}
}
