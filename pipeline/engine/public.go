package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/tensor"
	"github.com/lookout-video/lookout/vlm"
)

// publicWindow is how many frames a public model sees at once, publicFPS how
// many a second it is given: what a description of something that happens
// takes, and a CPU can bear.
const (
	publicWindow = 4
	publicFPS    = 1
)

// publicPrompt is what a public model is asked when the stream has no prompt of
// its own.
const publicPrompt = "Describe what happens in the video in one or two short sentences."

// openPublic loads a model of one of the field's layouts.
func (e *Engine) openPublic(c configs.Config) error {
	// Where it can the window slides: an update then costs a frame and the question.
	// Elsewhere the window is read anew, which costs more but no more after a day.
	m, err := vlm.Open(c.Model, e.Runtime, vlm.Options{Precision: c.Precision, Frames: publicWindow, Slide: vlm.CanSlide(c.Model), Reduce: c.Reduce})
	if err != nil {
		return err
	}
	e.parts = append(e.parts, m)
	if !m.Sees() {
		return fmt.Errorf("%s: a language model sees no pictures; use it with `lookout chat`, or name a model that has a vision encoder", c.Model)
	}
	blank := &media.Frame{}
	blank.Reset(64, 64)
	if _, err := m.EncodeFrame(context.Background(), blank); err != nil {
		return fmt.Errorf("%s: try the vision encoder: %w", c.Model, err)
	}
	e.Models = &pipeline.Models{
		Info:    pipeline.ModelInfo{Name: filepath.Base(c.Model), Hash: configHash(c.Model), FPS: publicFPS, Window: publicWindow, Patches: m.FrameTokens(), Dim: m.Width()},
		Encoder: publicEyes{m},
		NewSession: func() (pipeline.Session, error) {
			s, err := m.NewSession()
			if err != nil {
				return nil, err
			}
			return &publicSession{s: s}, nil
		},
	}
	return nil
}

// configHash names a public model's weights by its configuration: hashing the
// gigabytes at each start would cost more than it tells.
func configHash(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:8])
}

type publicEyes struct{ m *vlm.Model }

func (a publicEyes) Encode(ctx context.Context, frames []*media.Frame, dst *pipeline.Encoded) error {
	for i, f := range frames {
		if err := a.m.EncodeFrameInto(ctx, f, dst.Tokens.At(i).Data); err != nil {
			return err
		}
	}
	return nil
}

// publicSession keeps the visual tokens of its window, which vlm.Session holds on
// to, and those of the frame that comes.
type publicSession struct {
	s    *vlm.Session
	kept [publicWindow + 1][]float32
	at   int
}

var _ pipeline.Thrifty = (*publicSession)(nil)

func (s *publicSession) Reduce(above float64) { s.s.Reduce(above) }

func (s *publicSession) Reduced() pipeline.VisualTokens {
	return pipeline.VisualTokens(s.s.Reduced())
}

func (s *publicSession) Append(ctx context.Context, f *media.Frame, visual tensor.View[float32]) error {
	// The caller uses its memory again; the window's oldest frame is done with its own.
	kept := &s.kept[s.at]
	*kept = append((*kept)[:0], visual.Data...)
	s.at = (s.at + 1) % len(s.kept)
	return s.s.AppendFrame(ctx, tensor.View[float32]{Shape: visual.Shape, Data: *kept}, f.At)
}

func (s *publicSession) Generate(ctx context.Context, r pipeline.Request) iter.Seq2[pipeline.Piece, error] {
	if r.Task == pipeline.Describe && r.Text == "" {
		r.Text = publicPrompt
	}
	return func(yield func(pipeline.Piece, error) bool) {
		for p, err := range s.s.Generate(ctx, vlm.Request{Question: r.Text, MaxTokens: r.MaxTokens}) {
			if !yield(pipeline.Piece{Text: p.Text, HasYes: p.HasYes, YesProb: p.YesProb}, err) {
				return
			}
		}
	}
}

func (s *publicSession) Reset() error {
	s.s.Reset()
	return nil
}

func (s *publicSession) Close() error { return s.s.Close() }

// openPair loads CLIP or SigLIP: labels and search, no words.
func (e *Engine) openPair(c configs.Config) error {
	p, err := vlm.OpenPair(c.Model, e.Runtime, vlm.Options{Precision: c.Precision})
	if err != nil {
		return err
	}
	e.parts = append(e.parts, p)
	e.Models = &pipeline.Models{
		Info:       pipeline.ModelInfo{Name: filepath.Base(c.Model), Hash: configHash(c.Model), FPS: publicFPS, Window: 1, Patches: 1, Dim: 1, Embed: p.Width(), Silent: true},
		Encoder:    pairEyes{p},
		Labeler:    &pairLabeler{p: p},
		NewSession: func() (pipeline.Session, error) { return mute{}, nil },
	}
	return nil
}

type pairEyes struct{ p *vlm.Pair }

func (a pairEyes) Encode(ctx context.Context, frames []*media.Frame, dst *pipeline.Encoded) error {
	for i, f := range frames {
		if err := a.p.EmbedImageInto(ctx, f, dst.Image.At(i).Data); err != nil {
			return err
		}
	}
	return nil
}

// pairLabeler keeps the embeddings of the texts in use, as labeler does.
type pairLabeler struct {
	p *vlm.Pair

	mu    sync.Mutex
	cache map[string][]float32
}

// maxTexts bounds the cache; viewers may set any labels.
const maxTexts = 1024

func (l *pairLabeler) Text(ctx context.Context, text string) ([]float32, error) {
	v, err := l.p.EmbedText(ctx, []string{text})
	if err != nil {
		return nil, err
	}
	return v[0], nil
}

// Classify gives SigLIP's probabilities each by itself, and CLIP's as shares of
// one: that is how each was trained.
func (l *pairLabeler) Classify(ctx context.Context, pic pipeline.Picture, labels []string) ([]event.Label, error) {
	texts, err := l.texts(ctx, labels)
	if err != nil {
		return nil, err
	}
	logits := l.p.Logits(pic.Image, texts)
	out := make([]event.Label, len(labels))
	sum, top := 0.0, slices.Max(logits)
	for i, x := range logits {
		out[i] = event.Label{Name: labels[i], Cosine: (x - l.p.Bias) / l.p.Scale}
		if l.p.Layout == model.SigLIP {
			out[i].Probability = 1 / (1 + math.Exp(-x))
			continue
		}
		out[i].Probability = math.Exp(x - top)
		sum += out[i].Probability
	}
	if sum > 0 {
		for i := range out {
			out[i].Probability /= sum
		}
	}
	return out, nil
}

func (l *pairLabeler) texts(ctx context.Context, labels []string) ([][]float32, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([][]float32, len(labels))
	var missing []string
	for i, name := range labels {
		if out[i] = l.cache[name]; out[i] == nil {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	found, err := l.p.EmbedText(ctx, missing)
	if err != nil {
		return nil, err
	}
	if l.cache == nil || len(l.cache)+len(missing) > maxTexts {
		l.cache = map[string][]float32{}
	}
	for i, name := range labels {
		if out[i] == nil {
			out[i], found = found[0], found[1:]
			l.cache[name] = out[i]
		}
	}
	return out, nil
}

// errMute is what a model without a language model answers.
var errMute = errors.New("this model only compares pictures with texts; use `lookout classify`, labels and search, or a model that speaks")

// mute is the session of a model that cannot speak.
type mute struct{}

func (mute) Append(context.Context, *media.Frame, tensor.View[float32]) error { return nil }
func (mute) Generate(context.Context, pipeline.Request) iter.Seq2[pipeline.Piece, error] {
	return func(yield func(pipeline.Piece, error) bool) { yield(pipeline.Piece{}, errMute) }
}
func (mute) Reset() error { return nil }
func (mute) Close() error { return nil }
