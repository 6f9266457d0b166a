package engine

import (
	"context"
	"iter"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/llm/openai"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/tensor"
)

// remoteWidth and remoteHeight are the size of the pictures that a remote
// engine is sent: enough to see by, little enough to send each second.
const (
	remoteWidth  = 640
	remoteHeight = 360
)

// remoteSystem asks for what a caption can hold.
const remoteSystem = "You watch a live camera. Answer in one or two short sentences, in the present tense, and say only what can be seen. Begin the answer to a yes/no question with yes or no."

// openRemote lets an OpenAI-compatible server speak. Nothing is encoded here:
// the gate alone decides which frames are worth sending.
func (e *Engine) openRemote(c configs.Config) error {
	r, err := openai.Open(openai.Config{URL: c.LLM.URL, Model: c.LLM.Model, APIKeyEnv: c.LLM.APIKeyEnv, Media: c.LLM.Media, Frames: publicWindow,
		MaxTokens: c.LLM.MaxTokens, Timeout: c.LLM.Timeout, Concurrency: c.LLM.Concurrency, Logprobs: c.LLM.Logprobs})
	if err != nil {
		return err
	}
	e.parts = append(e.parts, r)
	e.Models = &pipeline.Models{
		Info:       pipeline.ModelInfo{Name: c.LLM.Model, FPS: publicFPS, Window: publicWindow, Width: remoteWidth, Height: remoteHeight, Patches: 1, Dim: 1, Pictures: true},
		Encoder:    noEyes{},
		NewSession: func() (pipeline.Session, error) { return remoteSession{r.NewSession()}, nil },
	}
	return nil
}

type noEyes struct{}

func (noEyes) Encode(context.Context, []*media.Frame, *pipeline.Encoded) error { return nil }

type remoteSession struct{ s *openai.Session }

var _ pipeline.Session = remoteSession{}

func (s remoteSession) Append(ctx context.Context, f *media.Frame, _ tensor.View[float32]) error {
	return s.s.AppendFrame(ctx, f)
}

func (s remoteSession) Generate(ctx context.Context, r pipeline.Request) iter.Seq2[pipeline.Piece, error] {
	if r.Task == pipeline.Describe && r.Text == "" {
		r.Text = publicPrompt
	}
	return func(yield func(pipeline.Piece, error) bool) {
		for p, err := range s.s.Generate(ctx, openai.Request{Question: r.Text, System: remoteSystem, MaxTokens: r.MaxTokens}) {
			if !yield(pipeline.Piece{Text: p.Text, HasYes: p.HasYes, YesProb: p.YesProb}, err) {
				return
			}
		}
	}
}

func (s remoteSession) Reset() error {
	s.s.Reset()
	return nil
}

func (s remoteSession) Close() error { return s.s.Close() }
