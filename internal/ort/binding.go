package ort

import (
	"context"
	"fmt"
	"sync"
	"unsafe"

	ortgo "github.com/yalue/onnxruntime_go"

	"github.com/lookout-video/lookout/tensor"
)

// Binding is a graph with a slice behind each of its inputs and outputs: fill
// the inputs, Run, read the outputs. The same slice may stand behind an input
// and an output, as a KV cache does. It is used by one goroutine at a time.
//
// The library keeps the slices' addresses between runs. They stay valid because
// the Binding holds the slices and Go does not move what is on its heap.
type Binding struct {
	s  *Session
	io *ortgo.IoBinding

	mu     sync.Mutex // held while running, so that Close waits
	ins    []ortgo.Value
	outs   []ortgo.Value
	stop   *stopper // nil before the first run that can be stopped
	ready  bool
	closed bool
}

// NewBinding makes a Binding with nothing bound.
func (s *Session) NewBinding() (*Binding, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	io, err := s.s.CreateIoBinding()
	if err != nil {
		return nil, fmt.Errorf("ort: bind %s: %w", s.name, err)
	}
	b := &Binding{s: s, io: io, ins: make([]ortgo.Value, len(s.Inputs)), outs: make([]ortgo.Value, len(s.Outputs))}
	s.bindings[b] = struct{}{}
	return b, nil
}

// Bind puts v behind the input or output called name, in place of what was
// there. Type and shape must be the graph's; uint16 also holds float16 and
// bfloat16 bits, and uint8 bools. v.Data may be longer than the shape needs; a
// shape without elements (an empty past) still needs one to point at.
func Bind[T tensor.Element](b *Binding, name string, v tensor.View[T]) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	list, slot := b.s.Inputs, b.ins
	i, err := find(list, name)
	if err != nil {
		list, slot = b.s.Outputs, b.outs
		if i, err = find(list, name); err != nil {
			return fmt.Errorf("ort: %s has no input or output %q (it takes %s and gives %s)", b.s.name, name, names(b.s.Inputs), names(b.s.Outputs))
		}
	}
	info := list[i]
	if !holds[T](info.code) || !info.accepts(v.Shape) {
		return fmt.Errorf("ort: %s: %q is %v in the graph, got %T%v", b.s.name, name, info, *new(T), v.Shape)
	}
	if len(v.Data) < max(1, v.Shape.Len()) {
		return fmt.Errorf("ort: %s: %q needs %d elements, got %d", b.s.name, name, max(1, v.Shape.Len()), len(v.Data))
	}
	val, err := newValue(info.code, v)
	if err != nil {
		return fmt.Errorf("ort: %s: bind %q: %w", b.s.name, name, err)
	}
	if &slot[0] == &b.ins[0] {
		err = b.io.BindInput(name, val)
	} else {
		err = b.io.BindOutput(name, val)
	}
	if err != nil {
		free(val)
		return fmt.Errorf("ort: %s: bind %q: %w", b.s.name, name, err)
	}
	if slot[i] != nil {
		free(slot[i])
	}
	slot[i], b.ready = val, false
	return nil
}

func holds[T tensor.Element](code uint64) bool {
	switch any(*new(T)).(type) {
	case float32:
		return code == codeFloat32
	case uint8:
		return code == codeUint8 || code == codeBool
	case int32:
		return code == codeInt32
	case int64:
		return code == codeInt64
	case uint16:
		return code == codeUint16 || code == codeFloat16 || code == codeBFloat16
	}
	return false
}

func newValue[T tensor.Element](code uint64, v tensor.View[T]) (ortgo.Value, error) {
	shape := make(ortgo.Shape, len(v.Shape))
	for i, d := range v.Shape {
		shape[i] = int64(d)
	}
	if len(shape) == 0 {
		return ortgo.NewScalar(v.Data[0])
	}
	if code == codeBool {
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&v.Data[0])), max(1, v.Shape.Len()))
		return ortgo.NewCustomDataTensor(shape, raw, ortgo.TensorElementDataType(code))
	}
	if code == codeFloat16 || code == codeBFloat16 {
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&v.Data[0])), 2*max(1, v.Shape.Len()))
		return ortgo.NewCustomDataTensor(shape, raw, ortgo.TensorElementDataType(code))
	}
	return ortgo.NewTensor(shape, v.Data)
}

// Run computes the outputs. When ctx ends while waiting for a turn nothing is
// run. When it ends later, a run that is Stoppable (see Options) is told to stop
// and Run returns ctx's error once it has; any other goes to its end. Either way
// the slices are the caller's again. It allocates nothing.
func (b *Binding) Run(ctx context.Context) error {
	if ctx.Done() == nil || !b.s.stops {
		return b.Step(ctx)
	}
	return b.turn(ctx, (*Binding).stoppable)
}

// Step is Run that is never stopped.
func (b *Binding) Step(ctx context.Context) error { return b.turn(ctx, (*Binding).whole) }

func (b *Binding) turn(ctx context.Context, run func(*Binding, context.Context) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if !b.ready {
		if err := b.complete(); err != nil {
			return err
		}
	}
	if err := b.s.env.acquire(ctx, b.s.threads); err != nil {
		return fmt.Errorf("ort: run %s: %w", b.s.name, err)
	}
	defer b.s.env.release(b.s.threads)
	if err := run(b, ctx); err != nil {
		return fmt.Errorf("ort: run %s: %w", b.s.name, err)
	}
	return nil
}

func (b *Binding) whole(context.Context) error { return b.s.s.RunWithBinding(b.io) }

func (b *Binding) stoppable(ctx context.Context) (err error) {
	if b.stop == nil {
		if b.stop, err = b.newStopper(); err != nil {
			return err
		}
	}
	return b.stop.run(ctx)
}

// complete reports what is not bound yet.
func (b *Binding) complete() error {
	for i, v := range b.ins {
		if v == nil {
			return fmt.Errorf("ort: %s: input %q is not bound", b.s.name, b.s.Inputs[i].Name)
		}
	}
	for i, v := range b.outs {
		if v == nil {
			return fmt.Errorf("ort: %s: output %q is not bound", b.s.name, b.s.Outputs[i].Name)
		}
	}
	b.ready = true
	return nil
}

// Close waits for the run in progress and lets go of the slices.
func (b *Binding) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	b.s.mu.Lock()
	delete(b.s.bindings, b)
	b.s.mu.Unlock()
	if b.stop != nil {
		b.stop.close()
	}
	free(b.io)
	for _, list := range [][]ortgo.Value{b.ins, b.outs} {
		for i, v := range list {
			if v != nil {
				free(v)
				list[i] = nil
			}
		}
	}
	return nil
}

// free lets go of what the library holds. Destroy fails only on what was freed
// before.
func free(v interface{ Destroy() error }) { _ = v.Destroy() }
