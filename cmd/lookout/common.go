package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/pipeline/engine"
)

// isTerminal tells whether w is one: colour, tables and bars are for terminals.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// printJSON writes v as one line.
func printJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// clock writes a media time as people read it.
func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%06.3f", int(d.Minutes()), (d % time.Minute).Seconds())
}

// source is the one stream of a one-shot command.
func source(url string) configs.Stream {
	c := configs.DefaultStream()
	c.Name, c.URL = "source", url
	return c
}

// withEngine loads the model, runs do and frees all, in this order.
func withEngine(ctx context.Context, g *global, do func(ctx context.Context, e *engine.Engine, b *pipeline.Batcher, log *slog.Logger) error) error {
	conf, err := g.load()
	if err != nil {
		return err
	}
	if g.level == "" {
		conf.Log.Level = "warn" // whoever asks one thing wants one answer
	}
	log := logger(conf.Log)
	e, err := engine.Open(conf, log)
	if err != nil {
		return err
	}
	defer e.Close()
	b := pipeline.NewBatcher(e.Models.Encoder, e.Models.Info, 1)
	bctx, stop := context.WithCancel(context.Background())
	var run errgroup.Group
	run.Go(func() error { return b.Run(bctx) })
	err = do(ctx, e, b, log)
	stop()
	_ = run.Wait() // Run returns no error
	return err
}

// look opens a source and shows do each sampled frame, as fast as they come,
// until do returns io.EOF. A source without an end is watched for endless, 0: for ever.
func look(ctx context.Context, e *engine.Engine, b *pipeline.Batcher, url string, endless time.Duration, do func(f *media.Frame, l *pipeline.Looker, seen pipeline.Seen) error) error {
	c := source(url)
	src, err := e.OpenSource(ctx, c, nil)
	if err != nil {
		return err
	}
	defer src.Close()
	l, err := pipeline.NewLooker(e.Models, b, 0)
	if err != nil {
		return err
	}
	defer l.Close()
	bar := newBar(src.Duration())
	defer bar.done()
	file := src.Duration() > 0 // who watches something live is not to wait for the picture after
	now, next := new(media.Frame), new(media.Frame)
	err = src.ReadFrame(ctx, now)
	for err == nil {
		if !file && endless > 0 && now.At.Media >= endless {
			return nil
		}
		bar.at(now.At.Media)
		if file {
			if err = src.ReadFrame(ctx, next); err == nil {
				l.Expect(next)
			} // else now is the last, and is looked at all the same
		}
		seen, lookErr := l.Look(ctx, now)
		if lookErr != nil {
			return lookErr
		}
		if doErr := do(now, l, seen); doErr != nil {
			err = doErr
		} else if !file {
			err = src.ReadFrame(ctx, next)
		}
		now, next = next, now
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// publish makes a function an event.Publisher.
type publish func(ev *event.Event) error

func (p publish) Publish(_ context.Context, ev *event.Event) error { return p(ev) }
