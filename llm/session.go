package llm

import (
	"context"
	"errors"
	"fmt"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/tensor"
)

// keptPlans is how many prompt lengths keep their bindings between runs.
const keptPlans = 16

// Session is one stream's conversation: a KV cache of fixed size that holds
// <|bos|>, then the last frames. Appending to a full window evicts the oldest
// frame's block: what is behind it moves down and its keys are turned back, so
// an update costs the same after a day as after a minute. It may be called
// from many goroutines, which take turns.
type Session struct {
	m *Model

	turn   chan struct{}
	closed bool // guarded by turn, as all below

	keys, values [][]float32 // a layer each: [kvHeads, maxContext, headDim]
	mask         []int64     // [maxContext]: 1 for the tokens in the cache and in the run
	id           []int64     // the token of a run of one
	x            []float32   // embeddings of the run, [n, width]
	logits       []float32
	plans        map[int]*plan
	sampler      sampler
	spoken       []int // tokens of the answer so far

	seen      []float32 // visual tokens of the frames in the window, oldest first
	recompute bool

	len    int // tokens in the cache
	frames int // among them
	era    int // counts what makes marks invalid
}

// plan is the bindings of runs of n tokens. That which embeds is there where n is 1.
type plan struct{ embed, run *ort.Binding }

// Mark is a place in a Session to come back to.
type Mark struct{ len, frames, era int }

// NewSession makes a Session without frames.
func (m *Model) NewSession() (*Session, error) {
	d := m.dec
	rows := 1
	if m.rows == 0 {
		rows = d.MaxContext
	}
	s := &Session{
		m: m, turn: make(chan struct{}, 1), mask: make([]int64, d.MaxContext), x: make([]float32, d.MaxContext*d.Width),
		logits: make([]float32, rows*d.Vocab), plans: map[int]*plan{}, id: make([]int64, 1), spoken: make([]int, 0, d.MaxContext),
		seen: make([]float32, d.FramesInWindow*m.perFrame*d.Width),
	}
	for range d.Layers {
		s.keys = append(s.keys, make([]float32, d.KVHeads*d.MaxContext*d.HeadDim))
		s.values = append(s.values, make([]float32, d.KVHeads*d.MaxContext*d.HeadDim))
	}
	if err := s.step(context.Background(), m.ids.BOS); err != nil {
		s.Close()
		return nil, fmt.Errorf("llm: %s: %w", m.name, err)
	}
	return s, nil
}

// take waits for this goroutine's turn.
func (s *Session) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("llm: %w", ctx.Err())
	}
	if s.closed {
		s.give()
		return ErrClosed
	}
	return nil
}

func (s *Session) give() { <-s.turn }

// plan gives the bindings for runs of n tokens. Past and present are one
// buffer: the decoder writes behind what is there and copies nothing.
func (s *Session) plan(n int) (*plan, error) {
	if p := s.plans[n]; p != nil {
		return p, nil
	}
	if len(s.plans) >= keptPlans {
		for k, p := range s.plans { // any but the two that every frame needs
			if k != 1 && k != 1+s.m.perFrame {
				p.close()
				delete(s.plans, k)
				break
			}
		}
	}
	d := s.m.dec
	p := &plan{}
	var err error
	if p.run, err = s.m.decoder.NewBinding(); err != nil {
		return nil, err
	}
	x := tensor.View[float32]{Shape: tensor.Shape{1, n, d.Width}, Data: s.x}
	rows := 1
	if s.m.rows == 0 {
		rows = n
	}
	errs := []error{
		ort.Bind(p.run, "inputs_embeds", x),
		// The mask always has the buffer's length: the tokens are counted by its
		// ones, and one binding serves every length of the past.
		ort.Bind(p.run, "attention_mask", tensor.View[int64]{Shape: tensor.Shape{1, d.MaxContext}, Data: s.mask}),
		ort.Bind(p.run, "logits", tensor.View[float32]{Shape: tensor.Shape{1, rows, d.Vocab}, Data: s.logits}),
	}
	for i := range d.Layers {
		shape := tensor.Shape{1, d.KVHeads, d.MaxContext, d.HeadDim}
		errs = append(errs, bindCache(p.run, i, "key", tensor.View[float32]{Shape: shape, Data: s.keys[i]}), bindCache(p.run, i, "value", tensor.View[float32]{Shape: shape, Data: s.values[i]}))
	}
	if n == 1 {
		if p.embed, err = s.m.embed.NewBinding(); err == nil {
			err = errors.Join(ort.Bind(p.embed, "input_ids", tensor.View[int64]{Shape: tensor.Shape{1, 1}, Data: s.id}), ort.Bind(p.embed, "inputs_embeds", x))
		}
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		p.close()
		return nil, err
	}
	s.plans[n] = p
	return p, nil
}

func (p *plan) close() {
	for _, b := range []*ort.Binding{p.embed, p.run} {
		if b != nil {
			b.Close()
		}
	}
}

// hear takes words into the cache and leaves the last one's logits.
func (s *Session) hear(ctx context.Context, w *words) error {
	p, err := s.plan(len(w.ids))
	if err != nil {
		return err
	}
	copy(s.x, w.x)
	return s.run(ctx, p, len(w.ids))
}

// run takes the n embeddings in x into the cache. When it fails the cache is
// as it was: what a stopped run wrote lies behind its end.
func (s *Session) run(ctx context.Context, p *plan, n int) error {
	if s.len+n > s.m.dec.MaxContext {
		return fmt.Errorf("llm: %d tokens do not fit behind %d in a context of %d", n, s.len, s.m.dec.MaxContext)
	}
	for i := range s.mask {
		s.mask[i] = 0
		if i < s.len+n {
			s.mask[i] = 1
		}
	}
	step := p.run.Run
	if n == 1 {
		step = p.run.Step
	}
	if err := step(ctx); err != nil {
		return err
	}
	s.len += n
	return nil
}

// last is the logits of the last token of a run of n.
func (s *Session) last(n int) []float32 {
	if s.m.rows == 1 {
		n = 1
	}
	return s.logits[(n-1)*s.m.dec.Vocab : n*s.m.dec.Vocab]
}

// AppendFrame adds one frame's visual tokens, [tokens, width], in one run. When
// the window is full the oldest frame leaves it first.
func (s *Session) AppendFrame(ctx context.Context, visual tensor.View[float32]) error {
	d := s.m.dec
	if !visual.Shape.Equal(tensor.Shape{s.m.perFrame, d.Width}) {
		if len(visual.Shape) == 2 && visual.Shape[1] != d.Width {
			return fmt.Errorf("%w: %s: a visual token has width %d, the decoder takes %d", ErrWidth, s.m.name, visual.Shape[1], d.Width)
		}
		return fmt.Errorf("llm: %s: a frame of visual tokens is %v, want [%dx%d]", s.m.name, visual.Shape, s.m.perFrame, d.Width)
	}
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	again := 0 // frames to read once more, before the new one
	if s.frames == d.FramesInWindow {
		s.evict()
		if s.recompute {
			again = s.frames
			s.len, s.frames = 1, 0
		}
	}
	size := s.m.perFrame * d.Width
	copy(s.seen[(s.frames+again)*size:], visual.Data)
	n := (again + 1) * (1 + s.m.perFrame)
	p, err := s.plan(n)
	if err == nil {
		for i := range again + 1 {
			x := s.x[i*(size+d.Width):]
			copy(x, s.m.frame)
			copy(x[d.Width:], s.seen[(s.frames+i)*size:(s.frames+i+1)*size])
		}
		err = s.run(ctx, p, n)
	}
	if err != nil {
		return fmt.Errorf("llm: append frame: %w", err)
	}
	s.frames += again + 1
	return nil
}

// Recompute makes the session read its whole window anew whenever the oldest
// frame leaves it, where it would move what is cached. The frames that stay
// then forget what they saw of the one that left, as in training; an update
// costs a window in place of a frame.
func (s *Session) Recompute(on bool) {
	s.turn <- struct{}{}
	defer s.give()
	s.recompute = on
}

// evict cuts the oldest frame's block out of the cache.
func (s *Session) evict() {
	d := s.m.dec
	block := 1 + s.m.perFrame
	from, to, kept := 1+block, 1, s.len-1-block // <|bos|> stays: attention rests on it
	for l := range d.Layers {
		for h := range d.KVHeads {
			head := h * d.MaxContext * d.HeadDim
			for _, cache := range [][]float32{s.keys[l], s.values[l]} {
				c := cache[head : head+d.MaxContext*d.HeadDim]
				copy(c[to*d.HeadDim:], c[from*d.HeadDim:(from+kept)*d.HeadDim])
			}
			s.m.turn(s.keys[l][head+to*d.HeadDim : head+(to+kept)*d.HeadDim])
		}
	}
	copy(s.seen, s.seen[s.m.perFrame*d.Width:])
	s.len -= block
	s.frames--
	s.era++
}

// Frames is how many frames are in the window.
func (s *Session) Frames() int {
	s.turn <- struct{}{}
	defer s.give()
	return s.frames
}

// Mark is the place that the session is at.
func (s *Session) Mark() Mark {
	s.turn <- struct{}{}
	defer s.give()
	return Mark{s.len, s.frames, s.era}
}

// Rewind takes back all that was appended since the mark. Once a frame was
// evicted it is too late: ErrMark.
func (s *Session) Rewind(m Mark) error {
	s.turn <- struct{}{}
	defer s.give()
	return s.rewind(m)
}

func (s *Session) rewind(m Mark) error {
	if m.era != s.era || m.len > s.len || m.len < 1 {
		return ErrMark
	}
	s.len, s.frames = m.len, m.frames
	return nil
}

// Reset takes all frames out of the window.
func (s *Session) Reset() {
	s.turn <- struct{}{}
	defer s.give()
	s.len, s.frames = min(s.len, 1), 0
	s.era++
}

// Close waits for the call in progress and lets go of the cache.
func (s *Session) Close() error {
	s.turn <- struct{}{}
	defer s.give()
	s.closed = true
	for n, p := range s.plans {
		p.close()
		delete(s.plans, n)
	}
	return nil
}
