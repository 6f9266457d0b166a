package pipeline

import (
	"context"
	"errors"
	"sync"

	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

// errStopped is what a stream gets that asks for an encode after the end.
var errStopped = errors.New("pipeline: stopped")

// Batcher encodes frames of several streams in one call of the encoder. While
// one call runs the next batch gathers; each stream has at most one frame in
// it, so none gets more than its share.
type Batcher struct {
	enc  VisualEncoder
	info ModelInfo
	max  int
	reqs chan *encodeRequest
	done chan struct{}
	idle sync.Pool // of *encodeRequest

	frames   []*media.Frame
	tokens   []float32
	image    []float32
	patch    []float32
	distance []float32
}

type encodeRequest struct {
	frame *media.Frame
	dst   *Encoded
	err   chan error
}

// NewBatcher makes a Batcher of at most limit frames a call.
func NewBatcher(enc VisualEncoder, info ModelInfo, limit int) *Batcher {
	limit = max(limit, 1)
	patched := 0
	if info.Patched {
		patched = limit * info.Patches * info.Embed
	}
	return &Batcher{idle: sync.Pool{New: func() any { return &encodeRequest{err: make(chan error, 1)} }}, enc: enc, info: info, max: limit, patch: make([]float32, patched), reqs: make(chan *encodeRequest), done: make(chan struct{}),
		tokens: make([]float32, limit*info.Patches*info.Dim), image: make([]float32, limit*info.Embed), distance: make([]float32, limit)}
}

// Run serves until ctx ends.
func (b *Batcher) Run(ctx context.Context) error {
	defer close(b.done)
	batch := make([]*encodeRequest, 0, b.max)
	for {
		batch = batch[:0]
		select {
		case <-ctx.Done():
			return nil
		case r := <-b.reqs:
			batch = append(batch, r)
		}
	gather:
		for len(batch) < b.max {
			select {
			case r := <-b.reqs:
				batch = append(batch, r)
			default:
				break gather
			}
		}
		err := b.encode(ctx, batch)
		if err != nil && len(batch) > 1 && ctx.Err() == nil {
			// One stream's bad frame must not cost the others theirs.
			for i := range batch {
				batch[i].err <- b.encode(ctx, batch[i:i+1])
			}
			continue
		}
		for _, r := range batch {
			r.err <- err
		}
	}
}

func (b *Batcher) encode(ctx context.Context, batch []*encodeRequest) error {
	n, p, d, e := len(batch), b.info.Patches, b.info.Dim, b.info.Embed
	b.frames = b.frames[:0]
	for _, r := range batch {
		b.frames = append(b.frames, r.frame)
	}
	if n == 1 {
		return b.enc.Encode(ctx, b.frames, batch[0].dst)
	}
	out := Encoded{Tokens: tensor.View[float32]{Shape: tensor.Shape{n, p, d}, Data: b.tokens[:n*p*d]},
		Image: tensor.View[float32]{Shape: tensor.Shape{n, e}, Data: b.image[:n*e]}, Distance: b.distance[:n]}
	if b.info.Patched {
		out.Patch = tensor.View[float32]{Shape: tensor.Shape{n, p, e}, Data: b.patch[:n*p*e]}
	}
	if err := b.enc.Encode(ctx, b.frames, &out); err != nil {
		return err
	}
	for i, r := range batch {
		copy(r.dst.Tokens.Data, out.Tokens.Data[i*p*d:])
		copy(r.dst.Image.Data, out.Image.Data[i*e:])
		if b.info.Patched {
			copy(r.dst.Patch.Data, out.Patch.Data[i*p*e:])
		}
		copy(r.dst.Distance, out.Distance[i:])
	}
	return nil
}

// Encode encodes one frame into dst, whose slices hold one frame. Once taken up
// it waits for the call to end, whatever ctx says: the call reads the frame.
func (b *Batcher) Encode(ctx context.Context, f *media.Frame, dst *Encoded) error {
	r := b.idle.Get().(*encodeRequest)
	r.frame, r.dst = f, dst
	defer b.idle.Put(r)
	select {
	case b.reqs <- r:
		return <-r.err
	case <-ctx.Done():
		return ctx.Err()
	case <-b.done:
		return errStopped
	}
}
