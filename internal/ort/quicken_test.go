package ort

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// attend reads five tokens and then one more, and gives what attention made of
// both.
func attend(t *testing.T, s *Session) []float32 {
	t.Helper()
	const room = 32
	keys, values := make([]float32, room*32), make([]float32, room*32)
	random := rand.New(rand.NewPCG(1, 2))
	var all []float32
	for _, n := range []int{5, 1} {
		b, err := s.NewBinding()
		if err != nil {
			t.Fatal(err)
		}
		qkv, out := make([]float32, n*128), make([]float32, n*64)
		for i := range qkv {
			qkv[i] = random.Float32()*4 - 2
		}
		for _, name := range []string{"past_key_values.0.", "present.0."} {
			bind(t, b, name+"key", keys, 1, 1, room, 32)
			bind(t, b, name+"value", values, 1, 1, room, 32)
		}
		bind(t, b, "qkv", qkv, 1, n, 128)
		bind(t, b, "used", []int32{int32(len(all)/64+n) - 1}, 1)
		bind(t, b, "total", []int32{room}, 1)
		bind(t, b, "out", out, 1, n, 64)
		if err := b.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		all = append(all, out...)
	}
	return all
}

// What is prepared is changed where it can be, and computes the same: in the
// process that prepares it, in the next, and with tables in the graph's file or
// the other.
func TestPreparedAttention(t *testing.T) {
	for name, changes := range map[string]bool{"attention.onnx": true, "attention_partial.onnx": false} {
		t.Run(name, func(t *testing.T) { preparedAttention(t, name, changes) })
	}
}

func preparedAttention(t *testing.T, name string, changes bool) {
	dir := t.TempDir()
	e := open(t, Config{CacheDir: dir})
	path := filepath.Join("testdata", name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	load := func(src Source) *Session {
		s, err := e.NewSession(src, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := attend(t, load(Source{Data: data})) // nothing tells it from others: it is not prepared
	for _, how := range []string{"preparing", "prepared"} {
		for i, x := range attend(t, load(Source{Path: path})) {
			if math.Abs(float64(x-want[i])) > 1e-5 {
				t.Fatalf("%s, %s: element %d is %v, unprepared %v", name, how, i, x, want[i])
			}
		}
	}
	paths, _ := kept(t, dir)
	graph, err := os.ReadFile(filepath.Join(paths[0], preparedGraph))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := fields(graph, func(num, _ uint64, b []byte) error {
		if num != 7 {
			return nil
		}
		return fields(b, func(num, _ uint64, b []byte) error {
			if num != 1 {
				return nil
			}
			op, err := readNode(b)
			if n++; float(op.scale) == 1 != changes {
				t.Errorf("%s: the scale is %v", name, float(op.scale))
			}
			return err
		})
	}); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	// The tables were in the other file; here they are in the graph's.
	again := bytes.Clone(data)
	scale, tables, err := unscale(again)
	if err != nil || (len(tables) == 2) != changes || bytes.Equal(again, data) == changes {
		t.Fatal(name, scale, len(tables), err)
	}
	for _, table := range tables {
		multiply(table.raw, float32(math.Sqrt(float64(scale))))
	}
	for i, x := range attend(t, load(Source{Data: again})) {
		if math.Abs(float64(x-want[i])) > 1e-5 {
			t.Fatalf("%s, in one file: element %d is %v, want %v", name, i, x, want[i])
		}
	}
}
