package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/pipeline/engine"
)

func chatCommand(g *global) *cobra.Command {
	most := 256
	c := &cobra.Command{
		Use:   "chat [QUESTION]",
		Short: "Talks with a language model in the terminal, without pictures",
		Long: `Talks with a decoder-only language model, one question a line, until the end of
the input. It is the quickest way to see that a language model works before it
is put behind the eyes.`,
		Example: `  lookout chat --model smollm2-135m
  lookout chat --model ./SmolLM2-135M "What is a loading dock?"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			conf, err := g.load()
			if err != nil {
				return err
			}
			if conf.Model == "" {
				return usageError{errors.New("the embedded model only speaks of what it sees; name a language model with --model")}
			}
			if g.level == "" {
				conf.Log.Level = "warn"
			}
			chat, err := engine.OpenChat(conf, logger(conf.Log))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, chat.Close()) }()
			out := cmd.OutOrStdout()
			answer := func(question string) error {
				for piece, err := range chat.Say(cmd.Context(), question, most) {
					if err != nil {
						return err
					}
					fmt.Fprint(out, piece)
				}
				fmt.Fprintln(out)
				return nil
			}
			if len(args) == 1 {
				return answer(args[0])
			}
			ask := isTerminal(os.Stdin) && isTerminal(out)
			lines := bufio.NewScanner(cmd.InOrStdin())
			lines.Buffer(nil, 1<<20)
			for {
				if ask {
					fmt.Fprint(out, "> ")
				}
				if !lines.Scan() {
					return lines.Err()
				}
				if q := strings.TrimSpace(lines.Text()); q != "" {
					if err := answer(q); err != nil {
						return err
					}
				}
			}
		},
	}
	c.Flags().IntVar(&most, "max-tokens", most, "longest answer, in `tokens`")
	return c
}
