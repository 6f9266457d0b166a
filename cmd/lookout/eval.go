package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/eval"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/pipeline/engine"
)

func evalCommand(g *global) *cobra.Command {
	var asJSON, withLog bool
	var said, against string
	c := &cobra.Command{
		Use:   "eval DIR",
		Short: "Scores what is said of labelled clips against what happens in them",
		Long: `Scores what is said of labelled clips against what happens in them: the shipped
model through the shipped pipeline, from encoded video. docs/eval.md says what
each score means, and how to label clips of your own.`,
		Example: `  lookout eval testdata/yard
  lookout eval testdata/yard --json
  lookout eval testdata/yard --said a.jsonl
  lookout eval testdata/yard --model DIR --against a.jsonl     what another model says otherwise, and how much worse`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withEngine(cmd.Context(), g, func(ctx context.Context, e *engine.Engine, b *pipeline.Batcher, _ *slog.Logger) error {
				progress := func(done, total int) {
					if isTerminal(os.Stderr) {
						fmt.Fprintf(os.Stderr, "\r\033[K%d/%d clips", done, total)
						if done == total {
							fmt.Fprint(os.Stderr, "\r\033[K")
						}
					}
				}
				opt := eval.Options{Progress: progress}
				if withLog {
					opt.Log = func(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }
				}
				if against != "" {
					f, err := os.Open(against)
					if err != nil {
						return err
					}
					defer f.Close()
					if opt.Against, err = eval.ReadSaid(f); err != nil {
						return fmt.Errorf("%s: %w", against, err)
					}
				}
				var failed error
				if said != "" {
					f, err := os.Create(said)
					if err != nil {
						return err
					}
					defer f.Close()
					enc := json.NewEncoder(f)
					opt.Said = func(s eval.Said) {
						if failed == nil {
							failed = enc.Encode(s)
						}
					}
				}
				report, err := eval.Run(ctx, args[0], engine.Evaluated{Engine: e, Batcher: b}, opt)
				if err = errors.Join(err, failed); err != nil {
					return err
				}
				if asJSON {
					enc := json.NewEncoder(cmd.OutOrStdout())
					enc.SetIndent("", "  ")
					return enc.Encode(report)
				}
				return report.WriteTable(cmd.OutOrStdout())
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	c.Flags().BoolVar(&withLog, "log", false, "also each false claim, each actor missed and each wrong answer, on standard error")
	c.Flags().StringVar(&said, "said", "", "also each description and answer, as a JSON object a line, into this `file`")
	c.Flags().StringVar(&against, "against", "", "compare with what another run has said into this `file`: what stayed the same, and by how much scores differ")
	return c
}
