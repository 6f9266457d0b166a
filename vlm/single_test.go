//go:build !race

package vlm

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
)

// Nor does one whose cache grows, once answers have been as long before; in float16 too.
func TestDecodingOverCachesThatGrowDoesNotAllocate(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	env := environment(t)
	grow, half := 0, 0
	for _, archive := range archives {
		dir := unpack(t, archive).dir
		m, err := Open(dir, env, Options{Frames: 3})
		if err != nil {
			continue // a pair, which says nothing
		}
		defer m.Close()
		s, err := m.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx := t.Context()
		if m.Sees() {
			v, err := m.EncodeFrame(ctx, picture(50, 38, 1, 0))
			if err == nil {
				err = s.AppendFrame(ctx, v, media.At(time.Time{}, time.Second))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := s.prompt(ctx, Request{Question: "What is it?", MaxTokens: 8}); err != nil {
			t.Fatal(err)
		}
		start := s.d.len
		answer := func() {
			for range 8 {
				id, err := s.d.greedy()
				if err == nil {
					err = s.next(ctx, id)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			s.d.cut(start)
		}
		answer() // what is cut is copied into the other buffer
		answer()
		if n := testing.AllocsPerRun(4, answer); n != 0 {
			t.Errorf("%s: %v allocations in 8 tokens", archive, n)
		}
		if !m.g.inPlace {
			grow++
		}
		if s.d.one.embeds.half != nil && s.d.one.logits.half != nil {
			half++
		}
	}
	if grow == 0 || half == 0 {
		t.Errorf("%d caches grow, %d graphs are in float16", grow, half)
	}
}
