package engine

import (
	"context"
	"iter"

	"github.com/lookout-video/lookout/llm"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/tensor"
)

// session is a local model's session under the pipeline's contract.
type session struct{ s *llm.Session }

var _ pipeline.Session = session{}

func newSession(m *llm.Model) (pipeline.Session, error) {
	s, err := m.NewSession()
	if err != nil {
		return nil, err
	}
	return session{s}, nil
}

func (s session) Append(ctx context.Context, _ *media.Frame, visual tensor.View[float32]) error {
	return s.s.AppendFrame(ctx, visual)
}

var tasks = map[pipeline.Task]llm.Task{pipeline.Describe: llm.Describe, pipeline.Changes: llm.Changes, pipeline.Ask: llm.Ask}

func (s session) Generate(ctx context.Context, r pipeline.Request) iter.Seq2[pipeline.Piece, error] {
	return func(yield func(pipeline.Piece, error) bool) {
		for p, err := range s.s.Generate(ctx, llm.Request{Task: tasks[r.Task], Question: r.Text, MaxTokens: r.MaxTokens}) {
			if !yield(pipeline.Piece{Text: p.Text, HasYes: p.HasYes, YesProb: p.YesProb, Nothing: p.Nothing, CannotTell: p.CannotTell, Doubted: p.Doubted}, err) {
				return
			}
		}
	}
}

func (s session) Reset() error {
	s.s.Reset()
	return nil
}

func (s session) Close() error { return s.s.Close() }
