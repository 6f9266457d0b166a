package llm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/tensor"
)

// words are what a request puts behind the frames: all of it that does not depend on
// them. The keys and values do, from the second layer on.
type words struct {
	ids []int64
	x   []float32 // their embeddings, [ids, width]
}

// Standing questions come once a second from each stream, so the words of those asked
// lately are kept for all sessions: as many as mostWords, unless they are longer than
// longestKept tokens.
const (
	mostWords   = 256
	longestKept = 48
)

// wording names words: a task, and a question in lower case.
type wording struct {
	task     Task
	question string
}

// words gives those of a request.
func (m *Model) words(ctx context.Context, req Request) (*words, error) {
	key := wording{task: req.Task}
	if req.Task == Ask {
		key.question = strings.ToLower(strings.Join(strings.Fields(req.Question), " "))
	}
	m.heard.Lock()
	w := m.heard.words[key]
	m.heard.Unlock()
	if w != nil {
		return w, nil
	}
	ids, err := m.prompt(key)
	if err != nil {
		return nil, err
	}
	w = &words{ids: ids, x: make([]float32, len(ids)*m.dec.Width)}
	if err := m.lookUp(ctx, w.ids, w.x); err != nil {
		return nil, err
	}
	if len(ids) <= longestKept {
		m.heard.Lock()
		defer m.heard.Unlock()
		if m.heard.words == nil || len(m.heard.words) == mostWords {
			m.heard.words = map[wording]*words{}
		}
		m.heard.words[key] = w
	}
	return w, nil
}

// lookUp writes the embeddings of ids into x.
func (m *Model) lookUp(ctx context.Context, ids []int64, x []float32) error {
	e, err := m.embed.NewBinding()
	if err != nil {
		return err
	}
	defer e.Close()
	if err := errors.Join(
		ort.Bind(e, "input_ids", tensor.View[int64]{Shape: tensor.Shape{1, len(ids)}, Data: ids}),
		ort.Bind(e, "inputs_embeds", tensor.View[float32]{Shape: tensor.Shape{1, len(ids), m.dec.Width}, Data: x}),
	); err != nil {
		return err
	}
	return e.Step(ctx)
}

// prompt gives the tokens of w.
func (m *Model) prompt(w wording) ([]int64, error) {
	t := m.ids
	switch w.task {
	case Describe:
		return []int64{int64(t.Describe), int64(t.Answer)}, nil
	case Changes:
		return []int64{int64(t.Changes), int64(t.Answer)}, nil
	case Ask:
		if w.question == "" {
			return nil, fmt.Errorf("llm: the question is empty")
		}
		ids := []int64{int64(t.Ask)}
		// Without special tokens: a question must not be able to end itself.
		for _, id := range m.tok.Encode(w.question, false) {
			ids = append(ids, int64(id))
		}
		ids = append(ids, int64(t.Answer))
		if n := len(ids); n > m.dec.MaxContext {
			return nil, fmt.Errorf("%w: %d tokens, the context holds %d", ErrTooLong, n, m.dec.MaxContext)
		}
		return ids, nil
	}
	return nil, fmt.Errorf("llm: no task %d", w.task)
}
