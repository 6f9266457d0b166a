package ort

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Of an output that is a product only the last row is made, and it is the one that
// the whole has, whether the graph is prepared or not; others stay whole.
func TestLastRow(t *testing.T) {
	const rows = 5
	for _, c := range []struct {
		graph, output string
		in, out, rows int
		near          float64
	}{
		{"products", "small", 256, 40, 1, 1e-5},
		{"products", "wide", 256, 40, 1, 1e-5},
		{"products", "exact", 256, 40, 1, 1e-5}, // the library's
		{"products", "zeros", 256, 40, 1, 1e-5},
		{"folded", "normed", 90, 90, rows, 1e-5}, // not a product
		{"gated", "four", 256, 48, rows, 1e-5},
	} {
		onEach(t, c.graph+" "+c.output, func(t *testing.T) {
			path := filepath.Join("testdata", c.graph+".onnx")
			e := open(t, Config{CacheDir: t.TempDir(), Threads: 2})
			batch := 3
			x := make([]float32, batch*rows*c.in)
			random := rand.New(rand.NewPCG(5, 6))
			for i := range x {
				x[i] = random.Float32()*4 - 2
			}
			run := func(src Source, opt Options, rows int) []float32 {
				t.Helper()
				opt.Outputs = []string{c.output}
				s, err := e.NewSession(src, opt)
				if err != nil {
					t.Fatal(err)
				}
				if n := s.Outputs[0].Shape[1]; n != -1 && n != rows || n == -1 && rows == 1 {
					t.Fatalf("%d rows, want %d", n, rows)
				}
				b, err := s.NewBinding()
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				y := make([]float32, batch*rows*c.out)
				bind(t, b, "x", x, batch, len(x)/batch/c.in, c.in)
				bind(t, b, c.output, y, batch, rows, c.out)
				if err := b.Step(t.Context()); err != nil {
					t.Fatal(err)
				}
				return y
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			run(Source{Path: path}, Options{}, rows)
			kept, err := filepath.Glob(filepath.Join(e.cfg.CacheDir, "*", preparedGraph))
			if err != nil || len(kept) != 1 {
				t.Fatal("kept:", kept, err)
			}
			elsewhere, link := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "link")
			if err := errors.Join(os.WriteFile(elsewhere, data, 0o600), os.Symlink(elsewhere, link)); err != nil {
				t.Fatal(err)
			}
			beside := linked(t, filepath.Dir(kept[0]))
			for i, src := range []Source{
				{Path: path}, {Path: path}, {Data: data}, // preparing, prepared, not
				{Path: path}, {Path: link}, {Path: kept[0]}, {Path: beside}, // not, with weights in the file, and beside it
			} {
				if i == 3 {
					e.cfg.CacheDir = ""
				}
				whole, last := run(src, Options{}, rows), run(src, Options{LastRow: c.output}, c.rows)
				for i, y := range last {
					sequence, at := i/(c.rows*c.out), i%(c.rows*c.out)
					if want := whole[(sequence*rows+rows-c.rows)*c.out+at]; math.Abs(float64(y-want)) > c.near {
						t.Fatalf("%s: sequence %d: element %d is %v, want %v", src.Path, sequence, at, y, want)
					}
				}
			}
		})
	}
}

// linked gives a prepared graph as hubs keep models: as links to files of other names.
func linked(t *testing.T, dir string) string {
	t.Helper()
	blobs, links := t.TempDir(), t.TempDir()
	for _, name := range []string{preparedGraph, preparedWeights} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		blob := filepath.Join(blobs, "blob of "+name)
		if err = errors.Join(err, os.WriteFile(blob, data, 0o600), os.Symlink(blob, filepath.Join(links, name))); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(links, preparedGraph)
}

// A model is prepared and read where its files are links, and where its weights are in
// no folder below the graph's.
func TestLinkedModel(t *testing.T) {
	dir := t.TempDir()
	e := open(t, Config{CacheDir: dir})
	load := loader(t, e)
	load(Source{Path: filepath.Join("testdata", "products.onnx")})
	paths, _ := kept(t, dir)
	graph := linked(t, paths[0])
	load(Source{Path: graph})
	if paths, _ := kept(t, dir); len(paths) != 2 {
		t.Errorf("%d graphs are kept, want 2", len(paths))
	}
	data, err := os.ReadFile(filepath.Join(paths[0], preparedWeights))
	weights := filepath.Join(filepath.Dir(graph), preparedWeights)
	if err = errors.Join(err, os.Remove(weights), os.WriteFile(weights, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	load(Source{Path: graph})
	if err := os.Remove(weights); err != nil {
		t.Fatal(err)
	}
	if _, err := e.NewSession(Source{Path: graph}, Options{}); err == nil || !strings.Contains(err.Error(), weights) {
		t.Errorf("without its weights: %v, want %s named", err, weights)
	}
}

// What is changed of a graph's file are its few kilobytes of nodes: its weights are told
// of where they lie, which is at no multiple of anything.
func TestWeightsStayInTheirFile(t *testing.T) {
	for _, name := range []string{"products.onnx", "folded.onnx"} {
		path := filepath.Join("testdata", name)
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		src, err := apart(Source{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		lean := src.Data
		was, is := map[string]table{}, map[string]table{}
		for model, weights := range map[*[]byte]map[string]table{&file: was, &lean: is} {
			if err := parts(*model, func(operator) {}, func(name string, w table) { weights[name] = w }); err != nil {
				t.Fatal(err)
			}
		}
		left, odd := 0, 0
		for name, w := range was {
			raw := is[name].raw
			if raw == nil {
				at := is[name].offset
				raw = file[at : at+is[name].size]
				left += len(raw)
				if at%4 != 0 {
					odd++
				}
			}
			if !bytes.Equal(raw, w.raw) || !slices.Equal(is[name].dims, w.dims) || is[name].kind != w.kind {
				t.Errorf("%s has changed", name)
			}
		}
		if len(is) != len(was) || left == 0 || odd == 0 || len(lean) > len(file)-left+200*len(is) {
			t.Errorf("%s: %d of %d weights, %d bytes left in the file, %d of them at odd places, and %d of %d bytes of the model", name, len(is), len(was), left, odd, len(lean), len(file))
		}
	}
}
