package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/pipeline/engine"
)

// labelled is one line of `lookout classify --json`.
type labelled struct {
	T      float64       `json:"t"`
	Labels []event.Label `json:"labels"`
}

func classifyCommand(g *global) *cobra.Command {
	var asJSON bool
	var labels []string
	every := time.Second
	limit := time.Duration(0)
	c := &cobra.Command{
		Use:   "classify SOURCE",
		Short: "Compares pictures with labels: cosine similarity and zero-shot probability",
		Example: `  lookout classify clip.mp4 --labels "a red van,a dog,an empty yard"
  lookout classify v4l2:/dev/video0 --labels person,car --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withEngine(cmd.Context(), g, func(ctx context.Context, e *engine.Engine, b *pipeline.Batcher, _ *slog.Logger) error {
				if e.Models.Labeler == nil {
					return errors.New("the model has no text tower; use one with (CLIP, SigLIP, or the embedded model)")
				}
				if len(labels) == 0 {
					labels = e.Models.Info.Labels
				}
				return classify(ctx, cmd.OutOrStdout(), e, b, args[0], labels, every, limit, asJSON)
			})
		},
	}
	c.Flags().StringSliceVar(&labels, "labels", nil, "`labels`, with commas between; the model's own when not given")
	c.Flags().BoolVar(&asJSON, "json", false, "a JSON object a line")
	c.Flags().DurationVar(&every, "every", every, "`time` between two classifications")
	c.Flags().DurationVar(&limit, "for", 0, "how long to watch; 0: to the end")
	return c
}

func classify(ctx context.Context, w io.Writer, e *engine.Engine, b *pipeline.Batcher, url string, labels []string, every, limit time.Duration, asJSON bool) error {
	next := time.Duration(0)
	n := 0
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	err := look(ctx, e, b, url, 0, func(f *media.Frame, _ *pipeline.Looker, seen pipeline.Seen) error {
		n++
		if limit > 0 && f.At.Media > limit {
			return io.EOF
		}
		if f.At.Media < next {
			return nil
		}
		next = f.At.Media + every
		scores, err := e.Models.Labeler.Classify(ctx, seen.Picture, labels)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(w, labelled{f.At.Media.Seconds(), scores})
		}
		slices.SortStableFunc(scores, func(a, b event.Label) int { return int(1e6 * (b.Probability - a.Probability)) })
		for i, s := range scores {
			at := ""
			if i == 0 {
				at = clock(f.At.Media)
			}
			fmt.Fprintf(table, "%s\t%s\t%.3f\tcosine %.3f\n", at, s.Name, s.Probability, s.Cosine)
		}
		return table.Flush()
	})
	if err == nil && n == 0 {
		return errNoFrames
	}
	return err
}
