package ort

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lookout-video/lookout/internal/ort/kernels"
)

// A team gives what one thread gives, to the bit, whether its threads still spin,
// have just gone to sleep or sleep; it is there for graphs whose products are all
// ours, and goes with the Env.
func TestTeam(t *testing.T) {
	if !kernels.Supported() {
		t.Skip("this CPU has neither AVX-512 VNNI nor AVX2")
	}
	const rows, in, out = 130, 256, 48
	for _, threads := range []int{2, 5} {
		t.Run(fmt.Sprint(threads), func(t *testing.T) {
			e := open(t, Config{CacheDir: t.TempDir(), Threads: threads})
			if n := teamThreads(t); n != 0 {
				t.Fatalf("%d threads before there is a session", n)
			}
			x := make([]float32, rows*in)
			random := rand.New(rand.NewPCG(3, 4))
			for i := range x {
				x[i] = random.Float32()*4 - 2
			}
			run := func(threads int) (step func(), y [][]float32) {
				s, err := e.NewSession(Source{Path: filepath.Join("testdata", "gated.onnx")}, Options{Threads: threads})
				if err != nil {
					t.Fatal(err)
				}
				if s.team != (threads > 1) {
					t.Fatalf("%d threads: team %v", threads, s.team)
				}
				b, err := s.NewBinding()
				if err != nil {
					t.Fatal(err)
				}
				bind(t, b, "x", x, 1, rows, in)
				for i, o := range s.Outputs {
					y = append(y, make([]float32, rows*out))
					bind(t, b, o.Name, y[i], 1, rows, out)
				}
				return func() {
					if err := b.Step(t.Context()); err != nil {
						t.Fatal(err)
					}
				}, y
			}
			mixed, err := e.NewSession(Source{Path: filepath.Join("testdata", "products.onnx")}, Options{Threads: threads})
			if err != nil || mixed.team {
				t.Fatal("a team beside the library's threads", err)
			}
			alone, want := run(1)
			alone()
			team, got := run(threads)
			if n := teamThreads(t); n != threads-1 {
				t.Fatalf("%d threads beside the caller's, want %d", n, threads-1)
			}
			for i := range 400 {
				for _, y := range got {
					clear(y)
				}
				if pause := i % 8; pause > 3 {
					time.Sleep(time.Duration(pause*pause) * 5 * time.Microsecond) // they give up after 100
				}
				team()
				for k := range want {
					if !slices.Equal(got[k], want[k]) {
						t.Fatalf("run %d, output %d: not what one thread gives", i, k)
					}
				}
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			// A thread that has been joined is listed until the kernel is through with it.
			for over := time.Now().Add(10 * time.Second); teamThreads(t) != 0; time.Sleep(time.Millisecond) {
				if time.Now().After(over) {
					t.Fatalf("%d threads are left", teamThreads(t))
				}
			}
		})
	}
}

// teamThreads counts this process's.
func teamThreads(t *testing.T) (n int) {
	t.Helper()
	names, err := filepath.Glob("/proc/self/task/*/comm")
	if err != nil || len(names) == 0 {
		t.Skip("needs /proc")
	}
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) == "lookout-team" {
			n++
		}
	}
	return n
}
