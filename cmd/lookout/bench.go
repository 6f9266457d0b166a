package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/assets"
	"github.com/lookout-video/lookout/bench"
	"github.com/lookout-video/lookout/pipeline/benchmark"
)

func benchCommand(g *global) *cobra.Command {
	var quick, asJSON bool
	var only []string
	var out, peers, video, from, docs string
	threads := 2
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measures this machine, beside other programs that do the same",
		Long: `Measures this machine, beside other programs that do the same. The sides of a
scenario run in turn; medians and spread go into a table, latest.json and plots.
The peers, their models and clips are made by bench/peers/setup.sh; what is not
there is named as missing. bench/README.md says how each figure is made.`,
		Example: `  lookout bench --quick
  lookout bench --only decode-only,language-model --json
  lookout bench --from bench/results/latest.json --docs docs/bench.md`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if docs != "" && len(only) > 0 {
				return usageError{errors.New("--docs wants the figures of all scenarios: leave --only out")}
			}
			if from != "" {
				if docs == "" {
					return usageError{errors.New("--from wants --docs, the file that the figures go into")}
				}
				results, err := bench.Load(from)
				if err != nil {
					return err
				}
				return results.Document(docs)
			}
			conf, err := g.load()
			if err != nil {
				return err
			}
			if g.level == "" {
				conf.Log.Level = "error" // sources end and begin again all the time
			}
			dir, err := os.MkdirTemp("", "lookout-bench-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			if video == "" {
				video = filepath.Join(dir, "demo.mp4")
				if err := os.WriteFile(video, assets.Demo, 0o600); err != nil {
					return err
				}
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			r := benchmark.New(benchmark.Config{Model: conf.Model, Video: video, Threads: threads, Log: logger(conf.Log)})
			defer r.Close()
			bc := bench.Config{Quick: quick, Threads: threads, Video: video, Clips: filepath.Join(peers, "clips"), Models: filepath.Join(peers, "models"),
				LlamaCPP: filepath.Join(peers, "llama.cpp"), Python: filepath.Join(peers, "venv", "bin", "python"), Only: only, FirstLine: saysSomething,
				Start: []string{exe, "describe", "--json", "--device", "cpu", video}}
			if conf.Model != "" {
				bc.Start = append(bc.Start, "--model", conf.Model)
			}
			scenarios, ratios := bench.Scenarios(r.Lookout(), bc)
			if len(scenarios) == 0 {
				return usageError{fmt.Errorf("no scenario is called %s; bench/README.md lists them", strings.Join(only, ", "))}
			}
			opt := bench.Options{RunTimeout: 30 * time.Minute, Progress: func(scenario, side string, run, of int) {
				what := fmt.Sprintf("run %d of %d", run+1, of)
				if run < 0 {
					what = "warm-up"
				}
				fmt.Fprintf(os.Stderr, "%s: %s, %s\n", scenario, side, what)
			}}
			results, err := bench.Run(cmd.Context(), scenarios, ratios, opt)
			if err != nil {
				return err
			}
			if err := results.Save(out); err != nil {
				return err
			}
			if docs != "" {
				if err := results.Document(docs); err != nil {
					return err
				}
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(results)
			}
			return results.WriteTable(cmd.OutOrStdout())
		},
	}
	f := c.Flags()
	f.BoolVar(&quick, "quick", false, "fewer and shorter runs: 8 minutes instead of 40")
	f.BoolVar(&asJSON, "json", false, "one JSON object instead of a table")
	f.StringSliceVar(&only, "only", nil, "the `scenarios` to run, by name")
	f.StringVar(&out, "out", "bench/results", "`folder` for latest.json and the plots")
	f.StringVar(&docs, "docs", "", "Markdown `file` whose tables of figures, and plots, are replaced, such as docs/bench.md")
	f.StringVar(&from, "from", "", "with --docs: the `file` of an earlier run, latest.json, in place of a run")
	f.StringVar(&peers, "peers", peersDir(), "`folder` that bench/peers/setup.sh has filled (LOOKOUT_PEERS)")
	f.StringVar(&video, "video", "", "`file` of what the model knows; the bundled one when empty")
	f.IntVar(&threads, "threads", threads, "of every side")
	return c
}

// peersDir is where setup.sh puts the peers.
func peersDir() string {
	if d := os.Getenv("LOOKOUT_PEERS"); d != "" {
		return d
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".cache", "lookout", "peers")
}

// saysSomething tells whether a line of `describe --json` holds words.
func saysSomething(line string) bool {
	var s spoken
	return json.Unmarshal([]byte(line), &s) == nil && s.Kind != "status" && s.Text != ""
}
