package main

import (
	"fmt"
	"os"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/configs"
)

func configCommand(g *global) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Checks and prints the configuration", Args: cobra.NoArgs}
	check := &cobra.Command{
		Use:     "check [FILE]",
		Short:   "Says whether a configuration is right, and where it is not",
		Example: "  lookout config check lookout.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				g.config = args[0]
			}
			conf, err := g.load()
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "right: %d streams\n", len(conf.Streams))
			return nil
		},
	}
	var effective, schema bool
	print := &cobra.Command{
		Use:   "print",
		Short: "Prints the commented default configuration, or the one in force",
		Example: `  lookout config print > lookout.yaml              # a file to start from
  lookout config print --effective -c lookout.yaml # defaults, file and environment together
  lookout config print --schema > lookout.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case schema:
				_, err := cmd.OutOrStdout().Write(configs.Schema())
				return err
			case effective:
				conf, err := g.load()
				if err != nil {
					return err
				}
				b, err := yaml.Marshal(conf.Redacted())
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(b)
				return err
			}
			_, err := os.Stdout.Write(configs.Example)
			return err
		},
	}
	print.Flags().BoolVar(&effective, "effective", false, "the configuration in force, secrets hidden")
	print.Flags().BoolVar(&schema, "schema", false, "the JSON Schema, for editors")
	c.AddCommand(check, print)
	return c
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "lookout", version())
			return err
		},
	}
}
