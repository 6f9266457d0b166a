package vlm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/lookout-video/lookout/encoder/vision"
	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/llm/tokenizer"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/tensor"
)

// Pair is a public model that puts pictures and texts into one space: CLIP or
// SigLIP. It is safe for concurrent use.
type Pair struct {
	// Layout is model.CLIP or model.SigLIP.
	Layout model.Layout
	// Scale and Bias turn a cosine into a logit: for a softmax over texts
	// (CLIP), or a sigmoid (SigLIP). Exports leave them out, so they come from
	// config.json's logit_scale and logit_bias where somebody put them there,
	// else they are those of the first published models.
	Scale, Bias float64

	pre         vision.Config
	tok         *tokenizer.Tokenizer
	front       *front
	see, read   *ort.Session
	image, text ort.Info
	longest     int
	pad         int
}

// OpenPair loads the CLIP or SigLIP model in dir.
func OpenPair(dir string, env *ort.Env, opt Options) (p *Pair, err error) {
	layout, err := model.Detect(dir)
	if err != nil {
		return nil, err
	}
	if layout != model.CLIP && layout != model.SigLIP {
		return nil, fmt.Errorf("vlm: %s: a %s model is no image and text pair", dir, layout)
	}
	c, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	p = &Pair{Layout: layout, longest: c.Text.Positions, Scale: math.Exp(c.LogitScale), Bias: c.LogitBias}
	if c.LogitScale == 0 {
		p.Scale = 100 // CLIP's, whose training stops it there
		if layout == model.SigLIP {
			p.Scale, p.Bias = 117.33, -12.93 // siglip-base-patch16-224
		}
	}
	if p.longest <= 0 {
		p.longest = map[model.Layout]int{model.CLIP: 77, model.SigLIP: 64}[layout]
	}
	if p.pre, _, err = readPreprocessor(dir); err != nil {
		return nil, err
	}
	if p.tok, _, err = readTokenizer(dir); err != nil {
		return nil, err
	}
	var t struct {
		Pad any `json:"pad_token"`
	}
	if err := readJSON(dir, "tokenizer_config.json", false, &t); err != nil {
		return nil, err
	}
	name, _ := t.Pad.(string)
	if o, ok := t.Pad.(map[string]any); ok {
		name, _ = o["content"].(string)
	}
	if id, ok := p.tok.ID(name); ok {
		p.pad = id
	} else if layout == model.SigLIP {
		return nil, fmt.Errorf("vlm: %s: tokenizer_config.json names no pad_token", dir)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
			p = nil
		}
	}()
	gpu := strings.HasPrefix(env.Device(), "cuda")
	load := func(name string, outputs ...string) (*ort.Session, ort.Info, error) {
		path, err := model.Graph(dir, name, opt.Precision, gpu)
		if err != nil {
			return nil, ort.Info{}, err
		}
		err = fmt.Errorf("vlm: %s has no output %s", path, strings.Join(outputs, " or "))
		for _, out := range outputs {
			s, e := env.NewSession(ort.Source{Path: path}, ort.Options{Outputs: []string{out}})
			if e == nil {
				return s, s.Outputs[0], nil
			}
			err = errors.Join(err, e)
		}
		return nil, ort.Info{}, err
	}
	if p.see, p.image, err = load("vision_model", "image_embeds", "pooler_output"); err != nil {
		return p, err
	}
	if p.read, p.text, err = load("text_model", "text_embeds", "pooler_output"); err != nil {
		return p, err
	}
	p.front = newFront(&p.pre, p.tile, p.newEye)
	if a, b := dim(p.image, 1, 0), dim(p.text, 1, 0); a != b || a == 0 {
		return p, fmt.Errorf("vlm: %s: pictures have width %d, texts %d: they are not of one model", dir, a, b)
	}
	return p, errors.Join(known(p.see, "pixel_values"), known(p.read, "input_ids", "attention_mask"))
}

// Width is the size of an embedding.
func (p *Pair) Width() int { return dim(p.image, 1, 0) }

// EmbedImage gives a picture's embedding, unit length.
func (p *Pair) EmbedImage(ctx context.Context, f *media.Frame) ([]float32, error) {
	v := make([]float32, p.Width())
	return v, p.EmbedImageInto(ctx, f, v)
}

// EmbedImageInto is EmbedImage into dst, which has room for Width numbers. It
// allocates nothing. Pictures take turns.
func (p *Pair) EmbedImageInto(ctx context.Context, f *media.Frame, dst []float32) error {
	if len(dst) < p.Width() {
		return fmt.Errorf("vlm: room for %d numbers, an embedding has %d", len(dst), p.Width())
	}
	if err := p.front.begin(ctx); err != nil {
		return err
	}
	defer p.front.end()
	e, err := p.front.look(ctx, image(f))
	if err != nil {
		return err
	}
	_, err = unit(dst[:copy(dst, e.outputs[0].data)])
	return err
}

func (p *Pair) newEye(n, w, h int) (*eye, error) {
	return newEye(p.see, n, w, h, []string{p.image.Name}, tensor.Shape{n, p.Width()})
}

func (p *Pair) tile(k *vision.Work, m vision.Image) (vision.Image, error) {
	if p.pre.Size.ShortestEdge > 0 {
		return p.pre.CenterCrop(k, m)
	}
	return p.pre.Square(k, m, vision.Pillow)
}

// EmbedText gives each text's embedding, unit length. A text longer than the
// model reads is cut.
func (p *Pair) EmbedText(ctx context.Context, texts []string) ([][]float32, error) {
	all := make([][]float32, len(texts))
	for i, text := range texts {
		ids := p.ids(text)
		out := make([]float32, p.Width())
		c := newCall(p.read)
		bind(c, "input_ids", ids, 1, len(ids))
		if _, ok := has(p.read.Inputs, "attention_mask"); ok {
			mask := make([]int64, len(ids))
			for k := range mask {
				mask[k] = 1
			}
			bind(c, "attention_mask", mask, 1, len(ids))
		}
		c.floats(p.text.Name, out, 1, len(out))
		err := c.run(ctx)
		c.close()
		if err == nil {
			all[i], err = unit(out)
		}
		if err != nil {
			return nil, fmt.Errorf("vlm: embed a text: %w", err)
		}
	}
	return all, nil
}

// ids are the text's, cut so that the ends stay; SigLIP reads the last place,
// so its texts are padded to the full length.
func (p *Pair) ids(text string) []int64 {
	around := len(p.tok.Wrap(nil))
	body := p.tok.Encode(text, true)
	body = body[:min(len(body), p.longest-around)]
	var ids []int64
	for _, id := range p.tok.Wrap(body) {
		ids = append(ids, int64(id))
	}
	for p.Layout == model.SigLIP && len(ids) < p.longest {
		ids = append(ids, int64(p.pad))
	}
	return ids
}

// Logits compares a picture's embedding with texts'.
func (p *Pair) Logits(image []float32, texts [][]float32) []float64 {
	out := make([]float64, len(texts))
	for i, t := range texts {
		sum := 0.0
		for k, x := range image {
			sum += float64(x) * float64(t[k])
		}
		out[i] = sum*p.Scale + p.Bias
	}
	return out
}

func unit(v []float32) ([]float32, error) {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	if !(sum > 0) || math.IsInf(sum, 0) {
		return nil, ErrNaN
	}
	for i := range v {
		v[i] = float32(float64(v[i]) / math.Sqrt(sum))
	}
	return v, nil
}

// Close frees the graphs.
func (p *Pair) Close() error {
	var err error
	for _, s := range []*ort.Session{p.see, p.read} {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	p.see, p.read = nil, nil
	return err
}
