// Package engine fills the pipeline's contracts with the real stages: sources
// from ingest, eyes from encoder and temporal, words from llm. The stages do
// not know each other; the types they share are fitted together here.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/encoder"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/llm"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/temporal"
	"github.com/lookout-video/lookout/tensor"
)

// Engine is a loaded model with the runtime under it.
type Engine struct {
	Models  *pipeline.Models
	Runtime *ort.Env
	// Bundle is nil when the model is a public one.
	Bundle *model.Bundle

	mu    sync.Mutex
	parts []io.Closer // in the order they were opened
	push  pushes
}

// Open loads what the configuration names. Only one Engine may be open in a
// process.
func Open(c configs.Config, log *slog.Logger) (_ *Engine, err error) {
	env, err := ort.Open(ort.Config{Device: c.Device, Threads: c.Threads, CacheDir: PreparedDir(), Logger: log})
	if err != nil {
		return nil, err
	}
	e := &Engine{Runtime: env, push: pushes{m: map[string]*pushed{}}}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	if c.LLM.Backend == "openai" {
		if err := e.openRemote(c); err != nil {
			return nil, err
		}
		return e, nil
	}
	if err := e.open(c); err != nil {
		return nil, err
	}
	return e, nil
}

// open loads the local model that c names, as its files' layout asks.
func (e *Engine) open(c configs.Config) (err error) {
	layout := model.Lookout
	if c.Model != "" {
		if c.Model, err = ModelPath(c.Model); err != nil {
			return err
		}
		if layout, err = model.Detect(c.Model); err != nil {
			return err
		}
	}
	switch layout {
	case model.Lookout:
		return e.openBundle(c)
	case model.CLIP, model.SigLIP:
		return e.openPair(c)
	}
	return e.openPublic(c)
}

// Load loads one more model beside the Engine's own, for streams that name it.
// It is freed with the Engine.
func (e *Engine) Load(c configs.Config) (*pipeline.Models, error) {
	one := &Engine{Runtime: e.Runtime}
	if err := one.open(c); err != nil {
		for i := len(one.parts) - 1; i >= 0; i-- {
			err = errors.Join(err, one.parts[i].Close())
		}
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.parts = append(e.parts, one.parts...)
	return one.Models, nil
}

// openBundle loads a model of our own layout.
func (e *Engine) openBundle(c configs.Config) (err error) {
	if c.Model == "" {
		e.Bundle, err = model.Default()
	} else {
		e.Bundle, err = model.Open(c.Model)
	}
	if err != nil {
		return err
	}
	see, err := keep(e, encoder.Open, e.Bundle)
	if err != nil {
		return err
	}
	text, err := keep(e, encoder.OpenText, e.Bundle)
	if err != nil {
		return err
	}
	past, err := keep(e, temporal.Open, e.Bundle)
	if err != nil {
		return err
	}
	words, err := keep(e, llm.Open, e.Bundle)
	if err != nil {
		return err
	}
	m := e.Bundle.Manifest
	batch := 0 // on a CPU eight frames take as long as eight times one, or longer, and a single frame is not copied
	if e.Runtime.Device() != "cpu" {
		batch = encoder.MaxBatch
	}
	e.Models = &pipeline.Models{
		Info: pipeline.ModelInfo{
			Name: e.Bundle.Name, Hash: e.Bundle.Hash, Width: m.Image.Width, Height: m.Image.Height, FPS: m.Image.SampleFPS, Window: m.Decoder.FramesInWindow,
			Patches: m.Encoder.Patches, Dim: m.Encoder.Dim, Embed: m.Encoder.Embed, Patched: true, Changes: true, SpeakAt: speakAt, Labels: m.Clip.Labels,
			DomainThreshold: float32(m.Domain.Threshold), Domain: m.Domain.Description, Batch: batch,
		},
		Encoder:    eyes{see},
		Labeler:    &labeler{text: text},
		NewMemory:  func() (pipeline.StreamMemory, error) { return newMemory(past) },
		NewSession: func() (pipeline.Session, error) { return newSession(words) },
	}
	return nil
}

// keep opens a part of a bundle and remembers to close it.
func keep[T io.Closer](e *Engine, open func(*model.Bundle, *ort.Env) (T, error), b *model.Bundle) (T, error) {
	part, err := open(b, e.Runtime)
	if err == nil {
		e.parts = append(e.parts, part)
	}
	return part, err
}

// speakAt is the novelty under which nothing is said. Of the yard's frames in
// which something is going on nearly all lie above it, of idle ones below.
const speakAt = 0.02

// PreparedDir is where graphs prepared for this machine are kept; none when the
// user has no cache folder.
func PreparedDir() string {
	d, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(d, "lookout", "graphs")
}

// Close frees the model. No stream may run any more.
func (e *Engine) Close() error {
	var errs []error
	for i := len(e.parts) - 1; i >= 0; i-- {
		errs = append(errs, e.parts[i].Close())
	}
	return errors.Join(append(errs, e.Runtime.Close())...)
}

type eyes struct{ e *encoder.Encoder }

func (a eyes) Encode(ctx context.Context, frames []*media.Frame, dst *pipeline.Encoded) error {
	return a.e.Encode(ctx, frames, &encoder.Output{Tokens: dst.Tokens, Image: dst.Image, PatchEmbed: dst.Patch, Distance: dst.Distance})
}

type memory struct{ *temporal.Stream }

func newMemory(m *temporal.Module) (pipeline.StreamMemory, error) {
	s, err := m.NewStream()
	if err != nil {
		return nil, err
	}
	return memory{s}, nil
}

func (m memory) Step(ctx context.Context, at media.Timestamp, tokens tensor.View[float32]) (pipeline.Step, error) {
	st, err := m.Stream.Step(ctx, at, tokens)
	return pipeline.Step{Visual: st.Visual, Novelty: st.Novelty}, err
}

// labeler keeps the embeddings of the labels in use: they change rarely and are
// asked for at each frame.
type labeler struct {
	text *encoder.Text

	mu    sync.Mutex
	cache map[string]*encoder.Labels
}

// maxLabelSets bounds the cache; viewers may set any labels.
const maxLabelSets = 64

func (l *labeler) Text(ctx context.Context, text string) ([]float32, error) {
	e, err := l.text.Embed(ctx, []string{text})
	if err != nil {
		return nil, err
	}
	return e[0], nil
}

func (l *labeler) Classify(ctx context.Context, p pipeline.Picture, labels []string) ([]event.Label, error) {
	set, err := l.set(ctx, labels)
	if err != nil {
		return nil, err
	}
	out := make([]event.Label, 0, len(labels))
	for i, s := range set.ClassifyPatches(p.Patch, nil) {
		out = append(out, event.Label{Name: labels[i], Probability: s.Probability, Cosine: s.Cosine})
	}
	return out, nil
}

func (l *labeler) set(ctx context.Context, labels []string) (*encoder.Labels, error) {
	key := fmt.Sprintf("%q", labels)
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.cache[key]; s != nil {
		return s, nil
	}
	s, err := l.text.Labels(ctx, labels)
	if err != nil {
		return nil, err
	}
	if len(l.cache) >= maxLabelSets || l.cache == nil {
		l.cache = map[string]*encoder.Labels{}
	}
	l.cache[key] = s
	return s, nil
}
