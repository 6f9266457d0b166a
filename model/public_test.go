package model

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// folder makes files in a new folder: names ending in .json hold config.
func folder(t *testing.T, config string, names ...string) string {
	dir := t.TempDir()
	for _, n := range append(names, "config.json") {
		text := ""
		if n == "config.json" {
			if text = config; text == "" {
				continue
			}
		}
		p := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDetectPublic(t *testing.T) {
	three := []string{"onnx/vision_encoder_q4.onnx", "onnx/embed_tokens.onnx", "onnx/decoder_model_merged_fp16.onnx"}
	for _, c := range []struct {
		config string
		files  []string
		want   Layout
		err    string
	}{
		{`{"model_type":"smolvlm"}`, three, SmolVLM, ""},
		{`{"model_type":"idefics3"}`, three, SmolVLM, ""},
		{`{"model_type":"llava_next"}`, three, LlavaNext, ""},
		{`{"model_type":"llava_onevision"}`, three, LlavaOneVision, ""},
		{`{"model_type":"llava"}`, three, Llava, ""},
		{`{"model_type":"llava_qwen2"}`, three, Llava, ""},
		{`{"model_type":"fast_vlm"}`, three, Llava, ""},
		{`{"model_type":"clip"}`, []string{"onnx/vision_model.onnx", "onnx/text_model_int8.onnx"}, CLIP, ""},
		{`{"model_type":"siglip"}`, []string{"onnx/vision_model.onnx", "onnx/text_model.onnx"}, SigLIP, ""},
		{`{"model_type":"siglip2"}`, []string{"onnx/vision_model_q4.onnx", "onnx/text_model.onnx"}, SigLIP, ""},
		{`{"model_type":"llama"}`, []string{"onnx/model_q4.onnx"}, DecoderOnly, ""},
		{`{"model_type":"qwen2"}`, []string{"model.onnx"}, DecoderOnly, ""},
		{`{"model_type":"llama"}`, []string{"onnx/decoder_with_past_model.onnx"}, DecoderOnly, ""},
		{`{"model_type":"smolvlm"}`, three[:2], "", "decoder_model_merged"},
		{`{"model_type":"clip"}`, []string{"onnx/vision_model.onnx"}, "", "text_model"},
		{`{"model_type":"whisper"}`, []string{"onnx/encoder_model.onnx"}, "", "whisper"},
		{`{`, nil, "", "config.json"},
		{``, nil, "", "no layout"},
	} {
		got, err := Detect(folder(t, c.config, c.files...))
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s %v: %q %v", c.config, c.files, got, err)
		}
	}
}

func TestGraphVariants(t *testing.T) {
	dir := folder(t, "", "onnx/decoder_model_merged.onnx", "onnx/decoder_model_merged_q4.onnx", "onnx/decoder_model_merged_q4f16.onnx", "onnx/decoder_model_merged_fp16.onnx", "onnx/decoder_model_merged_nonsense.onnx", "onnx/embed_tokens_quantized.onnx")
	if got := Variants(dir, "decoder_model_merged"); !slices.Contains(got, "fp32") || !slices.Contains(got, "q4f16") || len(got) != 4 {
		t.Errorf("variants %v", got)
	}
	for _, c := range []struct {
		name, precision string
		gpu             bool
		want            string
	}{
		{"decoder_model_merged", "", false, "decoder_model_merged_q4.onnx"},
		{"decoder_model_merged", "auto", true, "decoder_model_merged_fp16.onnx"},
		{"decoder_model_merged", "fp32", true, "decoder_model_merged.onnx"},
		{"decoder_model_merged", "q4f16", false, "decoder_model_merged_q4f16.onnx"},
		{"embed_tokens", "", false, "embed_tokens_quantized.onnx"},
	} {
		got, err := Graph(dir, c.name, c.precision, c.gpu)
		if err != nil || filepath.Base(got) != c.want {
			t.Errorf("%+v: %s %v", c, got, err)
		}
	}
	_, err := Graph(dir, "decoder_model_merged", "int8", false)
	if !errors.Is(err, ErrNoVariant) || !strings.Contains(err.Error(), "int8") || !strings.Contains(err.Error(), "q4f16") {
		t.Errorf("a precision that is not there: %v", err)
	}
	if _, err := Graph(dir, "vision_encoder", "", false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a graph that is not there: %v", err)
	}
}
