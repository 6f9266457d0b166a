package benchmark

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/bench"
	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/internal/testmodel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// video is two seconds of a counter, 20 frames.
const video = "../../ingest/testdata/counting.mp4"

func runner(t *testing.T) *Runner {
	t.Helper()
	c, err := configs.Load("") // LOOKOUT_MODEL names another model than the embedded one
	if err != nil {
		t.Fatal(err)
	}
	r := New(Config{Model: c.Model, Video: video})
	r.playFor = 1500 * time.Millisecond
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestIngest(t *testing.T) {
	if n, err := runner(t).ingest(t.Context(), video, 64, 32, 2); n != 20 || err != nil {
		t.Errorf("%d frames, %v", n, err)
	}
}

func TestEmbeddedModel(t *testing.T) {
	r := runner(t)
	ctx := t.Context()
	if err := r.encode(ctx, 5); err != nil {
		t.Fatal(err)
	}
	took, err := r.streams(ctx, video, 2, 2*time.Second)
	if err != nil || len(took) < 2 {
		t.Errorf("two streams: %v, %v", took, err)
	}
	first, err := r.firstWord(ctx, video)
	if err != nil || len(first) < 2 {
		t.Errorf("first words: %v, %v", first, err)
	}
	for _, d := range append(took, first...) {
		if d <= 0 || d > time.Minute {
			t.Errorf("a word came after %v", d)
		}
	}
	one, err := r.prompts(ctx, video, 1)
	if err != nil {
		t.Fatal(err)
	}
	four, err := r.prompts(ctx, video, 4)
	if err != nil || one.Visual <= 0 || one.Total <= one.Visual || four.Total <= four.Visual {
		t.Errorf("prompts cost %+v and %+v, %v", one, four, err)
	}
	if err := r.watch(ctx, video); err != nil {
		t.Error(err)
	}
	aged, err := r.fastForward(ctx, 3*time.Minute)
	if err != nil || len(aged.Hours) != 1 || len(aged.Old) != young-filled || len(aged.Young) != young-filled || aged.Early == 0 || aged.Late == 0 {
		t.Errorf("%+v, %v", aged, err)
	}
	if a, err := r.agree(ctx, "", video); err != nil || a.Asked != 10 || a.Same > a.Asked || a.Spared >= 1 {
		t.Errorf("%+v, %v", a, err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := r.firstWord(ended, video); !errors.Is(err, context.Canceled) {
		t.Errorf("ended, it gave %v", err)
	}
}

func TestPublicModels(t *testing.T) {
	r := runner(t)
	ctx := t.Context()
	lm := testmodel.Unpack(t, "../../vlm/testdata/llama-a.tar.gz")
	if _, err := r.generate(ctx, lm, 40, 5, 2); !errors.Is(err, bench.ErrMissing) {
		t.Errorf("a model of unknown cost: %v", err)
	}
	if err := os.WriteFile(filepath.Join(lm, "bench.json"), []byte(`{"weights_read": 1000}`), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := r.generate(ctx, lm, 60, 4, 2)
	if err != nil || g.Prefill <= 0 || g.Decode <= 0 || g.ReadBytes <= 1000 || (g.ReadBytes-1000)%62 != 0 {
		t.Errorf("%+v, %v", g, err)
	}
	smol := testmodel.Unpack(t, "../../vlm/testdata/smolvlm-a.tar.gz")
	for _, slide := range []bool{false, true} {
		took, err := r.describe(ctx, smol, bench.Job{Video: video, Window: 2, Tokens: 5, Updates: 3, Threads: 2, Slide: slide})
		if err != nil || took <= 0 {
			t.Errorf("slide %v: %v, %v", slide, took, err)
		}
	}
	if a, err := r.agree(ctx, smol, video); err != nil || a.Asked != 2 || a.Same > a.Asked {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := r.describe(ctx, filepath.Join(smol, "nowhere"), bench.Job{Threads: 2}); !errors.Is(err, bench.ErrMissing) {
		t.Errorf("no model: %v", err)
	}
}

func TestWithoutAModel(t *testing.T) {
	r := New(Config{Model: filepath.Join(t.TempDir(), "none"), Video: video})
	defer r.Close()
	if err := r.encode(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("got %v", err)
	}
}
