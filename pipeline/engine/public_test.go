package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/eval"
	"github.com/lookout-video/lookout/internal/testmodel"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
)

// public opens a small public model and runs a batcher for most streams.
func public(t *testing.T, name string, most int, reduce float64) (e *Engine, b *pipeline.Batcher, end func()) {
	t.Helper()
	c := configs.Default()
	c.Model = testmodel.Unpack(t, "../../vlm/testdata/"+name+".tar.gz")
	c.Reduce = reduce
	e, err := Open(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b = pipeline.NewBatcher(e.Models.Encoder, e.Models.Info, most)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Run(ctx) })
	return e, b, func() {
		cancel()
		wg.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A folder of each public layout goes through the whole pipeline as it is.
func TestPublicLayouts(t *testing.T) {
	for name, speaks := range map[string]bool{"smolvlm-a": true, "llava_next-a": true, "llava_onevision-a": true, "clip-a": false, "siglip-a": false} {
		t.Run(name, func(t *testing.T) {
			e, b, end := public(t, name, 2, 0)
			defer end()
			l, err := pipeline.NewLooker(e.Models, b, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			src, err := e.OpenSource(t.Context(), configs.Stream{Name: "demo", URL: demo(t), Threads: 1}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			var f media.Frame
			for range publicWindow + 2 {
				if err := src.ReadFrame(t.Context(), &f); err != nil {
					t.Fatal(err)
				}
				if _, err := l.Look(t.Context(), &f); err != nil {
					t.Fatal(err)
				}
			}
			a, err := l.Say(t.Context(), pipeline.Request{Task: pipeline.Describe, MaxTokens: 8}, nil)
			switch {
			case speaks && err != nil:
				t.Error(err)
			case !speaks && !errors.Is(err, errMute):
				t.Errorf("said %+v, %v", a, err)
			case !speaks:
				seen, err := l.Look(t.Context(), &f)
				if err != nil {
					t.Fatal(err)
				}
				labels, err := e.Models.Labeler.Classify(t.Context(), seen.Picture, []string{"a dog", "a red van"})
				if err != nil || len(labels) != 2 || labels[0].Cosine == 0 || labels[0].Probability <= 0 || labels[0].Probability >= 1 {
					t.Errorf("labels %+v, %v", labels, err)
				}
			}
		})
	}
}

func TestALanguageModelAloneSeesNothing(t *testing.T) {
	c := configs.Default()
	c.Model = testmodel.Unpack(t, "../../vlm/testdata/llama-a.tar.gz")
	_, err := Open(c, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "chat") {
		t.Errorf("got %v", err)
	}
}

func TestChat(t *testing.T) {
	c := configs.Default()
	c.Model = testmodel.Unpack(t, "../../vlm/testdata/llama-a.tar.gz")
	chat, err := OpenChat(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := chat.Close(); err != nil {
			t.Error(err)
		}
	}()
	say := func(q string) (text string) {
		for piece, err := range chat.Say(t.Context(), q, 6) {
			if err != nil {
				t.Fatal(err)
			}
			text += piece
		}
		return text
	}
	first := say("hello")
	if len(chat.past) != 1 || chat.past[0].Answer != first {
		t.Errorf("remembers %+v after %q", chat.past, first)
	}
	say("and then?")
	if len(chat.past) != 2 {
		t.Errorf("remembers %d turns, want 2", len(chat.past))
	}
	c.Model = testmodel.Unpack(t, "../../vlm/testdata/smolvlm-a.tar.gz")
	if err := chat.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenChat(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "lookout ask") {
		t.Errorf("a model that sees: %v", err)
	}
	if chat, err = OpenChat(func() configs.Config {
		c.Model = testmodel.Unpack(t, "../../vlm/testdata/llama-b.tar.gz")
		return c
	}(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
}

// A public model is scored by what it can do.
func TestPublicModelsAreScored(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"unseen-0002.json", "unseen-0002.mp4"} {
		path, err := filepath.Abs("../../testdata/yard/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, speaks := range map[string]bool{"llava-a": true, "clip-a": false} {
		t.Run(name, func(t *testing.T) {
			e, b, end := public(t, name, 2, 0)
			defer end()
			r, err := eval.Run(t.Context(), dir, Evaluated{Engine: e, Batcher: b}, eval.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if r.EventRecall.N > 0 != speaks || r.ZeroShotUnseen.N > 0 == speaks || r.IdleChatter.N != 0 || r.OODFalse.N != 0 || r.FramesPerSecond.N == 0 {
				t.Errorf("speaks: %v, scores %+v", speaks, r)
			}
		})
	}
}
