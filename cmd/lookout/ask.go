package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/pipeline/engine"
)

// reply is what `lookout ask` found.
type reply struct {
	Answer      string   `json:"answer"`
	Probability *float64 `json:"probability,omitempty"`
	T           float64  `json:"t"` // seconds into the source
	CannotTell  bool     `json:"cannot_tell,omitempty"`
	OutOfDomain bool     `json:"out_of_domain,omitempty"`
	Frames      int      `json:"frames"`
}

func askCommand(g *global) *cobra.Command {
	var asJSON bool
	at := time.Duration(-1)
	limit := 10 * time.Second
	c := &cobra.Command{
		Use:   "ask SOURCE QUESTION",
		Short: "Answers a question about a file, URL or device",
		Long: `Answers a question about a file, URL or device.

A yes/no question is asked at each second of the source; the moment with the
surest yes is reported, or no with the lowest doubt. Any other question is
answered about the last frames, or those before --at.`,
		Example: `  lookout ask clip.mp4 "does it contain an apple?"
  lookout ask clip.mp4 "which way is the person going?" --at 4s
  lookout ask rtsp://camera/stream "is the gate open?" --for 5s --json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var r *reply
			err := withEngine(cmd.Context(), g, func(ctx context.Context, e *engine.Engine, b *pipeline.Batcher, _ *slog.Logger) error {
				var err error
				r, err = ask(ctx, e, b, args[0], args[1], at, limit, cmd.Flags().Changed("for"))
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			line := r.Answer
			if r.Probability != nil {
				line += fmt.Sprintf("  (probability of yes %.3f)", *r.Probability)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  at %s\n", line, clock(time.Duration(r.T*float64(time.Second))))
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	c.Flags().DurationVar(&at, "at", at, "`moment` of the source to ask about; the whole when not given")
	c.Flags().DurationVar(&limit, "for", limit, "how long to watch; by default a file to its end and any other source for this time")
	return c
}

// errNoFrames is returned for a source that gave no picture.
var errNoFrames = errors.New("the source gave no frame in that time; try a later --at, or `lookout describe` to see what it shows")

func ask(ctx context.Context, e *engine.Engine, b *pipeline.Batcher, url, question string, at, limit time.Duration, bounded bool) (*reply, error) {
	best := reply{}
	var lastLooker *pipeline.Looker
	var newest time.Duration
	var next time.Duration
	n := 0
	consider := func(l *pipeline.Looker, t time.Duration, ood bool) error {
		a := pipeline.Answer{CannotTell: true}
		if !ood {
			var err error
			if a, err = l.Say(ctx, pipeline.Request{Task: pipeline.Ask, Text: question}, nil); err != nil {
				return err
			}
		}
		r := reply{Answer: a.Text, T: t.Seconds(), CannotTell: a.CannotTell, OutOfDomain: ood}
		if a.CannotTell {
			r.Answer = "I cannot tell."
		} else if a.HasYes {
			r.Probability = &a.YesProb
		}
		if best.Answer == "" || best.Probability == nil || r.Probability != nil && *r.Probability > *best.Probability {
			best = r
		}
		return nil
	}
	err := look(ctx, e, b, url, limit, func(f *media.Frame, l *pipeline.Looker, seen pipeline.Seen) error {
		n++
		lastLooker, newest = l, f.At.Media
		switch {
		case at >= 0 && f.At.Media >= at:
			if err := consider(l, f.At.Media, seen.OutOfDomain || seen.Strange); err != nil {
				return err
			}
			return io.EOF
		case at < 0 && f.At.Media >= next && n >= e.Models.Info.Window/2:
			next = f.At.Media + time.Second
			if err := consider(l, f.At.Media, seen.OutOfDomain || seen.Strange); err != nil {
				return err
			}
		}
		if bounded && f.At.Media >= limit {
			return io.EOF
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if lastLooker == nil || at >= 0 && newest < at && best.Answer == "" {
		return nil, errNoFrames
	}
	if best.Answer == "" {
		return nil, errNoFrames
	}
	best.Frames = n
	return &best, nil
}
