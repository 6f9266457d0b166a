package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// Manifest is manifest.json of a bundle: every size that the graphs need, so
// that the code holds none.
type Manifest struct {
	// Format is 1.
	Format int `json:"format"`
	// Layout is "lookout".
	Layout  Layout `json:"layout"`
	Name    string `json:"name"`
	Version string `json:"version"`
	License string `json:"license"`
	// Files are all files but manifest.json, by name.
	Files       map[string]File `json:"files"`
	Image       Image           `json:"image"`
	Encoder     Encoder         `json:"encoder"`
	Temporal    Temporal        `json:"temporal"`
	Decoder     Decoder         `json:"decoder"`
	Tokens      Tokens          `json:"tokens"`
	Clip        Clip            `json:"clip"`
	Domain      Domain          `json:"domain"`
	Calibration Calibration     `json:"calibration"`
	Generation  Generation      `json:"generation"`
	// Precision tells how weights are stored, for people.
	Precision string `json:"precision"`
	// TrainedOn tells what the model has seen, for people.
	TrainedOn string          `json:"trained_on"`
	Scores    json.RawMessage `json:"scores"`
}

// File is one file of a bundle.
type File struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// Image is what the encoder looks at.
type Image struct {
	// Width, Height and Patch are in pixels.
	Width  int `json:"width"`
	Height int `json:"height"`
	Patch  int `json:"patch"`
	// SampleFPS is how many frames a second of stream the model was trained on.
	SampleFPS float64 `json:"sample_fps"`
}

// Encoder holds the sizes of encoder.onnx.
type Encoder struct {
	Dim     int `json:"dim"`
	Embed   int `json:"embed"`
	Patches int `json:"patches"`
	// GridWidth and GridHeight are the patches across and down; row after row.
	GridWidth  int `json:"grid_width"`
	GridHeight int `json:"grid_height"`
}

// Temporal holds the sizes of temporal.onnx.
type Temporal struct {
	Layers int `json:"layers"`
	// Window is how many frames the ring holds.
	Window         int `json:"window"`
	TokensPerFrame int `json:"tokens_per_frame"`
	// Width is the connector's: of the visual tokens it gives.
	Width int `json:"width"`
}

// Decoder holds the sizes of decoder.onnx and how it turns its keys.
type Decoder struct {
	Layers  int `json:"layers"`
	KVHeads int `json:"kv_heads"`
	HeadDim int `json:"head_dim"`
	Heads   int `json:"heads"`
	Width   int `json:"width"`
	Vocab   int `json:"vocab"`
	// MaxContext is how many tokens the KV cache holds.
	MaxContext     int     `json:"max_context"`
	FramesInWindow int     `json:"frames_in_window"`
	RopeTheta      float64 `json:"rope_theta"`
	// RotaryDim is how many elements of a head are turned.
	RotaryDim int `json:"rotary_dim"`
	// RotaryInterleaved pairs neighbours (GPT-J); else the halves (GPT-NeoX).
	RotaryInterleaved bool `json:"rotary_interleaved"`
}

// Tokens are the ids of the tokens that the code must know.
type Tokens struct {
	BOS        int `json:"bos"`
	Frame      int `json:"frame"`
	Describe   int `json:"describe"`
	Changes    int `json:"changes"`
	Ask        int `json:"ask"`
	Answer     int `json:"answer"`
	Nothing    int `json:"nothing"`
	CannotTell int `json:"cannot_tell"`
	End        int `json:"end"`
	Pad        int `json:"pad"`
	Yes        int `json:"yes"`
	No         int `json:"no"`
}

// Clip says how cosines between picture and text become probabilities:
// sigmoid(LogitScale*cosine + LogitBias).
type Clip struct {
	LogitScale float64 `json:"logit_scale"`
	LogitBias  float64 `json:"logit_bias"`
	// MaxTokens is how many tokens of a text are read.
	MaxTokens int `json:"max_tokens"`
	// Templates hold "{}" where the label goes.
	Templates []string `json:"templates"`
	// Labels are the ones to try when the user names none.
	Labels []string `json:"labels"`
}

// Domain is what the model was trained for.
type Domain struct {
	// Threshold is the encoder's distance above which a picture is strange.
	Threshold   float64 `json:"threshold"`
	Description string  `json:"description"`
}

// Calibration makes probabilities true.
type Calibration struct {
	// YesNoTemperature divides the logits of yes and no.
	YesNoTemperature float64 `json:"yesno_temperature"`
	// DescribeProbability and ChangesProbability are what a sentence must have to
	// be told, the product of its tokens' (0 to 1). They default to 0: all is told.
	DescribeProbability float64 `json:"describe_probability,omitempty"`
	ChangesProbability  float64 `json:"changes_probability,omitempty"`
	// RelationProbability is the same for a description's sentence about two that it
	// has named ("The dog runs towards the van."), those before it counted in. It
	// defaults to 0: as any sentence.
	RelationProbability float64 `json:"relation_probability,omitempty"`
	// AnswerProbability is the same for answers, other than yes and no: without it
	// the model says that it cannot tell.
	AnswerProbability float64 `json:"answer_probability,omitempty"`
}

// Generation holds defaults of answers.
type Generation struct {
	MaxNewTokens int `json:"max_new_tokens"`
}

// graphs are the files that a lookout bundle cannot do without.
var graphs = []string{"encoder.onnx", "temporal.onnx", "text.onnx", "embed.onnx", "decoder.onnx", "tokenizer.json"}

// ParseManifest reads and checks manifest.json. Unknown fields are refused: a
// bundle that says more than is understood would be run wrongly.
func ParseManifest(data []byte) (Manifest, error) {
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Manifest{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Manifest{}, errors.New("more after the manifest's end")
	}
	return m, m.validate()
}

func (m *Manifest) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if m.Format != 1 {
		bad("format %d is not understood (want 1): use a newer lookout", m.Format)
	}
	if m.Layout != Lookout {
		bad("layout %q is not %q", m.Layout, Lookout)
	}
	if m.Name == "" || m.Version == "" {
		bad("name and version must be given")
	}
	for _, g := range graphs {
		if _, ok := m.Files[g]; !ok {
			bad("files: %s is not listed", g)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		if f := m.Files[name]; name != path.Base(name) || strings.ContainsAny(name, `\/`) || name == "." || name == ".." || len(f.SHA256) != 64 || f.Size <= 0 {
			bad("files: %q needs a plain name, a sha256 of 64 hex digits and a size", name)
		}
	}
	im, e, t, d := m.Image, m.Encoder, m.Temporal, m.Decoder
	const most = 1 << 24 // keeps products within int64 and buffers within reason
	for _, f := range []struct {
		name string
		v    int
	}{
		{"image.width", im.Width}, {"image.height", im.Height}, {"image.patch", im.Patch},
		{"encoder.dim", e.Dim}, {"encoder.embed", e.Embed}, {"encoder.patches", e.Patches},
		{"encoder.grid_width", e.GridWidth}, {"encoder.grid_height", e.GridHeight}, {"clip.max_tokens", m.Clip.MaxTokens},
		{"temporal.layers", t.Layers}, {"temporal.window", t.Window}, {"temporal.tokens_per_frame", t.TokensPerFrame}, {"temporal.width", t.Width},
		{"decoder.layers", d.Layers}, {"decoder.kv_heads", d.KVHeads}, {"decoder.head_dim", d.HeadDim}, {"decoder.heads", d.Heads}, {"decoder.width", d.Width},
		{"decoder.vocab", d.Vocab}, {"decoder.max_context", d.MaxContext}, {"decoder.frames_in_window", d.FramesInWindow}, {"decoder.rotary_dim", d.RotaryDim},
		{"generation.max_new_tokens", m.Generation.MaxNewTokens},
	} {
		if f.v <= 0 || f.v > most {
			bad("%s is %d", f.name, f.v)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if w, h := e.GridWidth, e.GridHeight; w*im.Patch != im.Width || h*im.Patch != im.Height || w*h != e.Patches {
		bad("an image of %dx%d in patches of %d is no grid of %dx%d, %d patches", im.Width, im.Height, im.Patch, w, h, e.Patches)
	}
	if !(im.SampleFPS > 0 && im.SampleFPS <= 1000) {
		bad("image.sample_fps is %v", im.SampleFPS)
	}
	if d.Heads%d.KVHeads != 0 {
		bad("decoder.heads %d is no multiple of kv_heads %d", d.Heads, d.KVHeads)
	}
	if d.RotaryDim > d.HeadDim || d.RotaryDim%2 != 0 || !(d.RopeTheta > 0) {
		bad("decoder.rotary_dim %d, head_dim %d, rope_theta %v do not fit", d.RotaryDim, d.HeadDim, d.RopeTheta)
	}
	if need := 1 + d.FramesInWindow*(1+t.TokensPerFrame) + m.Generation.MaxNewTokens + 3; need > d.MaxContext {
		bad("decoder.max_context %d holds no %d frames of %d tokens and an answer of %d (%d are needed)", d.MaxContext, d.FramesInWindow, t.TokensPerFrame, m.Generation.MaxNewTokens, need)
	}
	seen := map[int]string{}
	for _, k := range m.Tokens.list() {
		if k.id < 0 || k.id >= d.Vocab {
			bad("tokens.%s %d is outside the vocabulary of %d", k.name, k.id, d.Vocab)
		} else if other := seen[k.id]; other != "" {
			bad("tokens.%s and tokens.%s are both %d", other, k.name, k.id)
		}
		seen[k.id] = k.name
	}
	for _, tpl := range m.Clip.Templates {
		if strings.Count(tpl, "{}") != 1 {
			bad("clip.templates: %q must hold {} once", tpl)
		}
	}
	if !(m.Clip.LogitScale > 0) {
		bad("clip.logit_scale is %v", m.Clip.LogitScale)
	}
	if !(m.Calibration.YesNoTemperature > 0) {
		bad("calibration.yesno_temperature is %v", m.Calibration.YesNoTemperature)
	}
	for name, p := range map[string]float64{"describe": m.Calibration.DescribeProbability, "changes": m.Calibration.ChangesProbability, "relation": m.Calibration.RelationProbability, "answer": m.Calibration.AnswerProbability} {
		if !(p >= 0 && p < 1) {
			bad("calibration.%s_probability is %v", name, p)
		}
	}
	if !(m.Domain.Threshold > 0) {
		bad("domain.threshold is %v", m.Domain.Threshold)
	}
	return errors.Join(errs...)
}

type namedID struct {
	name string
	id   int
}

func (t Tokens) list() []namedID {
	return []namedID{
		{"bos", t.BOS}, {"frame", t.Frame}, {"describe", t.Describe}, {"changes", t.Changes}, {"ask", t.Ask}, {"answer", t.Answer},
		{"nothing", t.Nothing}, {"cannot_tell", t.CannotTell}, {"end", t.End}, {"pad", t.Pad}, {"yes", t.Yes}, {"no", t.No},
	}
}
