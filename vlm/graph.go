package vlm

import (
	"context"
	"fmt"
	"slices"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/tensor"
)

func has(list []ort.Info, name string) (ort.Info, bool) {
	i := slices.IndexFunc(list, func(x ort.Info) bool { return x.Name == name })
	if i < 0 {
		return ort.Info{}, false
	}
	return list[i], true
}

// call is one run of a graph with inputs and outputs that change shape. Public
// graphs take and give float32 or float16; callers see float32 only.
type call struct {
	b    *ort.Binding
	s    *ort.Session
	err  error
	back []func()
}

func newCall(s *ort.Session) *call {
	b, err := s.NewBinding()
	return &call{b: b, s: s, err: err}
}

func bind[T tensor.Element](c *call, name string, data []T, shape ...int) {
	if c.err == nil {
		c.err = ort.Bind(c.b, name, tensor.View[T]{Shape: shape, Data: data})
	}
}

// floats binds data as the graph wants it. Outputs are copied back by run.
func (c *call) floats(name string, data []float32, shape ...int) {
	info, given := has(c.s.Inputs, name)
	if !given {
		info, _ = has(c.s.Outputs, name)
	}
	p := portOf(info, data[:tensor.Shape(shape).Len()])
	if given {
		p.load()
	} else if p.half != nil {
		c.back = append(c.back, p.store)
	}
	c.bindPort(name, p, shape...)
}

func (c *call) bindPort(name string, p *port, shape ...int) {
	if c.err == nil {
		c.err = p.bind(c.b, name, shape...)
	}
}

// port is the memory behind an input or output.
type port struct {
	data []float32
	half []uint16 // what is bound, where the graph wants that
}

func portOf(i ort.Info, data []float32) *port {
	p := &port{data: data}
	if i.Type == "float16" {
		p.half = make([]uint16, max(1, len(data)))
	}
	return p
}

func (p *port) load() {
	for i := range p.half {
		p.half[i] = toHalf(p.data[i])
	}
}

func (p *port) store() {
	for i, h := range p.half {
		p.data[i] = fromHalf(h)
	}
}

func (p *port) bind(b *ort.Binding, name string, shape ...int) error {
	if p.half != nil {
		return ort.Bind(b, name, tensor.View[uint16]{Shape: shape, Data: p.half})
	}
	return ort.Bind(b, name, tensor.View[float32]{Shape: shape, Data: p.data})
}

func (c *call) run(ctx context.Context) error {
	if c.err == nil {
		c.err = c.b.Run(ctx)
	}
	if c.err == nil {
		for _, f := range c.back {
			f()
		}
	}
	c.back = c.back[:0]
	return c.err
}

// step runs what stays bound, and is never stopped. Callers have put into it what it reads.
func (c *call) step(ctx context.Context) error {
	err := c.b.Step(ctx)
	for _, f := range c.back {
		f()
	}
	return err
}

// renew lets go of the error of a run: the next one binds all of it anew. A call
// that never had a binding keeps its error.
func (c *call) renew() {
	if c.b != nil {
		c.err = nil
	}
}

func (c *call) close() {
	if c.b != nil {
		if err := c.b.Close(); c.err == nil {
			c.err = err
		}
	}
}

// dim is the extent of an axis, or fallback where the graph leaves it open.
func dim(i ort.Info, axis, fallback int) int {
	if axis < len(i.Shape) && i.Shape[axis] > 0 {
		return i.Shape[axis]
	}
	return fallback
}

// known complains of inputs that nobody here would fill.
func known(s *ort.Session, names ...string) error {
	for _, in := range s.Inputs {
		if !slices.Contains(names, in.Name) {
			return fmt.Errorf("vlm: %s asks for an input %q that is not known: the export is of another kind", s.Name(), in.Name)
		}
	}
	return nil
}
