package pipeline

import (
	"context"
	"slices"
	"testing"

	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

// measured is a memory that finds in a scene of n a novelty of n thousandths.
type measured struct{ testMemory }

func (*measured) Step(_ context.Context, _ media.Timestamp, tokens tensor.View[float32]) (Step, error) {
	return Step{Visual: tokens, Novelty: tokens.Data[0] / 1000}, nil
}

// The model speaks at 20 thousandths, if the stream does not say otherwise, and
// is asked once for each utterance. The first frame is always spoken of.
func TestNoveltyHasHysteresis(t *testing.T) {
	flutter := slices.Repeat([]uint8{19, 21}, 20)
	for _, c := range []struct {
		what           string
		novelty, rearm float64
		scenes         []uint8
		want           int32
	}{
		{"nothing is new", 0, 0, []uint8{19, 5, 19, 5, 19}, 1},
		{"a flutter about the threshold is told once", 0, 0, append([]uint8{1}, flutter...), 2},
		{"so is one that stays above it", 0, 0, []uint8{1, 21, 30, 21, 30, 39, 21}, 2},
		{"one that falls below the lower threshold is told again", 0, 0, []uint8{1, 21, 9, 21, 9, 21, 9}, 4},
		{"and the lower one itself is not below", 0, 0, []uint8{1, 21, 10, 21, 10, 21}, 2},
		{"what goes on well above is told all the time", 0, 0, []uint8{1, 50, 60, 50, 60}, 5},
		{"and after it a flutter is none", 0, 0, append([]uint8{1, 50, 60}, flutter...), 3},
		{"a stream's own threshold", 0.09, 0, []uint8{1, 50, 60, 50, 60, 91, 46, 91, 44, 91}, 3},
		{"a stream's own lower threshold", 0, 0.019, []uint8{1, 20, 18, 20, 18, 20, 19, 20}, 4},
		{"no hysteresis", 0.02, 0.02, append([]uint8{1}, flutter...), 21},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t, map[string]*testSource{"a": {scenes: c.scenes}})
			w.deps.Models.Info.SpeakAt = 0.02
			w.deps.Models.NewMemory = func() (StreamMemory, error) { return &measured{}, nil }
			for v := range uint8(100) {
				if words[v] == "" {
					words[v] = "The yard hums."
					t.Cleanup(func() { delete(words, v) })
				}
			}
			conf := stream("a")
			conf.Gate, conf.Describe.Novelty, conf.Describe.Rearm = 0, c.novelty, c.rearm
			s := w.lockstep(conf)
			if err := s.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := w.asked.Load(); n != c.want {
				t.Errorf("spoke %d times, want %d", n, c.want)
			}
			if n := s.Snapshot().Skipped[SkipNoNews]; n != uint64(len(c.scenes))-uint64(c.want) {
				t.Errorf("counted %d frames without news of %d", n, len(c.scenes))
			}
		})
	}
}

// A public model has no measure of novelty: a stream's thresholds must not
// silence it.
func TestModelsWithoutNoveltyAlwaysSpeak(t *testing.T) {
	for _, info := range []ModelInfo{{SpeakAt: 0}, {SpeakAt: -1}} {
		g := newTrigger(0.5, 0.1, &Models{Info: info, NewMemory: func() (StreamMemory, error) { return nil, nil }})
		for range 3 {
			if g.see(0); !g.take() {
				t.Errorf("speaks not, at %v", info.SpeakAt)
			}
		}
	}
}
