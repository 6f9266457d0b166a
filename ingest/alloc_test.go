//go:build !asan

package ingest // but not under AddressSanitizer, which allocates itself

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/lookout-video/lookout/media"
)

// TestAllocatesNothingPerFrame reads a long file with everything on that is on
// in practice: a tap with a viewer, sampling, scaling, stills.
func TestAllocatesNothingPerFrame(t *testing.T) {
	var long bytes.Buffer
	for range 60 {
		for _, p := range packetsOf(t, "counting.mp4") {
			long.Write(p.Data)
		}
	}
	path := filepath.Join(t.TempDir(), "long.h264")
	if err := os.WriteFile(path, long.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{"every frame": {}, "sampled": {SampleRate: 5}, "ahead": {Threads: 2}} {
		t.Run(name, func(t *testing.T) {
			cfg.URL, cfg.Width, cfg.Height = path, 64, 32
			r := open(t, cfg)
			var f media.Frame
			read := func() {
				if err := r.ReadFrame(t.Context(), &f); err != nil {
					t.Fatal(err)
				}
			}
			for range 20 {
				read() // fills the pools
			}
			before := r.Stats()
			if n := testing.AllocsPerRun(200, read); n > 0 {
				t.Errorf("%v allocations a frame, want 0", n)
			}
			if after := r.Stats(); after.Sampled-before.Sampled < 200 || after.Packets == before.Packets {
				t.Errorf("nothing was measured: %+v", after)
			}
		})
	}
}
