package encoder

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/llm/tokenizer"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/tensor"
)

// Text is the text tower: it places words in the space of the pictures. It may
// be used from many goroutines, which take turns.
type Text struct {
	clip  model.Clip
	tok   *tokenizer.Tokenizer
	pad   int
	embed int
	most  int // tokens a text may have; longer ones are cut
	s     *ort.Session
	turn  chan struct{}
}

// OpenText loads the bundle's text tower and its tokenizer: text_tokenizer.json
// where there is one, because the decoder was swapped for one with words of its
// own, or the one that the two share.
func OpenText(b *model.Bundle, env *ort.Env) (*Text, error) {
	name := "tokenizer.json"
	if _, ok := b.Manifest.Files["text_tokenizer.json"]; ok {
		name = "text_tokenizer.json"
	}
	data, err := b.Read(name)
	if err != nil {
		return nil, err
	}
	tok, err := tokenizer.New(data)
	if err != nil {
		return nil, fmt.Errorf("encoder: %s: %s: %w", b.Name, name, err)
	}
	pad, ok := tok.ID("<|pad|>")
	if !ok {
		return nil, fmt.Errorf("encoder: %s: %s has no token <|pad|>", b.Name, name)
	}
	t := &Text{clip: b.Manifest.Clip, tok: tok, pad: pad, embed: b.Manifest.Encoder.Embed, most: b.Manifest.Clip.MaxTokens, turn: make(chan struct{}, 1)}
	if t.s, err = env.Load(b, "text.onnx", ort.Options{Outputs: []string{"text_embed"}}); err != nil {
		return nil, fmt.Errorf("encoder: %s: %w", b.Name, err)
	}
	// A first text shows whether the graph fits the manifest.
	if _, err := t.Embed(context.Background(), []string{"a"}); err != nil {
		t.s.Close()
		return nil, fmt.Errorf("%s: the text tower does not fit the manifest: %w", b.Name, err)
	}
	return t, nil
}

// Embed gives each text's place, of unit length. Texts are read in lower case,
// as the tower was trained, and as far as the bundle's clip.max_tokens.
func (t *Text) Embed(ctx context.Context, texts []string) ([][]float32, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	rows, long := make([][]int, len(texts)), 0
	for i, s := range texts {
		rows[i] = t.tok.Encode(strings.ToLower(strings.TrimSpace(s)), false)
		if len(rows[i]) == 0 {
			return nil, fmt.Errorf("encoder: text %d is empty", i)
		}
		rows[i] = rows[i][:min(len(rows[i]), t.most)]
		long = max(long, len(rows[i]))
	}
	ids, mask := tensor.Make[int64](len(texts), long), tensor.Make[int64](len(texts), long)
	for i, row := range rows {
		for k := range long {
			if k < len(row) {
				ids.Data[i*long+k], mask.Data[i*long+k] = int64(row[k]), 1
			} else {
				ids.Data[i*long+k] = int64(t.pad)
			}
		}
	}
	out := tensor.Make[float32](len(texts), t.embed)
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("encoder: %w", ctx.Err())
	}
	b, err := t.s.NewBinding()
	if err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	defer b.Close()
	if err := errors.Join(ort.Bind(b, "input_ids", ids), ort.Bind(b, "attention_mask", mask), ort.Bind(b, "text_embed", out)); err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	if err := b.Run(ctx); err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	embeds := make([][]float32, len(texts))
	for i := range embeds {
		embeds[i] = out.At(i).Data
	}
	return embeds, nil
}

// Close frees the graph.
func (t *Text) Close() error { return t.s.Close() }

// Labels are things to tell apart, placed once and then compared with any
// number of pictures.
type Labels struct {
	Names  []string
	embeds [][]float32
	clip   model.Clip
}

// Labels places each label as the mean over the bundle's templates.
func (t *Text) Labels(ctx context.Context, names []string) (*Labels, error) {
	templates := t.clip.Templates
	if len(templates) == 0 {
		templates = []string{"{}"}
	}
	l := &Labels{Names: names, clip: t.clip}
	for _, name := range names {
		if strings.TrimSpace(name) == "" {
			return nil, errors.New("encoder: a label is empty")
		}
		texts := make([]string, len(templates))
		for i, tpl := range templates {
			texts[i] = strings.ReplaceAll(tpl, "{}", strings.TrimSpace(name))
		}
		embeds, err := t.Embed(ctx, texts)
		if err != nil {
			return nil, err
		}
		mean := make([]float32, t.embed)
		for _, e := range embeds {
			for k, x := range e {
				mean[k] += x
			}
		}
		normalize(mean)
		l.embeds = append(l.embeds, mean)
	}
	return l, nil
}

// Score is how well a label fits a picture.
type Score struct {
	Label string
	// Cosine is between the two embeddings, -1 to 1.
	Cosine float64
	// Probability is that of the label being true, whatever the others are.
	Probability float64
	// Share is the label's part when exactly one of the labels is true: all
	// shares sum to 1.
	Share float64
}

// Classify compares a picture's embedding (unit length) with each label. The
// scores are in the order of Names, in dst if it has the room.
func (l *Labels) Classify(image []float32, dst []Score) []Score {
	dst = dst[:0]
	for i, e := range l.embeds {
		dst = append(dst, Score{Label: l.Names[i], Cosine: dot(image, e)})
	}
	return l.score(dst)
}

// ClassifyPatches compares each label with the patch that fits it best: in a
// picture of several things a label needs to fit one of them. patches is
// [P, embed], unit length; the scores are as those of Classify.
func (l *Labels) ClassifyPatches(patches tensor.View[float32], dst []Score) []Score {
	dst = dst[:0]
	for i, e := range l.embeds {
		best := -1.0
		for p := range patches.Shape[0] {
			best = max(best, dot(patches.Data[p*len(e):(p+1)*len(e)], e))
		}
		dst = append(dst, Score{Label: l.Names[i], Cosine: best})
	}
	return l.score(dst)
}

// score turns the cosines into probabilities.
func (l *Labels) score(dst []Score) []Score {
	top := math.Inf(-1)
	for i := range dst {
		logit := l.clip.LogitScale*dst[i].Cosine + l.clip.LogitBias
		dst[i].Probability, dst[i].Share = 1/(1+math.Exp(-logit)), logit
		top = max(top, logit)
	}
	sum := 0.0
	for i := range dst {
		dst[i].Share = math.Exp(dst[i].Share - top)
		sum += dst[i].Share
	}
	for i := range dst {
		dst[i].Share /= sum
	}
	return dst
}

// Embedding is label i's place, to Locate it.
func (l *Labels) Embedding(i int) []float32 { return l.embeds[i] }

func dot(a, b []float32) float64 {
	var s float32
	b = b[:len(a)]
	for i, x := range a {
		s += x * b[i]
	}
	return float64(s)
}

func normalize(v []float32) {
	n := float32(math.Sqrt(dot(v, v)))
	if n == 0 {
		return
	}
	for i := range v {
		v[i] /= n
	}
}
