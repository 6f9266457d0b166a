package ort

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/lookout-video/lookout/internal/ort/kernels"
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

// Attention that is left to the library is changed where it can be, and computes the same: in the
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
	e.own = false
	path := filepath.Join("testdata", name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	load := loader(t, e)
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
			if n++; float(op.floats["scale"]) == 1 != changes {
				t.Errorf("%s: the scale is %v", name, float(op.floats["scale"]))
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

// Products with weights of 4 and 8 bits, and what stands between them, give what
// the library's own give, for any number of rows; what is left to it is its own.
func TestPreparedProducts(t *testing.T) {
	for _, c := range []struct {
		name    string
		ours    int
		folded  int
		inputs  []string
		in, out int // how wide
		spread  float32
		near    map[string]float64
	}{
		{name: "products", ours: 3, inputs: []string{"x"}, in: 256, out: 40, spread: 4, near: map[string]float64{"small": 2e-3, "large": 2e-3, "wide": 2e-2}}, // our scales have 16 bits
		{name: "eight", ours: 7, inputs: []string{"x", "keys"}, in: 90, out: 90, spread: 2, near: map[string]float64{"attended": 1.5e-3, "gated": 1.5e-3, // in 16 bits
			"q": 2e-5, "k": 2e-5, "v": 2e-5, // by what is exact
			"exact_one": 2e-3, "exact_two": 2e-3, "one": 0.06, "two": 0.06, "plain": 0.02}}, // a scale for each row here; the last is the library's own
		{name: "folded", ours: 7, folded: 2, inputs: []string{"x"}, in: 90, out: 90, spread: 4, near: map[string]float64{"normed": 5e-6, "plain": 2e-6, "gated": 0.03, // of what is
			"one": 0.03, "two": 0.03, "three": 0.03, "four": 0.03, "bare": 0.03}}, // rounded the other way now and then
		{name: "gated", ours: 8, inputs: []string{"x"}, in: 256, out: 48, spread: 4, near: map[string]float64{"four": 5e-3, "eight": 2, "bare": 5e-3, "apart": 5e-3, "bare_gate": 2e-3}}, // eight: of 1,300,
		{name: "between", ours: 4, inputs: []string{"x", "skip"}, in: 200, out: 200, spread: 40, near: map[string]float64{"normed": 2e-6, "again": 2e-6, "gated": 1e-5, "other": 1e-5}},
	} {
		onEach(t, c.name, func(t *testing.T) {
			dir := t.TempDir()
			e := open(t, Config{CacheDir: dir, Threads: 2})
			path := filepath.Join("testdata", c.name+".onnx")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			load := loader(t, e)
			run := func(s *Session, batch, n int, x [][]float32) map[string][]float32 {
				b, err := s.NewBinding()
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				for i, name := range c.inputs {
					bind(t, b, name, x[i], batch, n, c.in)
				}
				all := map[string][]float32{}
				for _, out := range s.Outputs {
					all[out.Name] = make([]float32, batch*n*c.out)
					bind(t, b, out.Name, all[out.Name], batch, n, c.out)
				}
				if err := b.Step(t.Context()); err != nil {
					t.Fatal(err)
				}
				return all
			}
			library, first, next := load(Source{Data: data}), load(Source{Path: path}), load(Source{Path: path})
			random := rand.New(rand.NewPCG(1, 2))
			for _, shape := range [][2]int{{1, 1}, {2, 1}, {1, 3}, {1, 5}, {3, 5}, {1, 50}, {1, 130}} {
				x := make([][]float32, len(c.inputs))
				for k := range x {
					x[k] = make([]float32, shape[0]*shape[1]*c.in)
					for i := range x[k] {
						x[k][i] = (random.Float32() - 0.5) * c.spread
					}
					clear(x[k][:32]) // a block of zeros has no scale
					if n := len(x[k]); n > 2*c.in {
						clear(x[k][n-c.in:]) // nor has a row
					}
				}
				want := run(library, shape[0], shape[1], x)
				for how, s := range map[string]*Session{"preparing": first, "prepared": next} {
					for name, got := range run(s, shape[0], shape[1], x) {
						right := want[name]
						if exact, ok := want["exact_"+name]; ok {
							right = exact
						}
						for i := range got {
							if math.Abs(float64(got[i]-right[i])) > max(c.near[name], 1e-6) {
								t.Fatalf("%s, %v rows, %s: element %d is %v, of the library %v", how, shape, name, i, got[i], right[i])
							}
						}
					}
				}
			}
			paths, _ := kept(t, dir)
			graph, err := os.ReadFile(filepath.Join(paths[0], preparedGraph))
			if err != nil {
				t.Fatal(err)
			}
			checkOwn(t, data, graph, c.ours)
			// With its length: the name of another operator ends so.
			if have := bytes.Count(graph, []byte("\x0eQuantizeMatMul")); kernels.Supported() && have != c.folded {
				t.Errorf("%d products make their rows into 8 bits themselves, want %d", have, c.folded)
			}
		})
	}
}

// onEach runs f with each kind of instructions that this CPU has for package kernels, or
// with none.
func onEach(t *testing.T, name string, f func(*testing.T)) {
	defer kernels.Narrow(0)
	before := ""
	for by := 0; ; by++ {
		kernels.Narrow(by)
		now := kernels.Instructions()
		if by > 0 && now == before {
			return
		}
		t.Run(name+" "+now, f)
		before = now
	}
}

// loader loads graphs for two threads.
func loader(t *testing.T, e *Env) func(Source) *Session {
	return func(src Source) *Session {
		t.Helper()
		s, err := e.NewSession(src, Options{Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// twice loads a graph as the library runs it, unprepared, and prepared.
func twice(t *testing.T, e *Env, name string) (data []byte, library, own *Session) {
	t.Helper()
	path := filepath.Join("testdata", name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	load := loader(t, e)
	return data, load(Source{Data: data}), load(Source{Path: path})
}

// checkOwn looks at what became of a graph in which n nodes can be ours: when it
// was prepared, and where the library has not named the domain before.
func checkOwn(t *testing.T, source, prepared []byte, n int) {
	t.Helper()
	if !kernels.Supported() {
		n = 0
	}
	named := 0
	if n > 0 {
		named = n + 1 // with the import
	}
	if have := bytes.Count(prepared, []byte(kernels.Domain)); have != named {
		t.Errorf("the domain is named %d times, want %d", have, named)
	}
	if _, more, err := ownNodes(bytes.Clone(prepared)); err != nil || kernels.Supported() && more != 0 {
		t.Errorf("%d more nodes could be ours, %v", more, err)
	}
	if n == 0 {
		return
	}
	graph, have, err := ownNodes(bytes.Clone(source))
	if err != nil || have != n || bytes.Count(graph, []byte(kernels.Domain)) != named {
		t.Fatal(have, err)
	}
}

// Attention gives what the library's own does: for prompts and single tokens, a
// batch of sessions, a cache in one buffer or two, and heads turned in part.
func TestOwnAttention(t *testing.T) {
	if !kernels.Supported() {
		t.Skip("this CPU has neither AVX-512 VNNI nor AVX2")
	}
	onEach(t, "attention", ownAttention)
}

func ownAttention(t *testing.T) {
	dir := t.TempDir()
	e := open(t, Config{CacheDir: dir, Threads: 2})
	for _, name := range []string{"attention.onnx", "attention_partial.onnx"} {
		_, library, own := twice(t, e, name)
		want := attend(t, library)
		for i, x := range attend(t, own) {
			if math.Abs(float64(x-want[i])) > 1e-5 {
				t.Fatalf("%s: element %d is %v, of the library %v", name, i, x, want[i])
			}
		}
	}
	data, library, own := twice(t, e, "attention_long.onnx")
	halves, err := e.NewSession(Source{Path: filepath.Join("testdata", "attention_long.onnx")}, Options{Threads: 2, HalfCache: true})
	if err != nil {
		t.Fatal(err)
	}
	if in, err := halves.Input("past_key_values.0.key"); err != nil || in.Type != "float16" {
		t.Fatal(in, err)
	}
	for name, c := range map[string]struct {
		batch, room int
		steps       []int
		apart       bool
	}{
		"prompts":       {batch: 1, room: 900, steps: []int{300, 1, 1, 5, 130, 1, 17, 200, 1}},
		"two buffers":   {batch: 1, room: 300, steps: []int{40, 1, 90, 1, 16, 1}, apart: true},
		"batch":         {batch: 3, room: 200, steps: []int{1, 1, 1, 1}},
		"many places":   {batch: 1, room: 3000, steps: []int{128, 1, 1}},
		"the last room": {batch: 1, room: 65, steps: []int{63, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			want := newCache(c.batch, c.room, c.apart)
			got := newCache(c.batch, c.room, c.apart)
			half := newCache(c.batch, c.room, c.apart)
			for step, n := range c.steps {
				x := make([]float32, c.batch*n*640)
				for i := range x {
					x[i] = want.random.Float32()*4 - 2
				}
				out := want.attend(t, library, x, n)
				for i, v := range got.attend(t, own, x, n) {
					if math.Abs(float64(v-out[i])) > 2e-5 {
						t.Fatalf("step %d of %d rows: element %d is %v, of the library %v", step, n, i, v, out[i])
					}
				}
				for i, v := range half.attend(t, halves, x, n) {
					if math.Abs(float64(v-out[i])) > 3e-3 {
						t.Fatalf("step %d of %d rows: with a cache in 16 bits element %d is %v, of the library %v", step, n, i, v, out[i])
					}
				}
			}
			for _, kv := range []int{0, 1} {
				for i, v := range got.now[kv] {
					if math.Abs(float64(v-want.now[kv][i])) > 1e-5 {
						t.Fatalf("the cache's element %d is %v, of the library %v", i, v, want.now[kv][i])
					}
				}
				for i, v := range half.halves[kv] {
					if w := want.now[kv][i]; math.Abs(float64(single(v)-w)) > 1e-4+math.Abs(float64(w))/1024 {
						t.Fatalf("the cache's element %d in 16 bits is %v, of the library %v", i, single(v), w)
					}
				}
			}
		})
	}
	paths, _ := kept(t, dir)
	for _, p := range paths {
		graph, err := os.ReadFile(filepath.Join(p, preparedGraph))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(graph, []byte("places")) {
			checkOwn(t, data, graph, 1)
		}
	}
}

// Attention to a ring gives what the operators give that it is made of, whatever
// the ring holds: nothing yet, all, and ages that mean nothing.
func TestRingAttention(t *testing.T) {
	if !kernels.Supported() {
		t.Skip("this CPU has neither AVX-512 VNNI nor AVX2")
	}
	onEach(t, "ring", func(t *testing.T) {
		const slots, places, width = 7, 37, 60
		e := open(t, Config{Threads: 2, CacheDir: t.TempDir()})
		path := filepath.Join("testdata", "ring.onnx")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		load := loader(t, e)
		e.own = false // as on other CPUs
		library := load(Source{Data: data})
		e.own = true
		random := rand.New(rand.NewPCG(1, 2))
		for name, own := range map[string]*Session{"unprepared": load(Source{Data: data}), "preparing": load(Source{Path: path}), "prepared": load(Source{Path: path})} {
			for _, ages := range [][]int64{
				{0, 0, 0, 0, 0, 0, 0},
				{3, 2, 1, 7, 6, 5, 4},
				{0, 2, 1, 0, 0, 8, -1, 1, 0, 99, 7, 0, 0, 0}, // two streams
			} {
				batch := len(ages) / slots
				x := map[string][]float32{}
				for in, n := range map[string]int{"q": 1, "k": 1, "v": 1, "ring_k": slots, "ring_v": slots} {
					x[in] = make([]float32, batch*n*places*width)
					for i := range x[in] {
						x[in][i] = random.Float32()*4 - 2
					}
				}
				run := func(s *Session) []float32 {
					b, err := s.NewBinding()
					if err != nil {
						t.Fatal(err)
					}
					defer b.Close()
					for in, v := range x {
						if len(in) == 1 {
							bind(t, b, in, v, batch, places, width)
						} else {
							bind(t, b, in, v, batch, slots, places, width)
						}
					}
					y := make([]float32, batch*places*width)
					bind(t, b, "age", ages, batch, slots)
					bind(t, b, "y", y, batch, places, width)
					if err := b.Step(t.Context()); err != nil {
						t.Fatal(err)
					}
					return y
				}
				want := run(library)
				for i, v := range run(own) {
					if math.Abs(float64(v-want[i])) > 1e-5 {
						t.Fatalf("%s, ages %v: element %d is %v, of the library %v", name, ages, i, v, want[i])
					}
				}
			}
		}
		if rest, err := withoutBodies(data); err != nil || len(rest) >= len(data) || bytes.Contains(rest, []byte("Softmax")) {
			t.Errorf("%d of %d bytes are left: %v", len(rest), len(data), err)
		}
		for n := range data { // what is cut off is an error, or ends between two fields
			if rest, err := withoutBodies(data[:n]); err == nil && len(rest) > n {
				t.Fatal(n)
			}
		}
	})
}

// cache is that of attention_long.onnx, for a batch whose sessions have read
// seven tokens more each than the one before.
type cache struct {
	batch, room, used int
	apart             bool
	now, next         [2][]float32 // keys and values; next is now unless they are apart
	halves, after     [2][]uint16  // the same in 16 bits
	cos, sin          []float32
	random            *rand.Rand
}

func newCache(batch, room int, apart bool) *cache {
	c := &cache{batch: batch, room: room, apart: apart, random: rand.New(rand.NewPCG(1, 2))}
	for i := range c.now {
		c.now[i] = make([]float32, batch*room*128)
		for j := range c.now[i] {
			h := uint16(c.random.Uint32N(0x400)) | uint16(0x3400|c.random.Uint32N(2)<<15) // a batch starts behind something, which 16 bits hold
			c.now[i][j], c.halves[i] = single(h), append(c.halves[i], h)
		}
		c.next[i], c.after[i] = c.now[i], c.halves[i]
		if apart {
			c.next[i], c.after[i] = make([]float32, batch*room*128), make([]uint16, batch*room*128)
			clear(c.now[i])
			clear(c.halves[i])
		}
	}
	for p := range room {
		for i := range 32 {
			s, co := math.Sincos(float64(p) * math.Pow(1e4, -float64(i)/32))
			c.cos, c.sin = append(c.cos, float32(co)), append(c.sin, float32(s))
		}
	}
	return c
}

func (c *cache) attend(t *testing.T, s *Session, x []float32, n int) []float32 {
	t.Helper()
	b, err := s.NewBinding()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c.used += n
	used := make([]int32, c.batch)
	for i := range used {
		used[i] = int32(c.used + 7*i - 1)
	}
	out := make([]float32, c.batch*n*384)
	bind(t, b, "qkv", x, c.batch, n, 640)
	in, err := s.Input("past_key_values.0.key")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"key", "value"} {
		if in.Type == "float16" {
			bind(t, b, "past_key_values.0."+name, c.halves[i], c.batch, 2, c.room, 64)
			bind(t, b, "present.0."+name, c.after[i], c.batch, 2, c.room, 64)
			continue
		}
		bind(t, b, "past_key_values.0."+name, c.now[i], c.batch, 2, c.room, 64)
		bind(t, b, "present.0."+name, c.next[i], c.batch, 2, c.room, 64)
	}
	bind(t, b, "used", used, c.batch)
	bind(t, b, "total", []int32{int32(c.room)}, 1)
	bind(t, b, "cos", c.cos, c.room, 32)
	bind(t, b, "sin", c.sin, c.room, 32)
	bind(t, b, "out", out, c.batch, n, 384)
	if err := b.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.now, c.next = c.next, c.now
	c.halves, c.after = c.after, c.halves
	return out
}

// single is a float16; those too small to be normal numbers count as zero.
func single(h uint16) float32 {
	if h&0x7c00 == 0 {
		return 0
	}
	return math.Float32frombits(uint32(h&0x8000)<<16 | (uint32(h&0x7fff)+(127-15)<<10)<<13)
}
