// Package llm speaks about what a stream's frames show: sessions over one
// decoder, each with a KV cache that frames enter once and every question
// leaves as it found it.
package llm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/llm/tokenizer"
	"github.com/lookout-video/lookout/model"
)

// Errors that callers decide on.
var (
	// ErrWidth is returned when the connector's visual tokens do not fit the
	// decoder: the two were not trained together.
	ErrWidth = errors.New("llm: connector and decoder do not fit")
	// ErrTooLong is returned for a question that leaves no room for an answer.
	ErrTooLong = errors.New("llm: question is too long")
	// ErrNaN is returned when the decoder gives logits that are no numbers.
	ErrNaN = errors.New("llm: the decoder's logits are not numbers")
	// ErrMark is returned by Rewind when frames were evicted since the mark.
	ErrMark = errors.New("llm: the mark is gone")
	// ErrClosed is returned by calls on a closed Session.
	ErrClosed = errors.New("llm: session is closed")
)

// Model is a loaded decoder with its tokenizer. Any number of sessions, in any
// goroutines, share it.
type Model struct {
	name     string
	dec      model.Decoder
	ids      model.Tokens
	yesNo    float64          // temperature
	sure     map[Task]float64 // the probability that a sentence must have to be told
	relation float64          // the same of one about two that a description has named
	most     int              // new tokens, when the request does not say
	perFrame int              // visual tokens
	rows     int              // logits rows a run gives: 1, or 0 for one each token

	tok            *tokenizer.Tokenizer
	embed, decoder *ort.Session
	frame          []float32 // embedding of <|frame|>
	banned         []int     // control tokens that are never spoken
	cos, sin       []float32 // turns a key back by one frame's positions
	lanes          *lanes    // nil where runs take one session only

	heard struct {
		sync.Mutex
		words map[wording]*words
	}
}

// Open loads the bundle's decoder, embedding and tokenizer.
func Open(b *model.Bundle, env *ort.Env) (*Model, error) {
	m := &Model{
		name: b.Name, dec: b.Manifest.Decoder, ids: b.Manifest.Tokens, yesNo: b.Manifest.Calibration.YesNoTemperature,
		sure:     map[Task]float64{Describe: b.Manifest.Calibration.DescribeProbability, Changes: b.Manifest.Calibration.ChangesProbability, Ask: b.Manifest.Calibration.AnswerProbability},
		relation: b.Manifest.Calibration.RelationProbability,
		most:     b.Manifest.Generation.MaxNewTokens, perFrame: b.Manifest.Temporal.TokensPerFrame,
	}
	if w := b.Manifest.Temporal.Width; w != m.dec.Width {
		return nil, fmt.Errorf("%w: %s: the connector gives visual tokens of width %d, the decoder takes %d: use the connector that was trained for this decoder", ErrWidth, b.Name, w, m.dec.Width)
	}
	if err := m.readTokenizer(b); err != nil {
		return nil, fmt.Errorf("llm: %s: %w", b.Name, err)
	}
	if err := m.load(b, env); err != nil {
		m.Close()
		return nil, fmt.Errorf("llm: %s: %w", b.Name, err)
	}
	m.turnBack(1 + m.perFrame)
	m.lanes = newLanes(m, env.Device())
	t := m.ids
	m.banned = []int{t.BOS, t.Frame, t.Describe, t.Changes, t.Ask, t.Answer, t.Pad}
	return m, nil
}

// readTokenizer also checks that the manifest and the tokenizer mean the same
// tokens: a bundle put together from two models would speak nonsense.
func (m *Model) readTokenizer(b *model.Bundle) error {
	data, err := b.Read("tokenizer.json")
	if err != nil {
		return err
	}
	if m.tok, err = tokenizer.New(data); err != nil {
		return fmt.Errorf("tokenizer.json: %w", err)
	}
	if n := m.tok.VocabSize(); n > m.dec.Vocab {
		return fmt.Errorf("tokenizer.json has %d tokens, the decoder only %d", n, m.dec.Vocab)
	}
	for _, k := range []struct {
		token string
		id    int
	}{
		{"<|bos|>", m.ids.BOS}, {"<|frame|>", m.ids.Frame}, {"<|describe|>", m.ids.Describe}, {"<|changes|>", m.ids.Changes}, {"<|ask|>", m.ids.Ask},
		{"<|answer|>", m.ids.Answer}, {"<|nothing|>", m.ids.Nothing}, {"<|cannot_tell|>", m.ids.CannotTell}, {"<|end|>", m.ids.End}, {"<|pad|>", m.ids.Pad},
	} {
		if id, ok := m.tok.ID(k.token); !ok || id != k.id {
			return fmt.Errorf("the manifest says that %s is token %d, tokenizer.json does not", k.token, k.id)
		}
	}
	return nil
}

func (m *Model) load(b *model.Bundle, env *ort.Env) error {
	var err error
	if m.embed, err = env.Load(b, "embed.onnx", ort.Options{Outputs: []string{"inputs_embeds"}}); err != nil {
		return err
	}
	if m.decoder, err = env.Load(b, "decoder.onnx", ort.Options{}); err != nil {
		return err
	}
	in, err := m.decoder.Input("inputs_embeds")
	if err != nil {
		return err
	}
	if w := in.Shape[len(in.Shape)-1]; w >= 0 && w != m.dec.Width {
		return fmt.Errorf("%w: the connector gives visual tokens of width %d, decoder.onnx takes %d: use the connector that was trained for this decoder", ErrWidth, m.dec.Width, w)
	}
	logits, err := m.decoder.Output("logits")
	if err != nil {
		return err
	}
	if len(logits.Shape) != 3 || (logits.Shape[2] >= 0 && logits.Shape[2] != m.dec.Vocab) {
		return fmt.Errorf("decoder.onnx gives logits %v, the vocabulary has %d", logits, m.dec.Vocab)
	}
	if logits.Shape[1] == 1 {
		m.rows = 1
	}
	m.frame = make([]float32, m.dec.Width)
	return m.lookUp(context.Background(), []int64{int64(m.ids.Frame)}, m.frame)
}

// turnBack prepares the rotation by -n positions. RoPE turns a key by its
// position times a frequency for each pair of elements, and rotations add up:
// a key that moves n places down is turned back by n, exactly as if it had
// been computed there.
func (m *Model) turnBack(n int) {
	half := m.dec.RotaryDim / 2
	m.cos, m.sin = make([]float32, half), make([]float32, half)
	for i := range half {
		a := -float64(n) * math.Pow(m.dec.RopeTheta, -float64(2*i)/float64(m.dec.RotaryDim))
		m.cos[i], m.sin[i] = float32(math.Cos(a)), float32(math.Sin(a))
	}
}

// turn applies the prepared rotation to keys, heads of HeadDim one after the
// other.
func (m *Model) turn(keys []float32) {
	hd, half := m.dec.HeadDim, m.dec.RotaryDim/2
	for at := 0; at < len(keys); at += hd {
		k := keys[at : at+m.dec.RotaryDim]
		if m.dec.RotaryInterleaved {
			for i := range half {
				a, b := k[2*i], k[2*i+1]
				k[2*i], k[2*i+1] = a*m.cos[i]-b*m.sin[i], b*m.cos[i]+a*m.sin[i]
			}
			continue
		}
		lo, hi := k[:half], k[half:]
		for i := range half {
			a, b := lo[i], hi[i]
			lo[i], hi[i] = a*m.cos[i]-b*m.sin[i], b*m.cos[i]+a*m.sin[i]
		}
	}
}

// FramesInWindow is how many frames a session sees at once.
func (m *Model) FramesInWindow() int { return m.dec.FramesInWindow }

// Close frees the graphs and the bindings of all sessions.
func (m *Model) Close() error {
	var errs []error
	m.lanes.close()
	for _, s := range []*ort.Session{m.embed, m.decoder} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}
