package vlm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lookout-video/lookout/encoder/vision"
)

// config is what this package needs of a model's own files.
type config struct {
	ImageTokenID   int     `json:"image_token_id"`
	ImageTokenIdx  int     `json:"image_token_index"`
	VideoTokenIdx  int     `json:"video_token_index"`
	ScaleFactor    int     `json:"scale_factor"`
	SelectStrategy string  `json:"vision_feature_select_strategy"`
	AspectRatio    string  `json:"vision_aspect_ratio"`
	EOS            oneOf   `json:"eos_token_id"`
	LogitScale     float64 `json:"logit_scale"`
	LogitBias      float64 `json:"logit_bias"`
	Text           text    `json:"text_config"`
	text                   // decoder-only models have it at the top
	Vision         struct {
		ModelType string `json:"model_type"`
		Image     int    `json:"image_size"`
		Patch     int    `json:"patch_size"`
	} `json:"vision_config"`

	// cell is how many pixels a side one token stands for, where the processor's
	// configuration says it: FastVLM's encoder has no patches.
	cell int
}

type text struct {
	Hidden    int   `json:"hidden_size"`
	Layers    int   `json:"num_hidden_layers"`
	Heads     int   `json:"num_attention_heads"`
	KVHeads   int   `json:"num_key_value_heads"`
	HeadDim   int   `json:"head_dim"`
	Positions int   `json:"max_position_embeddings"`
	Vocab     int   `json:"vocab_size"`
	EOS       oneOf `json:"eos_token_id"`

	// How keys are turned by their places.
	ModelType   string          `json:"model_type"`
	RopeTheta   float64         `json:"rope_theta"`
	RopeScaling json.RawMessage `json:"rope_scaling"`
	Rope        json.RawMessage `json:"rope_parameters"` // both in one, in newer files
	Partial     float64         `json:"partial_rotary_factor"`
}

// oneOf is a number, several, or null.
type oneOf []int

func (o *oneOf) UnmarshalJSON(b []byte) error {
	var n *int
	if json.Unmarshal(b, &n) == nil {
		if *o = nil; n != nil {
			*o = oneOf{*n}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]int)(o))
}

// readConfig reads config.json, and generation_config.json for what ends an
// answer.
func readConfig(dir string) (*config, error) {
	var c config
	if err := readJSON(dir, "config.json", true, &c); err != nil {
		return nil, err
	}
	if c.Text.Hidden == 0 {
		c.Text = c.text
	}
	t := &c.Text
	if t.KVHeads == 0 {
		t.KVHeads = t.Heads
	}
	if t.HeadDim == 0 && t.Heads > 0 {
		t.HeadDim = t.Hidden / t.Heads
	}
	if c.ImageTokenID == 0 {
		c.ImageTokenID = c.ImageTokenIdx
	}
	if c.AspectRatio == "" {
		c.AspectRatio = "anyres_max_9" // what LLaVA-OneVision's class has
	}
	if c.ScaleFactor == 0 {
		c.ScaleFactor = 1
	}
	var g struct {
		EOS oneOf `json:"eos_token_id"`
	}
	if err := readJSON(dir, "generation_config.json", false, &g); err != nil {
		return nil, err
	}
	c.EOS = slices.Concat(c.EOS, t.EOS, g.EOS)
	var p struct {
		Patch int `json:"patch_size"`
	}
	if err := readJSON(dir, "processor_config.json", false, &p); err != nil {
		return nil, err
	}
	c.cell = p.Patch
	return &c, nil
}

func readJSON(dir, name string, must bool, to any) error {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) && !must {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil {
		return fmt.Errorf("vlm: %s: %s: %w", dir, name, err)
	}
	return nil
}

// readPreprocessor reads how stills and, where it says otherwise, video frames
// are prepared. Both may be nested in processor_config.json.
func readPreprocessor(dir string) (still, video vision.Config, err error) {
	var nested struct {
		Image json.RawMessage `json:"image_processor"`
		Video json.RawMessage `json:"video_processor"`
	}
	if err := readJSON(dir, "processor_config.json", false, &nested); err != nil {
		return still, video, err
	}
	data, err := os.ReadFile(filepath.Join(dir, "preprocessor_config.json"))
	if err != nil {
		if nested.Image == nil || !errors.Is(err, fs.ErrNotExist) {
			return still, video, fmt.Errorf("vlm: %w", err)
		}
		data = nested.Image
	}
	if still, err = vision.ParseConfig(data); err != nil {
		return still, video, fmt.Errorf("vlm: %s: %w", dir, err)
	}
	data, err = os.ReadFile(filepath.Join(dir, "video_preprocessor_config.json"))
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return still, video, fmt.Errorf("vlm: %w", err)
	case nested.Video != nil:
		data = nested.Video
	default: // older files: what the still's says, at the size of one tile
		video = still
		if n := still.MaxImageSize.LongestEdge; n > 0 {
			video.Size = vision.Size{LongestEdge: n}
		}
		return still, video, nil
	}
	if video, err = vision.ParseConfig(data); err != nil {
		return still, video, fmt.Errorf("vlm: %s: video: %w", dir, err)
	}
	return still, video, nil
}

// mostTiles reads "anyres_max_9".
func (c *config) mostTiles() int {
	n, err := strconv.Atoi(strings.TrimPrefix(c.AspectRatio, "anyres_max_"))
	if err != nil || n <= 0 {
		return math.MaxInt32
	}
	return n
}

// side is how many patches a tile has in a row.
func (c *config) side() int {
	if c.Vision.Patch == 0 {
		return 0
	}
	return c.Vision.Image / c.Vision.Patch
}
