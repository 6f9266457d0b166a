// Package benchmark does on the real stages what package bench compares with
// the peers: the same code that users run, fed so that only it is measured.
package benchmark

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/lookout-video/lookout/bench"
	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/ingest"
	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/pipeline/engine"
	"github.com/lookout-video/lookout/vlm"
)

// Config says what a Runner works with.
type Config struct {
	// Model is the folder of a bundle in the embedded model's place. It defaults
	// to the embedded one.
	Model string
	// Video is a file of what that model knows, for the scenarios that name none.
	Video string
	// Threads of the runtime. It defaults to 2.
	Threads int
	// Log gets what the stages say. It defaults to nowhere.
	Log *slog.Logger
}

// Runner runs the scenarios. Models stay loaded from a scenario's first run to
// the first that needs others: the runtime is one a process. It is for one
// goroutine.
type Runner struct {
	cfg     Config
	playFor time.Duration // how much of a video FirstWord plays

	own    *engine.Engine // the embedded model, or nil
	models *pipeline.Models
	batch  *pipeline.Batcher
	stop   func()

	env    *ort.Env // of the public models, or nil
	public map[string]*vlm.Model
	asked  int // prompts written by long
}

// New makes a Runner that has nothing loaded.
func New(c Config) *Runner {
	if c.Threads <= 0 {
		c.Threads = 2
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Runner{cfg: c, playFor: 10 * time.Second, public: map[string]*vlm.Model{}}
}

// Lookout is what bench.Scenarios asks for.
func (r *Runner) Lookout() bench.Lookout {
	return bench.Lookout{Ingest: r.ingest, Encode: r.encode, Generate: r.generate, Describe: r.describe, Streams: r.streams, FastForward: r.fastForward,
		Prompts: r.prompts, Agree: r.agree, Watch: r.watch, FirstWord: r.firstWord}
}

// Close frees what is loaded.
func (r *Runner) Close() error { return errors.Join(r.closeOwn(), r.closePublic()) }

// useOwn loads the embedded model, once.
func (r *Runner) useOwn() error {
	if r.own != nil {
		return nil
	}
	if err := r.closePublic(); err != nil {
		return err
	}
	c := configs.Default()
	c.Model, c.Threads, c.Device = r.cfg.Model, r.cfg.Threads, "cpu"
	e, err := engine.Open(c, r.cfg.Log)
	if errors.Is(err, model.ErrNoDefault) {
		return fmt.Errorf("%w: %w", bench.ErrMissing, err)
	}
	if err != nil {
		return err
	}
	// Every frame is looked at and spoken of, whatever it shows: what a clip is of
	// must not decide what is measured.
	m := *e.Models
	m.Info.DomainThreshold = 0
	ctx, cancel := context.WithCancel(context.Background())
	r.own, r.models, r.batch = e, &m, pipeline.NewBatcher(m.Encoder, m.Info, m.Info.Batch)
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.batch.Run(ctx) }) // returns no error
	r.stop = func() { cancel(); wg.Wait() }
	return nil
}

func (r *Runner) closeOwn() error {
	if r.own == nil {
		return nil
	}
	r.stop()
	err := r.own.Close()
	r.own = nil
	return err
}

// usePublic loads the public model in dir, once. Those loaded before stay.
func (r *Runner) usePublic(dir string, opt vlm.Options) (*vlm.Model, error) {
	key := fmt.Sprint(dir, opt)
	if m := r.public[key]; m != nil {
		return m, nil
	}
	if _, err := model.Detect(dir); err != nil {
		return nil, fmt.Errorf("%w: %w (bench/peers/setup.sh makes it)", bench.ErrMissing, err)
	}
	if err := r.closeOwn(); err != nil {
		return nil, err
	}
	if r.env == nil {
		env, err := ort.Open(ort.Config{Device: "cpu", Threads: r.cfg.Threads, CacheDir: engine.PreparedDir(), Logger: r.cfg.Log})
		if err != nil {
			return nil, err
		}
		r.env = env
	}
	m, err := vlm.Open(dir, r.env, opt)
	if err != nil {
		return nil, err
	}
	r.public[key] = m
	return m, nil
}

func (r *Runner) closePublic() error {
	var errs []error
	for key, m := range r.public {
		errs = append(errs, m.Close())
		delete(r.public, key)
	}
	if r.env != nil {
		errs = append(errs, r.env.Close())
		r.env = nil
	}
	return errors.Join(errs...)
}

func (r *Runner) ingest(ctx context.Context, video string, width, height, threads int) (int, error) {
	src, err := ingest.Open(ctx, ingest.Config{Name: "bench", URL: video, Width: width, Height: height, Threads: threads, Stills: -1})
	if err != nil {
		return 0, err
	}
	defer src.Close()
	var f media.Frame
	for n := 0; ; n++ {
		if err := src.ReadFrame(ctx, &f); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
}

// frames reads up to n sampled frames of a video.
func frames(ctx context.Context, c ingest.Config, n int) ([]*media.Frame, error) {
	src, err := ingest.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	var out []*media.Frame
	for len(out) < n {
		f := new(media.Frame)
		if err := src.ReadFrame(ctx, f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("benchmark: %s has no frames", c.URL)
	}
	return out, nil
}
