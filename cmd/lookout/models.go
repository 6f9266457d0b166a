package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/model"
)

func modelsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "models",
		Short: "Lists, shows, pulls and verifies models",
		Example: `  lookout models list
  lookout models show
  lookout models verify ./my-model`,
		Args: cobra.NoArgs,
	}
	show := &cobra.Command{
		Use: "show [DIR]", Short: "Says what a model is; the embedded one without DIR", Args: cobra.MaximumNArgs(1),
		Example: "  lookout models show",
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := openBundle(args)
			if err != nil {
				return err
			}
			m := b.Manifest
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "name\t%s %s\nhash\t%s\nlicence\t%s\nlayout\t%s, %s\npicture\t%dx%d at %g frames a second, %d patches\nwindow\t%d frames, %d tokens each\ndecoder\t%d layers, width %d, %d words\nmade for\t%s\ntrained on\t%s\n",
				m.Name, m.Version, b.Hash, m.License, m.Layout, m.Precision, m.Image.Width, m.Image.Height, m.Image.SampleFPS, m.Encoder.Patches,
				m.Decoder.FramesInWindow, m.Temporal.TokensPerFrame, m.Decoder.Layers, m.Decoder.Width, m.Decoder.Vocab, m.Domain.Description, m.TrainedOn)
			for name, f := range m.Files {
				fmt.Fprintf(w, "file\t%s\t%d bytes\n", name, f.Size)
			}
			return w.Flush()
		},
	}
	verify := &cobra.Command{
		Use: "verify [DIR]", Short: "Compares every file with its sha256", Args: cobra.MaximumNArgs(1),
		Example: "  lookout models verify ./my-model",
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := openBundle(args)
			if err != nil {
				return err
			}
			if err := b.Verify(); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %d files right\n", b.Name, b.Hash, len(b.Manifest.Files))
			return err
		},
	}
	c.AddCommand(show, verify)
	return c
}

func openBundle(args []string) (*model.Bundle, error) {
	if len(args) == 0 {
		return model.Default()
	}
	return model.Open(args[0])
}
