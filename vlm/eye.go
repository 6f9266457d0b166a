package vlm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lookout-video/lookout/encoder/vision"
	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/tensor"
)

// eye is a vision graph bound to memory for n tiles of w by h pixels. Public
// graphs take and give float32 or float16; callers see float32 only.
type eye struct {
	n, w, h int
	b       *ort.Binding
	pixels  *port
	outputs []*port
}

func newPort(b *ort.Binding, i ort.Info, shape ...int) (*port, error) {
	p := portOf(i, make([]float32, tensor.Shape(shape).Len()))
	return p, p.bind(b, i.Name, shape...)
}

// newEye binds s. shapes has the outputs' names and shapes, in the eye's order.
func newEye(s *ort.Session, n, w, h int, outputs []string, shapes ...tensor.Shape) (_ *eye, err error) {
	e := &eye{n: n, w: w, h: h}
	if e.b, err = s.NewBinding(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.b.Close())
		}
	}()
	in, ok := has(s.Inputs, "pixel_values")
	if !ok {
		return nil, fmt.Errorf("vlm: %s takes no pixel_values", s.Name())
	}
	shape := []int{n, 3, h, w}
	if len(in.Shape) == 5 {
		shape = []int{1, n, 3, h, w}
	}
	if e.pixels, err = newPort(e.b, in, shape...); err != nil {
		return nil, err
	}
	if _, ok := has(s.Inputs, "pixel_attention_mask"); ok {
		if err = ort.Bind(e.b, "pixel_attention_mask", tensor.View[uint8]{Shape: tensor.Shape{1, n, h, w}, Data: slices.Repeat([]byte{1}, n*h*w)}); err != nil {
			return nil, err
		}
	}
	for i, name := range outputs {
		out, _ := has(s.Outputs, name)
		p, err := newPort(e.b, out, shapes[i]...)
		if err != nil {
			return nil, err
		}
		e.outputs = append(e.outputs, p)
	}
	return e, nil
}

// look runs the graph over tiles. What it gives is in the outputs until the
// next look.
func (e *eye) look(ctx context.Context, tiles []vision.Image, pre *vision.Config) error {
	all := e.pixels.data[:0]
	for _, t := range tiles {
		all = pre.Pixels(all, t)
	}
	e.pixels.load()
	if err := e.b.Run(ctx); err != nil {
		return fmt.Errorf("vlm: look at a picture: %w", err)
	}
	for _, p := range e.outputs {
		p.store()
	}
	return nil
}

// front looks at the frames of streams, which come one by one and are alike: its
// memory and its eye stay, and nothing is allocated.
type front struct {
	pre     *vision.Config
	prepare func(*vision.Work, vision.Image) (vision.Image, error)
	open    func(n, w, h int) (*eye, error)

	turn chan struct{} // frames take turns; what is below is for the one that has it
	work vision.Work
	tile [1]vision.Image
	e    *eye
}

func newFront(pre *vision.Config, prepare func(*vision.Work, vision.Image) (vision.Image, error), open func(n, w, h int) (*eye, error)) *front {
	return &front{pre: pre, prepare: prepare, open: open, turn: make(chan struct{}, 1)}
}

// begin waits for the turn; end gives it back.
func (f *front) begin(ctx context.Context) error {
	select {
	case f.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("vlm: look at a picture: %w", ctx.Err())
	}
}

func (f *front) end() { <-f.turn }

// look gives the eye that has looked at m, until end.
func (f *front) look(ctx context.Context, m vision.Image) (*eye, error) {
	f.work.Reset()
	var err error
	if f.tile[0], err = f.prepare(&f.work, m); err != nil {
		return nil, err
	}
	w, h := f.tile[0].W, f.tile[0].H
	if f.e != nil && (f.e.w != w || f.e.h != h) { // a model without a size of its own
		if err := f.e.b.Close(); err != nil {
			return nil, err
		}
		f.e = nil
	}
	if f.e == nil {
		if f.e, err = f.open(1, w, h); err != nil {
			return nil, err
		}
	}
	return f.e, f.e.look(ctx, f.tile[:], f.pre)
}
