package ort

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, cfg Config) *Env {
	t.Helper()
	if cfg.Device == "" {
		cfg.Device = "cpu"
	}
	e, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func session(t testing.TB, e *Env, name string) *Session {
	t.Helper()
	s, err := e.NewSession(Source{Path: filepath.Join("testdata", name)}, Options{Stoppable: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func bind[T tensor.Element](t testing.TB, b *Binding, name string, data []T, shape ...int) {
	t.Helper()
	if err := Bind(b, name, tensor.View[T]{Shape: shape, Data: data}); err != nil {
		t.Fatal(err)
	}
}

func TestRunOverTheCallersSlices(t *testing.T) {
	s := session(t, open(t, Config{}), "add.onnx")
	b, err := s.NewBinding()
	if err != nil {
		t.Fatal(err)
	}
	x, y := []float32{1, 2, 3, 4}, []float32{10, 20, 30, 40}
	sum, twice := make([]float32, 4), make([]float32, 4)
	bind(t, b, "a", x, 1, 4)
	bind(t, b, "b", y, 1, 4)
	bind(t, b, "sum", sum, 1, 4)
	if err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `"scaled" is not bound`) {
		t.Fatalf("ran with an output missing: %v", err)
	}
	bind(t, b, "scaled", twice, 1, 4)
	for name, run := range map[string]func(context.Context) error{"Run": b.Run, "Step": b.Step, "Run in the background": func(context.Context) error { return b.Run(context.Background()) }} {
		clear(sum)
		x[0]++
		if err := run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := []float32{x[0] + 10, 22, 33, 44}; !slices.Equal(sum, want) || twice[0] != 2*x[0] {
			t.Errorf("%s: got %v and %v, want %v", name, sum, twice, want)
		}
	}
	// Two rows after one, and the output over its own input.
	x2 := []float32{1, 2, 3, 4, 5, 6, 7, 8}
	bind(t, b, "a", x2, 2, 4)
	bind(t, b, "b", x2, 2, 4)
	bind(t, b, "sum", make([]float32, 8), 2, 4)
	bind(t, b, "scaled", x2, 2, 4)
	if err := b.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if x2[7] != 16 {
		t.Errorf("bound in place: %v", x2)
	}
}

func TestElementTypes(t *testing.T) {
	b, err := session(t, open(t, Config{}), "types.onnx").NewBinding()
	if err != nil {
		t.Fatal(err)
	}
	u8, i32, i64, f16 := []uint8{1, 2, 255}, []int32{-1, 0, 1 << 30}, []int64{-1, 0, 1 << 60}, []uint16{0x3c00, 0x7bff, 0}
	u8o, i32o, i64o, f16o := make([]uint8, 3), make([]int32, 3), make([]int64, 3), make([]uint16, 3)
	bind(t, b, "u8_in", u8, 3)
	bind(t, b, "i32_in", i32, 3)
	bind(t, b, "i64_in", i64, 3)
	bind(t, b, "f16_in", f16, 3)
	bind(t, b, "u8_out", u8o, 3)
	bind(t, b, "i32_out", i32o, 3)
	bind(t, b, "i64_out", i64o, 3)
	bind(t, b, "f16_out", f16o, 3)
	if err := b.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(u8, u8o) || !slices.Equal(i32, i32o) || !slices.Equal(i64, i64o) || !slices.Equal(f16, f16o) {
		t.Error(u8o, i32o, i64o, f16o)
	}
}

func TestBindRefusesWhatTheGraphDoesNotTake(t *testing.T) {
	b, err := session(t, open(t, Config{}), "add.onnx").NewBinding()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{Bind(b, "a", tensor.Make[float32](2, 5)), `"a" is float32[?x4] in the graph, got float32[2x5]`},
		{Bind(b, "a", tensor.Make[float32](4)), "got float32[4]"},
		{Bind(b, "a", tensor.Make[int64](1, 4)), "got int64[1x4]"},
		{Bind(b, "c", tensor.Make[float32](1, 4)), `no input or output "c" (it takes a, b and gives sum, scaled)`},
		{Bind(b, "a", tensor.View[float32]{Shape: tensor.Shape{2, 4}, Data: make([]float32, 7)}), "needs 8 elements, got 7"},
		{Bind(b, "a", tensor.Make[float32](0, 4)), "needs 1 elements"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("got %v, want ...%s...", c.err, c.want)
		}
	}
}

func slow(t testing.TB, e *Env, turns int64) *Binding {
	b, err := session(t, e, "slow.onnx").NewBinding()
	if err != nil {
		t.Fatal(err)
	}
	bind(t, b, "turns", []int64{turns}, 1)
	for _, n := range []string{"x", "w", "out"} {
		bind(t, b, n, make([]float32, 64*64), 64, 64)
	}
	return b
}

func TestRunStopsWhenTheContextEnds(t *testing.T) {
	e := open(t, Config{})
	long, short := slow(t, e, 1<<40), slow(t, e, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := long.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("long run: %v", err)
		}
	})
	wg.Wait()
	// The turn is free again, and the stopped binding runs again.
	if err := short.Run(t.Context()); err != nil {
		t.Error(err)
	}
	bind(t, long, "turns", []int64{2}, 1)
	if err := long.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// running waits until runs take n CPUs together.
func running(t *testing.T, e *Env, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); len(e.cpus) != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d CPUs taken, want %d", len(e.cpus), n)
		}
	}
}

// Two threads: two runs of one go at once, and a run of two waits for both,
// without being passed.
func TestRunsShareTheThreads(t *testing.T) {
	e := open(t, Config{Threads: 2})
	a, b := slow(t, e, 1<<40), slow(t, e, 1<<40)
	s, err := e.NewSession(Source{Path: "testdata/slow.onnx"}, Options{Threads: 9, Stoppable: true})
	if err != nil {
		t.Fatal(err)
	}
	if a.s.threads != 1 || s.threads != 2 {
		t.Fatalf("threads: %d by default, %d of nine", a.s.threads, s.threads)
	}
	wide, err := s.NewBinding()
	if err != nil {
		t.Fatal(err)
	}
	bind(t, wide, "turns", []int64{1}, 1)
	for _, n := range []string{"x", "w", "out"} {
		bind(t, wide, n, make([]float32, 64*64), 64, 64)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	start := func(b *Binding) context.CancelFunc {
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if err := b.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		return cancel
	}
	stopA := start(a)
	defer stopA()
	stopB := start(b)
	defer stopB()
	running(t, e, 2)
	brief, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := wide.Step(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a run of two threads began beside two others: %v", err)
	}
	stopA()
	running(t, e, 1)
	brief, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := wide.Run(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a run of two threads began beside one other: %v", err)
	}
	running(t, e, 1)
	stopB()
	if err := wide.Step(t.Context()); err != nil {
		t.Error(err)
	}
	running(t, e, 0)
}

func TestCloseWaitsForTheRun(t *testing.T) {
	e, err := Open(Config{Device: "cpu"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{}); !errors.Is(err, ErrOpen) {
		t.Errorf("opened twice: %v", err)
	}
	b := slow(t, e, 3000)
	done := make(chan error, 1)
	go func() { done <- b.Step(t.Context()) }()
	running(t, e, 1)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the run did not end")
	}
	if err := b.Step(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("ran after Close: %v", err)
	}
	if _, err := e.NewSession(Source{Path: "testdata/add.onnx"}, Options{}); !errors.Is(err, ErrClosed) {
		t.Errorf("opened after Close: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestPreparedGraphIsKeptAndMendsItself(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "prepared")
	e := open(t, Config{CacheDir: dir})
	data, err := os.ReadFile("testdata/add.onnx")
	if err != nil {
		t.Fatal(err)
	}
	src := Source{Name: "add.onnx", Data: data, Hash: "h1"}
	list := func() []string {
		l, _ := filepath.Glob(filepath.Join(dir, "*"))
		return l
	}
	check := func() {
		t.Helper()
		s, err := e.NewSession(src, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		b, err := s.NewBinding()
		if err != nil {
			t.Fatal(err)
		}
		sum := make([]float32, 4)
		bind(t, b, "a", []float32{1, 2, 3, 4}, 1, 4)
		bind(t, b, "b", []float32{1, 2, 3, 4}, 1, 4)
		bind(t, b, "sum", sum, 1, 4)
		bind(t, b, "scaled", make([]float32, 4), 1, 4)
		if err := b.Step(t.Context()); err != nil || sum[3] != 8 {
			t.Fatal(err, sum)
		}
		if got := list(); len(got) != 1 {
			t.Fatalf("%d prepared graphs kept: %v", len(got), got)
		}
	}
	check()
	kept := filepath.Join(list()[0], preparedGraph)
	first, _ := os.Stat(kept)
	check()
	if again, _ := os.Stat(kept); again.ModTime() != first.ModTime() {
		t.Error("prepared anew")
	}
	if err := os.WriteFile(kept, []byte("not a graph"), 0o644); err != nil {
		t.Fatal(err)
	}
	check()
	if preparedName("h1", "1", "cpu") == preparedName("h1", "2", "cpu") || preparedName("h1", "1", "cpu") == preparedName("h2", "1", "cpu") {
		t.Error("the name does not depend on library and model")
	}
}

func TestDevice(t *testing.T) {
	for _, bad := range []string{"gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:1"} {
		if _, err := Open(Config{Device: bad}); err == nil || !strings.Contains(err.Error(), "want auto, cpu, cuda or cuda:N") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := os.Stat("/dev/nvidiactl"); err == nil {
		t.Skip("this machine has a GPU")
	}
	if _, err := Open(Config{Device: "cuda:1"}); err == nil || !strings.Contains(err.Error(), `device "cuda:1": no NVIDIA driver`) {
		t.Errorf("cuda without a GPU: %v", err)
	}
	var said bytes.Buffer
	e := open(t, Config{Device: "auto", Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if e.Device() != "cpu" || strings.Count(said.String(), "running on the CPU") != 1 {
		t.Errorf("auto: %s, log %q", e.Device(), said.String())
	}
}

func TestLibraryThatIsNotThere(t *testing.T) {
	t.Setenv("LOOKOUT_ONNXRUNTIME", "/nowhere/libonnxruntime.so")
	if _, err := findLibrary(""); err == nil || !strings.Contains(err.Error(), "LOOKOUT_ONNXRUNTIME") || !strings.Contains(err.Error(), "make deps") {
		t.Error(err)
	}
	if _, err := findLibrary("/nowhere/else.so"); err == nil || !strings.Contains(err.Error(), "/nowhere/else.so") {
		t.Error(err)
	}
	if _, err := findLibrary(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Error(err)
	}
	t.Setenv("LOOKOUT_ONNXRUNTIME", "")
	if defaultLibrary == "" {
		if _, err := findLibrary(""); err == nil || !strings.Contains(err.Error(), "make deps") {
			t.Error(err)
		}
	}
}

// A library that knows only older interfaces answers GetApi with NULL. It is
// loaded in a process of its own, since a process loads one library.
func TestLibraryThatIsTooOld(t *testing.T) {
	if os.Getenv("LOOKOUT_TEST_OPEN") != "" {
		_, err := Open(Config{Device: "cpu"})
		fmt.Println(err)
		return
	}
	dir := t.TempDir()
	old, none := filepath.Join(dir, "libonnxruntime.so.1.17.0"), filepath.Join(dir, "libnone.so")
	for lib, code := range map[string]string{
		old: `static const void *api(unsigned v) { return 0; }
static const char *version(void) { return "1.17.0"; }
static struct { const void *(*a)(unsigned); const char *(*v)(void); } base = {api, version};
const void *OrtGetApiBase(void) { return &base; }`,
		none: `int nothing;`,
	} {
		cmd := exec.Command("cc", "-shared", "-fPIC", "-x", "c", "-o", lib, "-")
		cmd.Stdin = strings.NewReader(code)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for lib, want := range map[string]string{
		old: "is older than ONNX Runtime 1.24, which is needed: run `make deps`", none: "OrtGetApiBase",
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLibraryThatIsTooOld$")
		cmd.Env = append(os.Environ(), "LOOKOUT_TEST_OPEN=1", "LOOKOUT_ONNXRUNTIME="+lib)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), lib) {
			t.Errorf("%v: %s", err, out)
		}
	}
}

func TestModelThatIsNoGraph(t *testing.T) {
	e := open(t, Config{})
	for _, src := range []Source{
		{Path: "testdata/make.py"}, {Path: "testdata/missing.onnx"}, {Path: "testdata"}, {Name: "x", Data: []byte{}}, {Name: "x", Data: []byte{0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f}},
	} {
		if s, err := e.NewSession(src, Options{}); err == nil {
			s.Close()
			t.Errorf("%v was loaded", src)
		}
	}
	if _, err := e.NewSession(Source{Path: "testdata/add.onnx"}, Options{Outputs: []string{"product"}}); err == nil || !strings.Contains(err.Error(), `no output "product" (it has sum, scaled)`) {
		t.Error(err)
	}
}

func TestStepDoesNotAllocate(t *testing.T) {
	b := slow(t, open(t, Config{}), 1)
	ctx := t.Context()
	if n := testing.AllocsPerRun(50, func() {
		if err := b.Step(ctx); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a run", n)
	}
}

// TestMemoryIsFlat opens and closes many sessions and looks at what the
// process holds.
func TestMemoryIsFlat(t *testing.T) {
	e := open(t, Config{})
	cycle := func() {
		b := slow(t, e, 1)
		if err := b.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		cycle()
	}
	before := residentKB(t)
	for range 200 {
		cycle()
	}
	if grown := residentKB(t) - before; grown > 16<<10 {
		t.Errorf("grown by %d KB over 200 sessions", grown)
	}
	if len(e.sessions) != 0 {
		t.Errorf("%d sessions left", len(e.sessions))
	}
}

func FuzzReadGraph(f *testing.F) {
	for _, n := range []string{"add.onnx", "types.onnx", "slow.onnx", "weights.onnx", "attention.onnx", "attention_partial.onnx", "ring.onnx", "folded.onnx", "gated.onnx", "attention_long.onnx", "products.onnx"} {
		b, err := os.ReadFile(filepath.Join("testdata", n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ins, outs, _, err := readGraph(b)
		if err == nil && (len(ins) == 0 || len(outs) == 0) {
			t.Fatal("a graph without inputs or outputs")
		}
		if scale, tables, err := unscale(b); err == nil && (len(tables) != 0) != (scale != 0) {
			t.Fatalf("scale %v, %d tables", scale, len(tables))
		}
		if lean, left := leaveWeights(b, "file", func(name string) (string, error) { return name, nil }); err == nil && left == nil {
			if again, _, beside, err := readGraph(lean); err != nil || len(again) != len(ins) {
				t.Fatalf("without its weights: %d inputs, %d before, files %q: %v", len(again), len(ins), beside, err)
			}
		}
		rest, err := withoutBodies(b)
		if err == nil && len(rest) > len(b) {
			t.Fatal("grown by what was left out")
		}
		for _, out := range outs {
			last, err := lastRow(rest, out.Name)
			if _, _, _, readable := readGraph(last); err == nil && readable != nil && len(last) != len(rest) {
				t.Fatalf("with the last row of %q: %v", out.Name, readable)
			}
		}
		changed, n, err := ownNodes(bytes.Clone(rest))
		if err != nil || n == 0 {
			return
		}
		if _, more, err := ownNodes(changed); err != nil || more != 0 {
			t.Fatalf("%d nodes more of what was changed, %v", more, err)
		}
		if halved, err := halveCache(changed); err == nil {
			if again, err := halveCache(halved); err != nil || len(again) != len(halved) {
				t.Fatalf("%d bytes, and halved again %d, %v", len(halved), len(again), err)
			}
		}
	})
}

// Decoders share one budget with the runs: many cannot ask for more threads than
// there are, and none is left without.
func TestThreadsAreLent(t *testing.T) {
	e := open(t, Config{Threads: 4})
	var back []func()
	lend := func(n, want int) {
		t.Helper()
		got, b := e.Lend(n)
		if back = append(back, b); got != want {
			t.Errorf("lent %d of %d, want %d", got, n, want)
		}
	}
	lend(0, 1)
	lend(2, 2)
	lend(9, 1)
	lend(9, 1) // nothing is left
	back[3]()
	back[1]()
	back[1]()
	lend(9, 2)
	for _, b := range back {
		b()
	}
	lend(9, 4)
}
