package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/vlm"
)

// Chat is a conversation with a language model that sees nothing.
type Chat struct {
	env   *ort.Env
	model *vlm.Model
	s     *vlm.Session
	past  []vlm.Turn
}

// OpenChat loads the decoder-only model that the configuration names.
func OpenChat(c configs.Config, log *slog.Logger) (_ *Chat, err error) {
	dir, err := ModelPath(c.Model)
	if err != nil {
		return nil, err
	}
	env, err := ort.Open(ort.Config{Device: c.Device, Threads: c.Threads, CacheDir: PreparedDir(), Logger: log})
	if err != nil {
		return nil, err
	}
	t := &Chat{env: env}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.model, err = vlm.Open(dir, env, vlm.Options{Precision: c.Precision}); err != nil {
		return nil, err
	}
	if t.model.Sees() {
		return nil, fmt.Errorf("%s answers questions about pictures; use `lookout ask SOURCE QUESTION --model %s`", c.Model, c.Model)
	}
	if t.s, err = t.model.NewSession(); err != nil {
		return nil, err
	}
	return t, nil
}

// Say gives the answer to question, piece by piece, with all that was said
// before in mind. What is in the KV cache already is not read again.
func (t *Chat) Say(ctx context.Context, question string, maxTokens int) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		turn := vlm.Turn{Question: question}
		for p, err := range t.s.Generate(ctx, vlm.Request{Question: question, History: t.past, MaxTokens: maxTokens}) {
			turn.Answer += p.Text
			if !yield(p.Text, err) || err != nil {
				return
			}
		}
		t.past = append(t.past, turn)
	}
}

// Close frees the model.
func (t *Chat) Close() error {
	var errs []error
	if t.s != nil {
		errs = append(errs, t.s.Close())
	}
	if t.model != nil {
		errs = append(errs, t.model.Close())
	}
	return errors.Join(append(errs, t.env.Close())...)
}
