package model

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// whole is a bundle that Open takes, without graphs in it.
const whole = "../llm/testdata/half"

// copyBundle gives a test a bundle of its own to break.
func copyBundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOpen(t *testing.T) {
	b, err := Open(whole)
	if err != nil {
		t.Fatal(err)
	}
	if b.Name != "half" || b.Version != "test" || !strings.HasPrefix(b.Hash, "sha256:") || len(b.Hash) != 23 {
		t.Errorf("%+v", b)
	}
	data, err := b.Read("encoder.onnx")
	if err != nil || int64(len(data)) != b.Manifest.Files["encoder.onnx"].Size {
		t.Error(len(data), err)
	}
	if b.Path("x") != filepath.Join(whole, "x") {
		t.Error(b.Path("x"))
	}
	if l, err := Detect(whole); err != nil || l != Lookout {
		t.Error(l, err)
	}
}

func TestOpenNamesTheFileAndTheFix(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		is    error
		want  []string
	}{
		"missing":   {func(d string) error { return os.Remove(filepath.Join(d, "text.onnx")) }, ErrBroken, []string{"text.onnx is missing", "lookout models pull"}},
		"short":     {func(d string) error { return os.Truncate(filepath.Join(d, "decoder.onnx"), 100) }, ErrBroken, []string{"decoder.onnx has 100 bytes", "lookout models pull"}},
		"other sum": {flip, ErrBroken, []string{"the sha256 of decoder.onnx", "lookout models pull"}},
		"no bundle": {func(d string) error { return os.Remove(filepath.Join(d, "manifest.json")) }, ErrNoManifest, []string{"no manifest.json"}},
		"bad JSON": {func(d string) error {
			return os.WriteFile(filepath.Join(d, "manifest.json"), []byte(`{"format":1,`), 0o644)
		}, nil, []string{"manifest.json"}},
		"no folder": {os.RemoveAll, os.ErrNotExist, nil},
		"not a bool": {func(d string) error {
			return edit(d, func(m map[string]any) { m["decoder"].(map[string]any)["rotary_interleaved"] = 3 })
		}, nil, []string{"rotary_interleaved"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyBundle(t)
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir)
			if err == nil {
				t.Fatal("opened")
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v is not %v", err, c.is)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
	if _, err := Open(filepath.Join(whole, "manifest.json")); err == nil || !strings.Contains(err.Error(), "is a file") {
		t.Error(err)
	}
}

// flip changes one byte in the middle of a file.
func flip(dir string) error {
	p := filepath.Join(dir, "decoder.onnx")
	data, err := os.ReadFile(p)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(p, data, 0o644)
}

func edit(dir string, f func(map[string]any)) error {
	p := filepath.Join(dir, "manifest.json")
	data, err := os.ReadFile(p)
	if err != nil {
		return err
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	f(m)
	if data, err = json.Marshal(m); err != nil {
		return err
	}
	return os.WriteFile(p, data, 0o644)
}

func TestManifestIsCheckedWhole(t *testing.T) {
	sub := func(m map[string]any, k string) map[string]any { return m[k].(map[string]any) }
	for want, f := range map[string]func(m map[string]any){
		`unknown field "colour"`:            func(m map[string]any) { m["colour"] = 1 },
		"format 2 is not understood":        func(m map[string]any) { m["format"] = 2 },
		`layout "clip"`:                     func(m map[string]any) { m["layout"] = "clip" },
		"temporal.window is 0":              func(m map[string]any) { delete(sub(m, "temporal"), "window") },
		"is no grid of":                     func(m map[string]any) { sub(m, "image")["width"] = 48 },
		"tokens.end 5000 is outside":        func(m map[string]any) { sub(m, "tokens")["end"] = 5000 },
		"tokens.pad and tokens.no are both": func(m map[string]any) { sub(m, "tokens")["no"] = 0 },
		"max_context 20 holds no 4 frames":  func(m map[string]any) { sub(m, "decoder")["max_context"] = 20 },
		"heads 3 is no multiple":            func(m map[string]any) { sub(m, "decoder")["heads"] = 3 },
		"rotary_dim 7":                      func(m map[string]any) { sub(m, "decoder")["rotary_dim"] = 7 },
		"must hold {} once":                 func(m map[string]any) { sub(m, "clip")["templates"] = []string{"a photo"} },
		"yesno_temperature is 0":            func(m map[string]any) { sub(m, "calibration")["yesno_temperature"] = 0 },
		"describe_probability is 1":         func(m map[string]any) { sub(m, "calibration")["describe_probability"] = 1 },
		"answer_probability is 2":           func(m map[string]any) { sub(m, "calibration")["answer_probability"] = 2 },
		"relation_probability is 1.5":       func(m map[string]any) { sub(m, "calibration")["relation_probability"] = 1.5 },
		"changes_probability is -0.5":       func(m map[string]any) { sub(m, "calibration")["changes_probability"] = -0.5 },
		"embed.onnx is not listed":          func(m map[string]any) { delete(sub(m, "files"), "embed.onnx") },
		`"../x" needs a plain name`: func(m map[string]any) {
			sub(m, "files")["../x"] = map[string]any{"sha256": strings.Repeat("0", 64), "size": 1}
		},
		"decoder.vocab is 1000000000":    func(m map[string]any) { sub(m, "decoder")["vocab"] = 1000000000 },
		"name and version must be given": func(m map[string]any) { m["name"] = "" },
	} {
		dir := copyBundle(t)
		if err := edit(dir, f); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want ...%s...", err, want)
		}
	}
}

// The embedded bundle is whole, or a clear error.
func TestDefault(t *testing.T) {
	b, err := Default()
	if _, statErr := os.Stat("default/manifest.json"); statErr != nil {
		if !errors.Is(err, ErrNoDefault) {
			t.Fatalf("without a model: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
	total := int64(0)
	for _, f := range b.Manifest.Files {
		total += f.Size
	}
	if total > 25<<20 {
		t.Errorf("the embedded bundle has %d bytes, more than 25 MB", total)
	}
}

func FuzzParseManifest(f *testing.F) {
	data, err := os.ReadFile(filepath.Join(whole, "manifest.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err == nil && (m.Decoder.KVHeads < 1 || m.Encoder.GridWidth*m.Encoder.GridHeight != m.Encoder.Patches) {
			t.Fatalf("accepted %+v", m)
		}
	})
}
