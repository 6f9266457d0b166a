package engine

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/eval"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
)

// Evaluated is the Engine as package eval scores it: the shipped model behind
// the shipped pipeline, from encoded video.
type Evaluated struct {
	Engine  *Engine
	Batcher *pipeline.Batcher
}

var _ eval.Engine = Evaluated{}

// Skills are the loaded model's.
func (v Evaluated) Skills() eval.Skills {
	m := v.Engine.Models
	return eval.Skills{Words: !m.Info.Silent, Changes: m.Info.Changes, Labels: m.Labeler != nil, Domain: m.Info.DomainThreshold > 0}
}

// Open starts at the beginning of the video file.
func (v Evaluated) Open(ctx context.Context, video string, mode eval.Mode) (eval.Stream, error) {
	c := configs.DefaultStream()
	c.Name, c.URL = "eval", video
	src, err := v.Engine.OpenSource(ctx, c, media.NewTap(1))
	if err != nil {
		return nil, err
	}
	l, err := pipeline.NewLooker(v.Engine.Models, v.Batcher, c.Gate)
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return &evaluated{e: v.Engine, src: src, l: l, mode: mode, order: rand.New(rand.NewPCG(1, 2))}, nil
}

type evaluated struct {
	e     *Engine
	src   pipeline.Source
	l     *pipeline.Looker
	mode  eval.Mode
	order *rand.Rand // of shuffled frames; the seed is fixed

	coming []*media.Frame // read, and not yet fed
	window []*media.Frame
	seen   pipeline.Seen
	end    bool
}

func (s *evaluated) Advance(ctx context.Context, until time.Duration) (int, error) {
	n := 0
	for {
		for len(s.coming) < 2 && !s.end {
			f := new(media.Frame)
			if err := s.src.ReadFrame(ctx, f); errors.Is(err, io.EOF) {
				s.end = true
			} else if err != nil {
				return n, err
			} else {
				s.coming = append(s.coming, f)
			}
		}
		if len(s.coming) == 0 || s.coming[0].At.Media > until {
			break
		}
		// What comes behind until is not begun: it would be encoded while others are timed.
		if s.mode == eval.Normal && len(s.coming) > 1 && s.coming[1].At.Media <= until {
			s.l.Expect(s.coming[1])
		}
		if err := s.feed(ctx, s.coming[0]); err != nil {
			return n, err
		}
		s.coming = append(s.coming[:0], s.coming[1:]...)
		n++
	}
	if s.mode == eval.Shuffled && n > 0 {
		if err := s.shuffle(ctx); err != nil {
			return n, err
		}
	}
	if s.end && len(s.coming) == 0 {
		return n, io.EOF
	}
	return n, nil
}

func (s *evaluated) feed(ctx context.Context, f *media.Frame) (err error) {
	switch s.mode {
	case eval.Shuffled:
		if size := s.e.Models.Info.Window; len(s.window) == size {
			s.window = append(s.window[:0], s.window[1:]...)
		}
		s.window = append(s.window, f)
		return nil
	case eval.Reset:
		if err := s.l.Reset(); err != nil {
			return err
		}
	}
	s.seen, err = s.l.Look(ctx, f)
	return err
}

// shuffle shows the window's pictures in another order, at the times of the
// right one: what is left is what single pictures tell.
func (s *evaluated) shuffle(ctx context.Context) (err error) {
	if err := s.l.Reset(); err != nil {
		return err
	}
	for i, j := range s.order.Perm(len(s.window)) {
		f := *s.window[j]
		f.At = s.window[i].At
		if s.seen, err = s.l.Look(ctx, &f); err != nil {
			return err
		}
	}
	return nil
}

func (s *evaluated) say(ctx context.Context, r pipeline.Request) (eval.Answer, error) {
	a, err := s.l.Say(ctx, r, nil)
	return eval.Answer{Text: a.Text, HasYes: a.HasYes, YesProb: a.YesProb, Nothing: a.Nothing, CannotTell: a.CannotTell, Took: a.Took}, err
}

func (s *evaluated) Describe(ctx context.Context) (eval.Answer, error) {
	return s.say(ctx, pipeline.Request{Task: pipeline.Describe})
}

func (s *evaluated) Changes(ctx context.Context) (eval.Answer, error) {
	return s.say(ctx, pipeline.Request{Task: pipeline.Changes})
}

func (s *evaluated) Ask(ctx context.Context, question string) (eval.Answer, error) {
	return s.say(ctx, pipeline.Request{Task: pipeline.Ask, Text: question})
}

func (s *evaluated) Labels(ctx context.Context, labels []string) ([]float64, error) {
	scores, err := s.e.Models.Labeler.Classify(ctx, s.seen.Picture, labels)
	if err != nil {
		return nil, err
	}
	out := make([]float64, len(scores))
	for i, sc := range scores {
		out[i] = sc.Cosine
	}
	return out, nil
}

func (s *evaluated) OutOfDomain() bool { return s.seen.OutOfDomain }

func (s *evaluated) Close() error { return errors.Join(s.l.Close(), s.src.Close()) }
