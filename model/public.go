package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The layouts of public models: ONNX files under the names that exporters
// give them, beside the model's own config.json.
const (
	SmolVLM        Layout = "smolvlm" // and Idefics3
	LlavaNext      Layout = "llava_next"
	LlavaOneVision Layout = "llava_onevision"
	Llava          Layout = "llava" // and LLaVA-NeXT-Interleave, FastVLM
	CLIP           Layout = "clip"
	SigLIP         Layout = "siglip"
	DecoderOnly    Layout = "decoder"
)

var publicTypes = map[string]Layout{
	"smolvlm": SmolVLM, "idefics3": SmolVLM, "llava_next": LlavaNext, "llava_onevision": LlavaOneVision, "llava": Llava, "llava_qwen2": Llava, "fast_vlm": Llava,
	"clip": CLIP, "siglip": SigLIP, "siglip2": SigLIP,
}

// ErrNoVariant is wrapped when a folder has no file of the precision asked for.
var ErrNoVariant = errors.New("model: no file of that precision")

// detectPublic reads model_type and looks whether the files that it needs are
// there.
func detectPublic(dir string) (Layout, error) {
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return "", err
	}
	var c struct {
		ModelType string `json:"model_type"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return "", fmt.Errorf("model: %s: config.json: %w", dir, err)
	}
	l, known := publicTypes[c.ModelType]
	switch {
	case known && (l == CLIP || l == SigLIP):
		err = need(dir, "vision_model", "text_model")
	case known:
		err = need(dir, "vision_encoder", "embed_tokens", "decoder_model_merged|decoder_with_past_model")
	default:
		l = DecoderOnly
		if err = need(dir, "decoder_model_merged|decoder_with_past_model|model"); err != nil {
			err = fmt.Errorf("model_type %q is not known, and as a language model: %w", c.ModelType, err)
		}
	}
	if err != nil {
		return "", fmt.Errorf("model: %s: %w", dir, err)
	}
	return l, nil
}

func need(dir string, names ...string) error {
	for _, alternatives := range names {
		if !slices.ContainsFunc(strings.Split(alternatives, "|"), func(n string) bool { return len(Variants(dir, n)) > 0 }) {
			return fmt.Errorf("onnx/%s.onnx is missing: %w", strings.ReplaceAll(alternatives, "|", ".onnx or "), fs.ErrNotExist)
		}
	}
	return nil
}

// Variants lists the precisions in which the graph called name lies in dir or
// dir/onnx: "fp32" for the file without a suffix, else the suffix.
func Variants(dir, name string) []string {
	var found []string
	for _, sub := range []string{"onnx", "."} {
		files, _ := filepath.Glob(filepath.Join(dir, sub, name+"*.onnx")) // only a bad pattern fails
		for _, f := range files {
			suffix, ok := strings.CutPrefix(strings.TrimSuffix(filepath.Base(f), ".onnx"), name)
			if suffix == "" {
				suffix = "_fp32"
			}
			if p := strings.TrimPrefix(suffix, "_"); ok && suffix != p && slices.Contains(precisions, p) && !slices.Contains(found, p) {
				found = append(found, p)
			}
		}
	}
	return found
}

var precisions = []string{"fp32", "fp16", "q4", "q4f16", "int8", "uint8", "quantized", "bnb4"}

// The order in which files are taken when nobody says which. On a CPU q4 is the
// smallest whose kernels are fast and whose loss is small; without it fp32 comes
// before int8, which costs more of what a vision encoder sees, and before half
// precision, which CPUs only widen. On a GPU half precision is native.
var (
	onCPU = []string{"q4", "fp32", "quantized", "int8", "uint8", "fp16", "q4f16", "bnb4"}
	onGPU = []string{"fp16", "q4f16", "fp32", "q4", "int8", "uint8", "quantized", "bnb4"}
)

// Prefer picks of the precisions that there are the one that suits a CPU or a
// GPU, "" when there is none.
func Prefer(have []string, gpu bool) string {
	order := onCPU
	if gpu {
		order = onGPU
	}
	for _, p := range order {
		if slices.Contains(have, p) {
			return p
		}
	}
	return ""
}

// Graph finds the graph called name. precision is "" or "auto" for what suits
// the device, or one of fp32, fp16, q4, q4f16, int8, uint8, quantized, bnb4.
func Graph(dir, name, precision string, gpu bool) (path string, err error) {
	have := Variants(dir, name)
	pick := precision
	if precision == "" || precision == "auto" {
		if pick = Prefer(have, gpu); pick == "" {
			return "", fmt.Errorf("model: %s: %s.onnx is missing: %w", dir, name, fs.ErrNotExist)
		}
	}
	if !slices.Contains(have, pick) {
		if len(have) == 0 {
			return "", fmt.Errorf("model: %s: %s.onnx is missing: %w", dir, name, fs.ErrNotExist)
		}
		return "", fmt.Errorf("%w: %s has no %s of precision %s; there is %s: choose one of them, or download the other", ErrNoVariant, dir, name, pick, strings.Join(have, ", "))
	}
	suffix := "_" + pick
	if pick == "fp32" {
		suffix = ""
	}
	for _, sub := range []string{"onnx", "."} {
		for _, s := range []string{suffix, "_" + pick} {
			p := filepath.Join(dir, sub, name+s+".onnx")
			if _, err := os.Stat(p); err == nil {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("model: %s: %s%s.onnx is missing: %w", dir, name, suffix, fs.ErrNotExist)
}
