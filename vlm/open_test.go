package vlm

import (
	"syscall"
	"testing"
	"time"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/internal/testmodel"
)

// A model whose graphs are prepared, and one loaded from what was prepared
// before, say what it says without.
func TestPreparedModelsSayTheSame(t *testing.T) {
	for _, name := range []string{"smolvlm-a", "llava_onevision-a", "fastvlm-a", "llama-b"} {
		g := unpack(t, "testdata/"+name+".tar.gz")
		dir := t.TempDir()
		answer := func(cache string) string {
			env, err := ort.Open(ort.Config{Device: "cpu", Threads: 1, CacheDir: cache})
			if err != nil {
				t.Fatal(err)
			}
			defer env.Close()
			m, err := Open(g.dir, env, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			s, err := m.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if m.Sees() {
				f := picture(64, 48, 7, time.Second)
				v, err := m.EncodeFrame(t.Context(), f)
				if err == nil {
					err = s.AppendFrame(t.Context(), v, f.At)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			return say(t, s, "What is there?", 16)
		}
		want := answer("")
		for _, how := range []string{"preparing", "prepared"} {
			if got := answer(dir); got != want {
				t.Errorf("%s, %s: %q, unprepared %q", name, how, got, want)
			}
		}
	}
}

// So do pairs.
func TestPreparedPairsSayTheSame(t *testing.T) {
	for _, name := range []string{"clip-a", "clip-b", "siglip-a", "siglip-b"} {
		g := unpack(t, "testdata/"+name+".tar.gz")
		dir := t.TempDir()
		see := func(cache string) [][]float32 {
			env, err := ort.Open(ort.Config{Device: "cpu", Threads: 1, CacheDir: cache})
			if err != nil {
				t.Fatal(err)
			}
			defer env.Close()
			p, err := OpenPair(g.dir, env, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			all, err := p.EmbedText(t.Context(), []string{"a dog", "a red van in the yard"})
			if err != nil {
				t.Fatal(err)
			}
			v, err := p.EmbedImage(t.Context(), picture(64, 48, 7, 0))
			if err != nil {
				t.Fatal(err)
			}
			return append(all, v)
		}
		want := see("")
		for _, how := range []string{"preparing", "prepared"} {
			for i, got := range see(dir) {
				closeTo(t, name+", "+how, got, want[i], 1e-5)
			}
		}
	}
}

// The start of a model with real weights, with graphs that are prepared and
// without.
func BenchmarkOpen(b *testing.B) {
	dir := testmodel.SmolLM2(b)
	prepared := b.TempDir()
	for _, c := range []struct{ name, cache string }{{"unprepared", ""}, {"prepared", prepared}} {
		b.Run(c.name, func(b *testing.B) {
			env, err := ort.Open(ort.Config{Device: "cpu", Threads: 1, CacheDir: c.cache})
			if err != nil {
				b.Fatal(err)
			}
			defer env.Close()
			open := func() {
				m, err := Open(dir, env, Options{Precision: "q4"})
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
			}
			open() // prepares, or warms the page cache
			before := cpuTime(b)
			for b.Loop() {
				open()
			}
			b.ReportMetric(float64((cpuTime(b)-before).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
