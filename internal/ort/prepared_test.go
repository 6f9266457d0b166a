package ort

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lookout-video/lookout/tensor"
)

// weighed copies the test graph whose weights lie in a file beside it, all of
// them w.
func weighed(t *testing.T, w float32) Source {
	t.Helper()
	dir := t.TempDir()
	graph, err := os.ReadFile("testdata/weights.onnx")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "weights.onnx")
	weights := bytes.Repeat(binary.LittleEndian.AppendUint32(nil, math.Float32bits(w)), 64*64)
	for name, b := range map[string][]byte{path: graph, filepath.Join(dir, "weights.bin"): weights} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, time.Unix(1, 0), time.Unix(1, 0)); err != nil { // as in an image built to be reproduced
			t.Fatal(err)
		}
	}
	return Source{Path: path}
}

// sums loads the graph and checks what it computes.
func sums(t *testing.T, e *Env, src Source, w float32) {
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
	x, y := tensor.Make[float32](1, 64), tensor.Make[float32](1, 64)
	for i := range x.Data {
		x.Data[i] = 1
	}
	bind(t, b, "x", x.Data, 1, 64)
	bind(t, b, "y", y.Data, 1, 64)
	if err := b.Step(t.Context()); err != nil || y.Data[63] != 64*w {
		t.Fatal(err, y.Data)
	}
}

func kept(t *testing.T, dir string) (paths []string, size int64) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += fi.Size()
	}
	return paths, size
}

// A file's graph is prepared once, again when what was kept is damaged, and
// anew for other weights, though neither size nor date tell them apart.
func TestPreparedGraphOfAFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "prepared")
	e := open(t, Config{CacheDir: dir})
	src := weighed(t, 1)
	sums(t, e, src, 1)
	paths, size := kept(t, dir)
	if len(paths) != 1 || size < 64*64*4 {
		t.Fatalf("%d graphs of %d bytes are kept", len(paths), size)
	}
	graph, weights := filepath.Join(paths[0], preparedGraph), filepath.Join(paths[0], preparedWeights)
	first, err := os.Stat(graph)
	if err != nil {
		t.Fatal(err)
	}
	sums(t, e, src, 1)
	if again, err := os.Stat(graph); err != nil || again.ModTime() != first.ModTime() {
		t.Error("prepared anew", err)
	}
	for name, damage := range map[string]func() error{
		"no graph":              func() error { return os.WriteFile(graph, []byte("not a graph"), 0o600) },
		"graph cut short":       func() error { return os.Truncate(graph, 100) },
		"no weights":            func() error { return os.Remove(weights) },
		"weights cut short":     func() error { return os.Truncate(weights, 1000) },
		"a file in its place":   func() error { os.RemoveAll(paths[0]); return os.WriteFile(paths[0], nil, 0o600) },
		"a folder in its place": func() error { os.RemoveAll(paths[0]); return os.Mkdir(paths[0], 0o700) },
	} {
		if err := damage(); err != nil {
			t.Fatal(name, err)
		}
		sums(t, e, src, 1)
		if fi, err := os.Stat(weights); err != nil || fi.Size() < 64*64*4 {
			t.Errorf("%s: not mended: %v", name, err)
		}
	}
	sums(t, e, weighed(t, 2), 2)
	sums(t, e, src, 1)
	if paths, _ := kept(t, dir); len(paths) != 2 {
		t.Errorf("%d graphs of two models are kept", len(paths))
	}
}

// A small file is told by what is in it, a large one by its date and pieces too.
func TestFingerprint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model")
	of := func(size int, mark int, date int64) string {
		t.Helper()
		b := make([]byte, size)
		b[mark] = 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Unix(date, 0), time.Unix(date, 0)); err != nil {
			t.Fatal(err)
		}
		id, err := fingerprint([]string{path})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if small := of(1000, 1, 1); small != of(1000, 1, 2) || small == of(1000, 999, 1) || small == of(1001, 1, 1) {
		t.Error("a small file is not told by its content alone")
	}
	const large = 3 << 20
	for name, other := range map[string]string{"its end": of(large, large-1, 1), "its size": of(large+1, 0, 1), "its date": of(large, 0, 2)} {
		if other == of(large, 0, 1) {
			t.Errorf("a large file is not told by %s", name)
		}
	}
	if _, err := fingerprint([]string{path, path + ".data"}); err == nil {
		t.Error("a file that is missing has a fingerprint")
	}
}

// What is kept stays within its bound: the one not loaded for longest goes, and
// what a crash left unfinished.
func TestPreparedGraphsAreBounded(t *testing.T) {
	dir := t.TempDir()
	e := open(t, Config{CacheDir: dir, CacheBytes: 80 << 10})
	crashed, writing := filepath.Join(dir, unfinished+"1"), filepath.Join(dir, unfinished+"2")
	for _, d := range []string{crashed, writing} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(crashed, old, old); err != nil {
		t.Fatal(err)
	}
	usual := weighed(t, 100)
	for i := range 8 {
		sums(t, e, usual, 100)
		paths, _ := kept(t, dir)
		for _, p := range paths { // time passes
			if fi, err := os.Stat(p); err == nil {
				then := fi.ModTime().Add(-time.Minute)
				if err := os.Chtimes(p, then, then); err != nil {
					t.Fatal(err)
				}
			}
		}
		sums(t, e, weighed(t, float32(i)), float32(i))
	}
	if _, size := kept(t, dir); size > 80<<10 || size < 40<<10 {
		t.Errorf("%d bytes are kept", size)
	}
	id, err := fingerprint([]string{usual.Path, filepath.Join(filepath.Dir(usual.Path), "weights.bin")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, preparedName(id, e.Version(), e.Device()))); err != nil {
		t.Error("the one in use was deleted")
	}
	if _, err := os.Stat(crashed); err == nil {
		t.Error("what a crash left is still there")
	}
	if _, err := os.Stat(writing); err != nil {
		t.Error("what another process writes was deleted")
	}
}

// However much may be kept, the disk has room for others.
func TestDiskIsNotFilled(t *testing.T) {
	dir := t.TempDir()
	e := open(t, Config{CacheDir: dir, CacheBytes: math.MaxInt64})
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		t.Fatal(err)
	}
	most, err := e.most()
	if free := int64(disk.Bavail) * disk.Bsize; err != nil || most > free/3 || most < free/5 {
		t.Errorf("%d bytes may be kept where %d are free: %v", most, free, err)
	}
}

// Where nothing can or should be kept the graph runs all the same, and it is said why.
func TestNothingIsPrepared(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	for why, cfg := range map[string]Config{
		"not a directory": {CacheDir: filepath.Join(file, "in", "a", "file")},
		"room for":        {CacheDir: filepath.Join(t.TempDir(), "prepared"), CacheBytes: 20 << 10},
	} {
		said.Reset()
		cfg.Device, cfg.Logger = "cpu", slog.New(slog.NewTextHandler(&said, nil))
		e, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		sums(t, e, weighed(t, 3), 3)
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if paths, _ := kept(t, cfg.CacheDir); len(paths) > 0 || !strings.Contains(said.String(), why) {
			t.Errorf("kept %v, and said %q, not %q", paths, said.String(), why)
		}
	}
}
