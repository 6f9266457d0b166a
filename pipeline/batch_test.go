package pipeline

import (
	"context"
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
