// Package temporal gives frames a past: attention over the last frames of the
// same patch place, kept as a ring of keys and values that belongs to the
// stream, so that a new frame costs one frame. It also tells how much of a
// frame is new.
package temporal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/tensor"
)

// ErrClosed is returned by Step on a closed Stream.
var ErrClosed = errors.New("temporal: stream is closed")

// Module is the loaded graph. Its streams may step from many goroutines.
type Module struct {
	layers, window, patches, dim, tokens, width int
	fps                                         float64
	s                                           *ort.Session
}

// Open loads the bundle's temporal module.
func Open(b *model.Bundle, env *ort.Env) (*Module, error) {
	m := &b.Manifest
	mod := &Module{
		layers: m.Temporal.Layers, window: m.Temporal.Window, patches: m.Encoder.Patches, dim: m.Encoder.Dim,
		tokens: m.Temporal.TokensPerFrame, width: m.Temporal.Width, fps: m.Image.SampleFPS,
	}
	outputs := []string{"visual", "state"}
	for l := range mod.layers {
		outputs = append(outputs, fmt.Sprintf("new_k.%d", l), fmt.Sprintf("new_v.%d", l))
	}
	var err error
	if mod.s, err = env.Load(b, "temporal.onnx", ort.Options{Outputs: outputs}); err != nil {
		return nil, fmt.Errorf("temporal: %s: %w", b.Name, err)
	}
	// A first step shows whether the graph fits the manifest.
	s, err := mod.NewStream()
	if err == nil {
		err = s.b.Step(context.Background())
		s.Close()
	}
	if err != nil {
		mod.s.Close()
		return nil, fmt.Errorf("%s: the graph does not fit the manifest: %w", b.Name, err)
	}
	return mod, nil
}

// Close frees the graph and its streams' bindings.
func (m *Module) Close() error { return m.s.Close() }

// Step is what one frame gave. The views are the Stream's and hold until its
// next Step.
type Step struct {
	// Visual is [tokens, width]: what the language model reads.
	Visual tensor.View[float32]
	// State is [patches, dim]: the patch tokens with their past.
	State tensor.View[float32]
	// Novelty is 0 when nothing differs from what was kept, 1 for the first
	// frame: see the package's novelty.go.
	Novelty float32
	// Kept is how many patch places differed enough to be kept anew.
	Kept int
}

// Stream is one stream's past: the ring. It is used by one goroutine at a time.
type Stream struct {
	m *Module
	b *ort.Binding

	tokens       []float32 // [P, D] in
	ringK, ringV []float32 // [L, W, P, D]
	age          []int64   // [W]: 1 is the previous frame, 0 an empty slot
	visual       []float32 // [T, C] out
	newK, newV   []float32 // [L, P, D]
	state        []float32 // [P, D]

	seen, with tensor.View[float32] // visual and state as they are handed out

	tick   int64   // of the last frame, in sample periods
	taken  []int64 // [W]: the tick of each slot's frame; 0 is empty
	last   time.Duration
	novel  novelty
	closed bool
}

// NewStream makes a Stream without a past.
func (m *Module) NewStream() (*Stream, error) {
	b, err := m.s.NewBinding()
	if err != nil {
		return nil, fmt.Errorf("temporal: %w", err)
	}
	ring, frame := m.layers*m.window*m.patches*m.dim, m.patches*m.dim
	s := &Stream{
		m: m, b: b, tokens: make([]float32, frame), ringK: make([]float32, ring), ringV: make([]float32, ring), age: make([]int64, m.window),
		visual: make([]float32, m.tokens*m.width), newK: make([]float32, m.layers*frame), newV: make([]float32, m.layers*frame), state: make([]float32, frame),
		taken: make([]int64, m.window), novel: newNovelty(m.patches, m.dim),
	}
	s.seen = tensor.View[float32]{Shape: tensor.Shape{m.tokens, m.width}, Data: s.visual}
	s.with = tensor.View[float32]{Shape: tensor.Shape{m.patches, m.dim}, Data: s.state}
	f32 := func(data []float32, shape ...int) tensor.View[float32] {
		return tensor.View[float32]{Shape: shape, Data: data}
	}
	err = errors.Join(
		ort.Bind(b, "tokens", f32(s.tokens, 1, m.patches, m.dim)),
		ort.Bind(b, "age", tensor.View[int64]{Shape: tensor.Shape{1, m.window}, Data: s.age}),
		ort.Bind(b, "visual", f32(s.visual, 1, m.tokens, m.width)),
		ort.Bind(b, "state", f32(s.state, 1, m.patches, m.dim)),
	)
	for l := range m.layers {
		past := func(all []float32) tensor.View[float32] {
			return f32(all[l*m.window*frame:][:m.window*frame], 1, m.window, m.patches, m.dim)
		}
		fresh := func(all []float32) tensor.View[float32] { return f32(all[l*frame:][:frame], 1, m.patches, m.dim) }
		err = errors.Join(err,
			ort.Bind(b, fmt.Sprintf("ring_k.%d", l), past(s.ringK)), ort.Bind(b, fmt.Sprintf("ring_v.%d", l), past(s.ringV)),
			ort.Bind(b, fmt.Sprintf("new_k.%d", l), fresh(s.newK)), ort.Bind(b, fmt.Sprintf("new_v.%d", l), fresh(s.newV)))
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("temporal: %w", err)
	}
	return s, nil
}

// Step takes one frame's patch tokens, [patches, dim]. How old the frames in
// the ring are follows from at.Media, in periods of the model's sample rate: a
// frame that was skipped ages them. Frames come in the order of at.Media; one
// that is not later counts as the next period. A failed Step leaves the past
// as it was.
func (s *Stream) Step(ctx context.Context, at media.Timestamp, tokens tensor.View[float32]) (Step, error) {
	m := s.m
	if s.closed {
		return Step{}, ErrClosed
	}
	if len(tokens.Data) != m.patches*m.dim {
		return Step{}, fmt.Errorf("temporal: tokens %v, want [%dx%d]", tokens.Shape, m.patches, m.dim)
	}
	tick := s.tick + s.periods(at.Media)
	oldest := 0
	for i, t := range s.taken {
		s.age[i] = 0
		if d := tick - t; t > 0 && d <= int64(m.window) {
			s.age[i] = d
		}
		if t < s.taken[oldest] {
			oldest = i
		}
	}
	copy(s.tokens, tokens.Data)
	if err := s.b.Step(ctx); err != nil {
		return Step{}, fmt.Errorf("temporal: %w", err)
	}
	frame := m.patches * m.dim
	for l := range m.layers {
		slot := (l*m.window + oldest) * frame
		copy(s.ringK[slot:slot+frame], s.newK[l*frame:])
		copy(s.ringV[slot:slot+frame], s.newV[l*frame:])
	}
	s.taken[oldest], s.tick, s.last = tick, tick, at.Media
	score, kept := s.novel.step(s.tokens)
	return Step{Visual: s.seen, State: s.with, Novelty: score, Kept: kept}, nil
}

// periods is how many sample periods passed since the last frame: at least one.
func (s *Stream) periods(at time.Duration) int64 {
	if s.tick == 0 {
		return 1
	}
	return max(1, int64(math.Round((at-s.last).Seconds()*s.m.fps)))
}

// Reset forgets the past.
func (s *Stream) Reset() {
	clear(s.taken)
	s.tick = 0
	s.novel.reset()
}

// Close lets go of the ring.
func (s *Stream) Close() error {
	s.closed = true
	return s.b.Close()
}
