package ort

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
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
			for i, src := range []Source{{Path: path}, {Path: path}, {Data: data}, {Path: kept[0]}} { // preparing, prepared, not, and not with weights beside it
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
