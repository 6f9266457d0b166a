package pipeline

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

// errStopped is what a stream gets that asks for an encode after the end.
var errStopped = errors.New("pipeline: stopped")

// errLate is what a stream gets for a frame that was not taken up in its time,
// when a newer one waits.
var errLate = errors.New("pipeline: a newer frame came before this one's turn to be encoded")

// Batcher encodes frames of several streams, together in one call of the encoder
// where that costs less. While one call runs the next batch gathers; each stream
// has at most one frame in it, so none gets more than its share.
type Batcher struct {
	enc  VisualEncoder
	info ModelInfo
	max  int
	wake chan struct{} // something was queued
	done chan struct{}
	idle sync.Pool // of *encodeRequest

	mu    sync.Mutex
	queue []*encodeRequest
	calls uint64 // begun so far

	frames   []*media.Frame
	tokens   []float32
	image    []float32
	patch    []float32
	distance []float32
}

type encodeRequest struct {
	frame    *media.Frame
	dst      *Encoded
	err      chan error
	place    *place
	deadline time.Time // zero: none
	turn     uint64    // the calls begun when it came
}

// place is a stream's in the queue.
type place struct {
	within time.Duration // in which a frame is to be taken up; 0: it may wait for ever
	newer  func() bool   // whether a newer frame waits; set when within is

	kept bool // the last frame was late: the next one has its turn
	turn uint64
}

// late tells whether r is to be sent back: its time is over, and its stream has
// a newer frame. That is never so twice in a row, or a stream beside a slow
// encoder would see nothing.
func (r *encodeRequest) late(now time.Time) bool {
	return !r.deadline.IsZero() && now.After(r.deadline) && !r.place.kept && r.place.newer()
}

// NewBatcher makes a Batcher of at most limit frames a call; under 1 means 1.
func NewBatcher(enc VisualEncoder, info ModelInfo, limit int) *Batcher {
	limit = max(limit, 1)
	patched := 0
	if info.Patched {
		patched = limit * info.Patches * info.Embed
	}
	return &Batcher{idle: sync.Pool{New: func() any { return &encodeRequest{err: make(chan error, 1)} }}, enc: enc, info: info, max: limit, patch: make([]float32, patched), wake: make(chan struct{}, 1), done: make(chan struct{}),
		tokens: make([]float32, limit*info.Patches*info.Dim), image: make([]float32, limit*info.Embed), distance: make([]float32, limit)}
}

// Run serves until ctx ends.
func (b *Batcher) Run(ctx context.Context) error {
	defer close(b.done)
	batch := make([]*encodeRequest, 0, b.max)
	for ctx.Err() == nil {
		if batch = b.next(batch[:0]); len(batch) == 0 {
			select {
			case <-ctx.Done():
			case <-b.wake:
			}
			continue
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
	return nil
}

// next takes the frames of the next call out of the queue: those passed over by
// an earlier call first, so that none is for long, and of those that came since
// the same one the earliest deadlines. Those that are late are sent back.
func (b *Batcher) next(batch []*encodeRequest) []*encodeRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.queue = slices.DeleteFunc(b.queue, func(r *encodeRequest) bool {
		if !r.late(now) {
			return false
		}
		r.err <- errLate
		return true
	})
	slices.SortStableFunc(b.queue, compareRequests)
	n := min(len(b.queue), b.max)
	if n > 0 {
		b.calls++
	}
	batch = append(batch, b.queue[:n]...)
	b.queue = slices.Delete(b.queue, 0, n)
	return batch
}

func compareRequests(a, b *encodeRequest) int {
	switch {
	case a.turn != b.turn:
		return cmp.Compare(a.turn, b.turn)
	case a.deadline.IsZero() != b.deadline.IsZero():
		if a.deadline.IsZero() {
			return 1
		}
		return -1
	}
	return a.deadline.Compare(b.deadline)
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
	return b.encodeAt(ctx, f, dst, &place{})
}

// encodeAt is Encode for a stream with a place in the queue. It gives errLate for
// a frame whose time is over before it was taken up.
func (b *Batcher) encodeAt(ctx context.Context, f *media.Frame, dst *Encoded, p *place) error {
	return b.end(ctx, b.begin(f, dst, p))
}

// begin puts f into the queue; end or drop must follow.
func (b *Batcher) begin(f *media.Frame, dst *Encoded, p *place) *encodeRequest {
	r := b.idle.Get().(*encodeRequest)
	r.frame, r.dst, r.place, r.deadline = f, dst, p, time.Time{}
	if p.within > 0 {
		r.deadline = time.Now().Add(p.within)
	}
	b.mu.Lock()
	if r.turn = b.calls; p.kept {
		r.turn = p.turn
	}
	b.queue = append(b.queue, r)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default: // it is told already
	}
	return r
}

// end waits for what begin began.
func (b *Batcher) end(ctx context.Context, r *encodeRequest) (err error) {
	defer b.idle.Put(r)
	select {
	case err = <-r.err:
	case <-ctx.Done():
		err = b.leave(r, ctx.Err())
	case <-b.done:
		err = b.leave(r, errStopped)
	}
	r.place.kept, r.place.turn = errors.Is(err, errLate), r.turn
	return err
}

// drop lets go of what begin began.
func (b *Batcher) drop(r *encodeRequest) {
	_ = b.leave(r, nil) // nobody wants it
	b.idle.Put(r)
}

// leave takes r out of the queue and gives why; a call that has r already is
// waited for.
func (b *Batcher) leave(r *encodeRequest, why error) error {
	b.mu.Lock()
	i := slices.Index(b.queue, r)
	if i >= 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
	}
	b.mu.Unlock()
	if i >= 0 {
		return why
	}
	return <-r.err
}
