package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/pipeline/engine"
)

// spoken is one line of `lookout describe --json`.
type spoken struct {
	T        float64   `json:"t"` // seconds into the source
	Capture  time.Time `json:"capture"`
	Kind     string    `json:"kind"` // description, change, status
	Phase    string    `json:"phase"`
	Text     string    `json:"text,omitempty"`
	State    string    `json:"state,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Fix      string    `json:"fix,omitempty"`
	Evidence []uint64  `json:"frames,omitempty"`
}

func describeCommand(g *global) *cobra.Command {
	var asJSON bool
	every := time.Second
	c := &cobra.Command{
		Use:   "describe SOURCE",
		Short: "Prints what a file, URL or device shows, with the time of each change",
		Example: `  lookout describe clip.mp4
  lookout describe --json rtsp://user:pass@camera/stream | jq .text
  lookout describe v4l2:/dev/video0`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withEngine(cmd.Context(), g, func(ctx context.Context, e *engine.Engine, b *pipeline.Batcher, log *slog.Logger) error {
				return describe(ctx, cmd, e, b, log, args[0], every, asJSON)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "a JSON object a line")
	c.Flags().DurationVar(&every, "every", every, "shortest `time` between two descriptions")
	return c
}

func describe(ctx context.Context, cmd *cobra.Command, e *engine.Engine, b *pipeline.Batcher, log *slog.Logger, url string, every time.Duration, asJSON bool) error {
	c := source(url)
	c.Describe.Every, c.Gate, c.Labels = every, 0, nil
	tap := media.NewTap(1)
	src, err := e.OpenSource(ctx, c, tap)
	if err != nil {
		return err
	}
	progress := newBar(src.Duration())
	defer progress.done()
	began := time.Now()
	seq, err := event.OpenSequencer("")
	if err != nil {
		return err
	}
	bus := event.NewBus(0)
	defer bus.Close()
	print := publish(func(ev *event.Event) error {
		d := ev.Data
		line := spoken{Phase: string(d.Phase), Text: d.Text, Kind: "description", Capture: ev.Time}
		switch {
		case ev.Type == event.TypeStatus:
			line.Kind, line.State, line.Reason, line.Fix = "status", d.Status.State, d.Status.Reason, d.Status.Fix
		case ev.Type == event.TypeLabel:
			return nil
		case d.Prompt != nil && d.Prompt.ID == pipeline.PromptChanges:
			line.Kind = "change"
		}
		for _, f := range d.Evidence {
			line.T, line.Capture = float64(f.MediaMS)/1000, f.Capture
			line.Evidence = append(line.Evidence, f.Frame)
		}
		progress.at(time.Duration(line.T * float64(time.Second)))
		if asJSON {
			return printJSON(cmd.OutOrStdout(), line)
		}
		var text string
		at := clock(time.Duration(line.T * float64(time.Second)))
		switch {
		case line.Kind == "status":
			text = fmt.Sprintf("          ! %s: %s\n            %s\n", line.State, line.Reason, line.Fix)
		case d.Phase == event.End:
			return nil // the text was printed when it began
		case line.Kind == "change":
			text = fmt.Sprintf("%s  + %s\n", at, d.Text)
		default:
			text = fmt.Sprintf("%s    %s\n", at, d.Text)
		}
		_, err := progress.write([]byte(text))
		return err
	})
	deps := &pipeline.Deps{Models: e.Models, Batcher: b, Bus: bus, Emitter: event.NewEmitter(seq, bus, print), Log: log, Lossless: src.Duration() > 0,
		Open: func(configs.Stream, pipeline.ModelInfo, *media.Tap, func(event.Status)) pipeline.Source { return src }}
	err = pipeline.NewStream(c, deps).Run(ctx)
	log.Debug("described", "took", time.Since(began))
	return err
}
