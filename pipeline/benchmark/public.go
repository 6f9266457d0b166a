package benchmark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lookout-video/lookout/bench"
	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/ingest"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/vlm"
)

func (r *Runner) generate(ctx context.Context, dir string, past, n, threads int) (bench.Generation, error) {
	var g bench.Generation
	if threads != r.cfg.Threads {
		return g, fmt.Errorf("benchmark: the runtime has %d threads, not %d", r.cfg.Threads, threads)
	}
	m, err := r.usePublic(dir, vlm.Options{})
	if err != nil {
		return g, err
	}
	question, err := r.long(ctx, m, past)
	if err != nil {
		return g, err
	}
	if g.ReadBytes, err = weightBytes(dir); err != nil {
		return g, err
	}
	g.ReadBytes += m.CacheToken() * int64(past+n/2)
	s, err := m.NewSession()
	if err != nil {
		return g, err
	}
	defer s.Close()
	began := time.Now()
	var first time.Time
	for p, err := range s.Generate(ctx, vlm.Request{Question: question, MaxTokens: n + 1, Exactly: true}) {
		if err != nil {
			return g, err
		}
		if p.First { // belongs to the prefill
			first = time.Now()
		}
	}
	g.Prefill, g.Decode = first.Sub(began), time.Since(first)
	return g, nil
}

// long writes a question with which the whole prompt has about n tokens, each
// time of another letter: what sessions share of it (the template's first words)
// would otherwise be all of it, and nothing would be read.
func (r *Runner) long(ctx context.Context, m *vlm.Model, n int) (string, error) {
	s, err := m.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	for _, err := range s.Generate(ctx, vlm.Request{Question: "z", MaxTokens: 1, Exactly: true}) {
		if err != nil {
			return "", err
		}
	}
	around := s.Len() - m.Tokens("z")
	letter := string(rune('a' + r.asked%26))
	r.asked++
	var b strings.Builder
	b.WriteString(letter)
	for m.Tokens(b.String()) < n-around {
		b.WriteString(" " + letter)
	}
	return b.String(), nil
}

// weightBytes is what a decoded token has to read of the weights that are
// multiplied, which make_models.py has counted.
func weightBytes(dir string) (int64, error) {
	var c struct {
		Weights int64 `json:"weights_read"`
	}
	data, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: what a token reads: %w", bench.ErrMissing, err)
	}
	return c.Weights, nil
}

func (r *Runner) describe(ctx context.Context, dir string, job bench.Job) (time.Duration, error) {
	if job.Threads != r.cfg.Threads {
		return 0, fmt.Errorf("benchmark: the runtime has %d threads, not %d", r.cfg.Threads, job.Threads)
	}
	m, err := r.usePublic(dir, vlm.Options{Frames: job.Window, Slide: job.Slide})
	if err != nil {
		return 0, err
	}
	s, err := m.NewSession()
	if err != nil {
		return 0, err
	}
	defer s.Close()
	side := m.Side()
	src, err := ingest.Open(ctx, ingest.Config{Name: "bench", URL: job.Video, Loop: true, SampleRate: 1, Width: side, Height: side, Threads: job.Threads, Stills: -1})
	if err != nil {
		return 0, err
	}
	defer src.Close()
	var f media.Frame
	next := func() error {
		if err := src.ReadFrame(ctx, &f); err != nil {
			return err
		}
		v, err := m.EncodeFrame(ctx, &f)
		if err != nil {
			return err
		}
		return s.AppendFrame(ctx, v, f.At)
	}
	say := func() error {
		n := 0
		for p, err := range s.Generate(ctx, vlm.Request{Question: "Describe what happens.", MaxTokens: job.Tokens, Exactly: true}) {
			if err != nil {
				return err
			}
			n = p.Tokens
		}
		if n != job.Tokens {
			return fmt.Errorf("benchmark: %d tokens said, not %d", n, job.Tokens)
		}
		return nil
	}
	for range job.Window { // full before the clock runs, as the peer's is
		if err := next(); errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("benchmark: %s is too short", job.Video)
		} else if err != nil {
			return 0, err
		}
	}
	if err := say(); err != nil {
		return 0, err
	}
	began := time.Now()
	for range job.Updates {
		if err := next(); err != nil {
			return 0, err
		}
		if err := say(); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// agreePublic compares a stream's answers with all visual tokens read to those
// with what is alike left out, as the defaults have it.
func (r *Runner) agreePublic(ctx context.Context, dir, video string) (out bench.Agreement, err error) {
	var models []*vlm.Model
	var sides []*vlm.Session
	for _, above := range []float64{0, configs.Default().Reduce} {
		m, err := r.usePublic(dir, vlm.Options{Frames: 4, Slide: vlm.CanSlide(dir), Reduce: above})
		if err != nil {
			return out, err
		}
		s, err := m.NewSession()
		if err != nil {
			return out, err
		}
		defer s.Close()
		models, sides = append(models, m), append(sides, s)
	}
	side := models[0].Side()
	show, err := frames(ctx, ingest.Config{Name: "bench", URL: video, SampleRate: 1, Width: side, Height: side, Stills: -1}, 12)
	if err != nil {
		return out, err
	}
	for _, f := range show {
		v, err := models[0].EncodeFrame(ctx, f)
		if err != nil {
			return out, err
		}
		var said [2]string
		for k, s := range sides {
			own := v
			own.Data = slices.Clone(v.Data)
			if err := s.AppendFrame(ctx, own, f.At); err != nil {
				return out, err
			}
			for p, err := range s.Generate(ctx, vlm.Request{Question: "Describe what happens.", MaxTokens: 16, Exactly: true}) {
				if err != nil {
					return out, err
				}
				said[k] += p.Text
			}
		}
		out.Asked++
		if said[0] == said[1] {
			out.Same++
		}
	}
	done := sides[1].Reduced()
	out.Spared = float64(done.Merged) / float64(max(1, done.Kept+done.Merged))
	return out, nil
}
