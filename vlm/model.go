// Package vlm runs public vision-language models as they are downloaded: the
// ONNX files that exporters make, with every constant from the model's own
// config.json, preprocessor and tokenizer files and chat template. It gives
// what the reference library gives for them (the tests named Parity).
package vlm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/lookout-video/lookout/encoder/vision"
	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/llm/chat"
	"github.com/lookout-video/lookout/llm/tokenizer"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/tensor"
)

// ErrBlind is returned when a picture is given to a language model.
var ErrBlind = errors.New("vlm: this model takes no pictures")

// Options of a Model. The zero value is ready to use.
type Options struct {
	// Precision chooses among a folder's files: auto, fp32, fp16, q4, q4f16,
	// int8, uint8, quantized or bnb4. It defaults to auto: what suits the device.
	Precision string
	// Frames is how many frames a session keeps. It defaults to 8.
	Frames int
	// Slide keeps what the cache holds of the frames that stay when the oldest
	// leaves the window, where the window would be read anew: an update costs one
	// frame and the question. What stays remembers what it saw of what left, so
	// answers can differ from the reference's. Only SmolVLM's layout slides, and
	// only with keys that are turned as the Llama family does it: Open refuses
	// others. It defaults to false.
	Slide bool
	// Reduce merges visual tokens of a stream's older frames with those of the
	// frame after whose cosine to them is above it, 0 to 1. It defaults to 0: all
	// are read.
	Reduce float64
}

// Model is a public model, loaded. It is safe for concurrent use; sessions
// share its weights.
type Model struct {
	// Layout is what the folder holds.
	Layout model.Layout

	cfg          *config
	opt          Options
	tok          *tokenizer.Tokenizer
	chat         *chat.Template
	still, video vision.Config
	see, embed   *ort.Session
	g            *graphs
	lanes        *lanes // nil where runs take one session only
	sessions     []*ort.Session
	ends         []int
	yes, no      []int // tokens that spell them
	perTile      int   // tokens
	front        *front
	rope         *rope // when the window slides
	prefix       prefix
	table        table
	newline      atomic.Pointer[[]float32] // learned from the first picture
}

// Open loads the public model in dir.
func Open(dir string, env *ort.Env, opt Options) (m *Model, err error) {
	layout, err := model.Detect(dir)
	if err != nil {
		return nil, err
	}
	if slices.Contains([]model.Layout{model.Lookout, model.CLIP, model.SigLIP}, layout) {
		return nil, fmt.Errorf("vlm: %s: a %s model does not speak", dir, layout)
	}
	if opt.Frames <= 0 {
		opt.Frames = 8
	}
	m = &Model{Layout: layout, opt: opt}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
			m = nil
		}
	}()
	if m.cfg, err = readConfig(dir); err != nil {
		return m, err
	}
	if m.tok, m.ends, err = readTokenizer(dir); err != nil {
		return m, err
	}
	m.ends = append(m.ends, m.cfg.EOS...)
	if end, ok := m.tok.ID("<end_of_utterance>"); ok {
		m.ends = append(m.ends, end)
	}
	m.yes, m.no = spelling(m.tok, "yes"), spelling(m.tok, "no")
	if m.chat, err = chat.Load(dir); err != nil {
		return m, err
	}
	gpu := strings.HasPrefix(env.Device(), "cuda")
	load := func(name string) (*ort.Session, error) {
		path, err := model.Graph(dir, name, opt.Precision, gpu)
		if err != nil {
			return nil, err
		}
		alone := name == "model" || name == "decoder_model_merged" // two graphs must agree on what they keep
		options := ort.Options{HalfCache: alone}
		if alone || strings.HasPrefix(name, "decoder") {
			options.LastRow = "logits"
		}
		s, err := env.NewSession(ort.Source{Path: path}, options)
		if err == nil {
			m.sessions = append(m.sessions, s)
		}
		return s, err
	}
	if err := m.loadDecoder(dir, load); err != nil {
		return m, err
	}
	m.lanes = newLanes(m.g, env.Device())
	if opt.Slide {
		if layout != model.SmolVLM || !m.films() {
			return m, fmt.Errorf("vlm: %s: the window of a %s model cannot slide, only be read anew", dir, m.cfg.ModelType)
		}
		if m.rope, err = newRope(m.cfg.Text, m.g.headDim); err != nil {
			return m, err
		}
	}
	if layout == model.DecoderOnly {
		return m, nil
	}
	if m.still, m.video, err = readPreprocessor(dir); err != nil {
		return m, err
	}
	if m.see, err = load("vision_encoder"); err != nil {
		return m, err
	}
	return m, m.checkVision()
}

func readTokenizer(dir string) (*tokenizer.Tokenizer, []int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		return nil, nil, fmt.Errorf("vlm: %w", err)
	}
	tok, err := tokenizer.New(data)
	if err != nil {
		return nil, nil, fmt.Errorf("vlm: %s: %w", dir, err)
	}
	var c struct {
		EOS any `json:"eos_token"`
	}
	if err := readJSON(dir, "tokenizer_config.json", false, &c); err != nil {
		return nil, nil, err
	}
	name, _ := c.EOS.(string)
	if o, ok := c.EOS.(map[string]any); ok {
		name, _ = o["content"].(string)
	}
	if id, ok := tok.ID(name); ok {
		return tok, []int{id}, nil
	}
	return tok, nil, nil
}

// spelling gives the tokens that are a word, in any case and with or without
// a space before it.
func spelling(tok *tokenizer.Tokenizer, word string) []int {
	var ids []int
	for id := range tok.VocabSize() {
		if strings.EqualFold(strings.TrimSpace(string(tok.Token(id))), word) && !tok.Special(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// yesProb is the probability of yes against no where an answer begins, if it
// begins with one of them. It is the model's own, not calibrated.
func (m *Model) yesProb(first int, logits []float32) (float64, bool) {
	if !slices.Contains(m.yes, first) && !slices.Contains(m.no, first) {
		return 0, false
	}
	sum := func(ids []int) (p float64) {
		for _, id := range ids {
			p += math.Exp(float64(logits[id] - logits[first])) // first is the largest
		}
		return p
	}
	y := sum(m.yes)
	return y / (y + sum(m.no)), true
}

// loadDecoder takes the graphs under any of the names that exporters use.
func (m *Model) loadDecoder(dir string, load func(string) (*ort.Session, error)) error {
	var first, next *ort.Session
	var err error
	switch {
	case len(model.Variants(dir, "decoder_model_merged")) > 0:
		next, err = load("decoder_model_merged")
	case len(model.Variants(dir, "decoder_with_past_model")) > 0:
		if next, err = load("decoder_with_past_model"); err == nil && len(model.Variants(dir, "decoder_model")) > 0 {
			first, err = load("decoder_model")
		}
	default:
		next, err = load("model")
	}
	if err != nil {
		return err
	}
	if m.g, err = newGraphs(first, next, m.cfg.Text); err != nil {
		return err
	}
	if m.g.ids {
		return nil
	}
	if m.embed, err = load("embed_tokens"); err != nil {
		return err
	}
	out, ok := has(m.embed.Outputs, "inputs_embeds")
	if !ok {
		return fmt.Errorf("vlm: %s gives no inputs_embeds", m.embed.Name())
	}
	if w := dim(out, 2, m.g.width); w != m.g.width {
		return fmt.Errorf("vlm: %s gives embeddings of width %d, but %s takes %d: they are not of one model", m.embed.Name(), w, m.g.next.Name(), m.g.width)
	}
	m.g.embed = m.embed
	return nil
}

// checkVision finds how many tokens a tile gives and whether they fit the
// language model.
func (m *Model) checkVision() error {
	out, ok := has(m.see.Outputs, "image_features")
	if !ok {
		return fmt.Errorf("vlm: %s gives no image_features", m.see.Name())
	}
	if w := dim(out, len(out.Shape)-1, m.g.width); w != m.g.width {
		return fmt.Errorf("vlm: the connector of %s gives tokens of width %d, but %s takes %d: they are not of one model", m.see.Name(), w, m.g.next.Name(), m.g.width)
	}
	if err := known(m.see, "pixel_values", "pixel_attention_mask"); err != nil {
		return err
	}
	n := m.cfg.side() * m.cfg.side()
	switch {
	case m.Layout == model.SmolVLM:
		n /= m.cfg.ScaleFactor * m.cfg.ScaleFactor
	case n == 0 && m.cfg.cell > 0:
		n = (m.still.CropSize.Height / m.cfg.cell) * (m.still.CropSize.Width / m.cfg.cell)
	case m.cfg.SelectStrategy == "full" && m.cfg.Vision.ModelType == "clip_vision_model":
		n++ // CLIP's class token
	}
	if m.perTile = dim(out, len(out.Shape)-2, n); m.perTile <= 0 {
		return fmt.Errorf("vlm: %s: config.json does not tell how many tokens a picture has", m.see.Name())
	}
	if m.cfg.ImageTokenID == 0 {
		id, ok := m.tok.ID("<image>")
		if !ok {
			return fmt.Errorf("vlm: config.json names no image token")
		}
		m.cfg.ImageTokenID = id
	}
	pre := &m.still
	if m.films() {
		pre = &m.video
	}
	m.front = newFront(pre, m.tile, m.newEye)
	return nil
}

// Sees reports whether the model takes pictures.
func (m *Model) Sees() bool { return m.see != nil }

// CacheToken is how many bytes a token takes in a session's cache.
func (m *Model) CacheToken() int64 {
	n := int64(2 * m.g.layers * m.g.heads * m.g.headDim)
	if m.g.half {
		return 2 * n
	}
	return 4 * n
}

// Width is the size of one visual token.
func (m *Model) Width() int { return m.g.width }

// Close frees the graphs. Sessions must be closed before.
func (m *Model) Close() error {
	m.lanes.close()
	var err error
	for _, s := range m.sessions {
		err = errors.Join(err, s.Close())
	}
	m.sessions = nil
	return err
}

// films reports whether the model was trained with videos: the others see a
// stream as so many pictures.
func (m *Model) films() bool {
	return m.Layout == model.LlavaOneVision || m.Layout == model.SmolVLM && m.cfg.ModelType != "idefics3"
}

func image(f *media.Frame) vision.Image { return vision.Image{W: f.Width, H: f.Height, Pix: f.Pix} }

func (m *Model) frameTile(f *media.Frame) (vision.Image, error) { return m.tile(nil, image(f)) }

// tile prepares one frame of a stream.
func (m *Model) tile(k *vision.Work, f vision.Image) (vision.Image, error) {
	switch m.Layout {
	case model.SmolVLM:
		if !m.films() {
			return m.still.Whole(k, f)
		}
		return m.video.VideoFrame(k, f)
	case model.LlavaOneVision:
		return m.video.Square(k, f, vision.PyTorch)
	case model.LlavaNext:
		n := m.cfg.Vision.Image
		return k.Resize(f, n, n, m.still.Resample, vision.Pillow)
	}
	if m.still.Size.ShortestEdge > 0 {
		return m.still.CenterCrop(k, f)
	}
	return m.still.Square(k, f, vision.Pillow)
}

// FrameTokens is how many visual tokens a frame of a stream has.
func (m *Model) FrameTokens() int {
	switch m.Layout {
	case model.LlavaOneVision: // half the patches a side for videos
		n := (m.cfg.side() + 1) / 2
		return n * n
	case model.LlavaNext:
		if _, ok := has(m.see.Outputs, "image_newline"); ok {
			return m.perTile + 1
		}
	}
	return m.perTile
}

// EncodeFrame gives the visual tokens of one frame of a stream, [tokens, width].
// A frame is one tile: streams are never split.
func (m *Model) EncodeFrame(ctx context.Context, f *media.Frame) (tensor.View[float32], error) {
	if !m.Sees() {
		return tensor.View[float32]{}, ErrBlind
	}
	v := tensor.Make[float32](m.FrameTokens(), m.g.width)
	return v, m.EncodeFrameInto(ctx, f, v.Data)
}

// EncodeFrameInto is EncodeFrame into dst, which has room for FrameTokens times
// Width numbers. It allocates nothing, but for what a run takes that can be
// stopped (see ort.Options). Frames take turns.
func (m *Model) EncodeFrameInto(ctx context.Context, f *media.Frame, dst []float32) error {
	if !m.Sees() {
		return ErrBlind
	}
	if n := m.FrameTokens() * m.g.width; len(dst) < n {
		return fmt.Errorf("vlm: room for %d numbers, a frame's tokens are %d", len(dst), n)
	}
	if err := m.front.begin(ctx); err != nil {
		return err
	}
	defer m.front.end()
	e, err := m.front.look(ctx, image(f))
	if err != nil {
		return err
	}
	m.learn(e)
	features := e.outputs[0].data
	if m.Layout == model.LlavaOneVision {
		n := m.cfg.side()
		grid{n, n, m.g.width, features}.resizeInto(dst, (n+1)/2, (n+1)/2)
		return nil
	}
	copy(dst, features)
	if m.Layout == model.LlavaNext {
		copy(dst[len(features):], e.newline())
	}
	return nil
}

// Still is the visual tokens of one picture, looked at closely.
type Still struct {
	// Tokens is [tokens, width].
	Tokens     tensor.View[float32]
	rows, cols int
}

// EncodeStill gives the visual tokens of one picture, split into tiles where
// the model was trained so.
func (m *Model) EncodeStill(ctx context.Context, f *media.Frame) (*Still, error) {
	if !m.Sees() {
		return nil, ErrBlind
	}
	tiles, rows, cols, err := m.stillTiles(f)
	if err != nil {
		return nil, err
	}
	v, newline, err := m.look(ctx, tiles, &m.still)
	if err != nil {
		return nil, err
	}
	c := v.Shape[2]
	flat := v.Data
	switch m.Layout {
	case model.SmolVLM:
		st := &Still{rows: rows, cols: cols}
		st.Tokens, err = tensor.Of(flat, len(flat)/c, c)
		return st, err
	case model.LlavaNext:
		flat = pack(v, rows, cols, m.cfg.side(), f.Width, f.Height, 0, newline)
	case model.LlavaOneVision:
		flat = pack(v, rows, cols, m.cfg.side(), f.Width, f.Height, m.cfg.mostTiles(), newline)
	}
	t, err := tensor.Of(flat, len(flat)/c, c)
	return &Still{Tokens: t}, err
}

func (m *Model) stillTiles(f *media.Frame) (tiles []vision.Image, rows, cols int, err error) {
	switch m.Layout {
	case model.SmolVLM:
		return m.still.Split(image(f))
	case model.LlavaNext, model.LlavaOneVision:
		gh, gw := m.still.Best(f.Width, f.Height)
		tiles, err := m.still.AnyRes(image(f))
		return tiles, gh / max(1, m.cfg.Vision.Image), gw / max(1, m.cfg.Vision.Image), err
	}
	t, err := m.frameTile(f)
	return []vision.Image{t}, 0, 0, err
}

// look runs the vision encoder and connector over tiles of one size:
// [tiles, tokens, width], and the newline's embedding if the export has it.
func (m *Model) look(ctx context.Context, tiles []vision.Image, pre *vision.Config) (v tensor.View[float32], newline []float32, err error) {
	e, err := m.newEye(len(tiles), tiles[0].W, tiles[0].H)
	if err != nil {
		return v, nil, err
	}
	defer e.b.Close()
	if err := e.look(ctx, tiles, pre); err != nil {
		return v, nil, err
	}
	m.learn(e)
	v, err = tensor.Of(e.outputs[0].data, len(tiles), m.perTile, m.g.width)
	return v, e.newline(), err
}

// newEye makes an eye for n tiles of w by h: its outputs are the features, and
// the newline's embedding if the export has it.
func (m *Model) newEye(n, w, h int) (*eye, error) {
	names, shapes := []string{"image_features"}, []tensor.Shape{{n, m.perTile, m.g.width}}
	if f, _ := has(m.see.Outputs, names[0]); len(f.Shape) == 2 {
		shapes[0] = tensor.Shape{n * m.perTile, m.g.width}
	}
	if _, ok := has(m.see.Outputs, "image_newline"); ok {
		names, shapes = append(names, "image_newline"), append(shapes, tensor.Shape{m.g.width})
	}
	return newEye(m.see, n, w, h, names, shapes...)
}

// newline is the embedding that ends a row, nil where the export has none.
func (e *eye) newline() []float32 {
	if len(e.outputs) < 2 {
		return nil
	}
	return e.outputs[1].data
}

// learn keeps the newline of the first picture: it is the same for all.
func (m *Model) learn(e *eye) {
	if n := e.newline(); n != nil && m.newline.Load() == nil {
		kept := slices.Clone(n)
		m.newline.Store(&kept)
	}
}
