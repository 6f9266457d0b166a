package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/model/hub"
	"github.com/lookout-video/lookout/pipeline/engine"
)

func modelsCommand(g *global) *cobra.Command {
	c := &cobra.Command{
		Use:   "models",
		Short: "Lists, shows, pulls and verifies models",
		Example: `  lookout models list
  lookout models pull smolvlm2-256m --precision q4
  lookout models verify smolvlm2-256m`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(modelsList(), modelsShow(), modelsPull(g), modelsVerify())
	return c
}

func modelsList() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "Lists the models known by name, and which are here", Args: cobra.NoArgs,
		Example: "  lookout models list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			type row struct {
				Name    string `json:"name"`
				Repo    string `json:"repo"`
				Layout  string `json:"layout"`
				License string `json:"license"`
				Size    int    `json:"download_mb"`
				Memory  int    `json:"memory_mb"`
				Here    bool   `json:"here"`
			}
			dir, err := engine.ModelsDir()
			if err != nil {
				return err
			}
			var rows []row
			known := map[string]bool{}
			for _, e := range hub.Registry {
				path := hub.Path(dir, hub.Ref{Repo: e.Repo})
				known[path] = true
				_, err := model.Detect(path) // which wants all that it needs to be there
				rows = append(rows, row{e.Name, e.Repo, e.Layout, e.License, e.Download, e.Memory, err == nil})
			}
			others, err := filepath.Glob(filepath.Join(dir, "*--*"))
			if err != nil {
				return err
			}
			for _, path := range others {
				if layout, err := model.Detect(path); err == nil && !known[path] {
					repo := strings.Replace(filepath.Base(path), "--", "/", 1)
					rows = append(rows, row{Name: repo, Repo: repo, Layout: string(layout), Here: true})
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), rows)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tLAYOUT\tLICENCE\tDOWNLOAD, AT MOST\tMEMORY, AT MOST\tHERE")
			fmt.Fprintln(w, "(embedded)\tlookout\tApache-2.0\t\t\tyes")
			for _, r := range rows {
				here := ""
				if r.Here {
					here = "yes"
				}
				download, memory := fmt.Sprintf("%d MB", r.Size), fmt.Sprintf("%d MB", r.Memory)
				if r.Size == 0 { // it is not one of those that are known
					download, memory = "", ""
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Layout, r.License, download, memory, here)
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return c
}

func modelsShow() *cobra.Command {
	return &cobra.Command{
		Use: "show [NAME|DIR]", Short: "Says what a model is; the embedded one without an argument", Args: cobra.MaximumNArgs(1),
		Example: "  lookout models show\n  lookout models show ./my-model",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, layout, err := locate(args)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			if layout != model.Lookout {
				fmt.Fprintf(w, "folder\t%s\nlayout\t%s\n", dir, layout)
				return w.Flush()
			}
			b, err := openBundle(dir)
			if err != nil {
				return err
			}
			m := b.Manifest
			fmt.Fprintf(w, "name\t%s %s\nhash\t%s\nlicence\t%s\nlayout\t%s, %s\npicture\t%dx%d at %g frames a second, %d patches\nwindow\t%d frames, %d tokens each\ndecoder\t%d layers, width %d, %d words\nmade for\t%s\ntrained on\t%s\n",
				m.Name, m.Version, b.Hash, m.License, m.Layout, m.Precision, m.Image.Width, m.Image.Height, m.Image.SampleFPS, m.Encoder.Patches,
				m.Decoder.FramesInWindow, m.Temporal.TokensPerFrame, m.Decoder.Layers, m.Decoder.Width, m.Decoder.Vocab, m.Domain.Description, m.TrainedOn)
			for _, name := range slices.Sorted(maps.Keys(m.Files)) {
				fmt.Fprintf(w, "file\t%s\t%d bytes\n", name, m.Files[name].Size)
			}
			return w.Flush()
		},
	}
}

func modelsPull(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "pull NAME|OWNER/REPO[@REVISION]",
		Short: "Downloads a model from the hub: resumable, verified",
		Long: `Downloads a model from the hub into the user's cache. What is there already is
kept; an interrupted pull goes on where it was. HF_TOKEN is sent to the hub for
models that need a licence accepted, HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1
forbids the network.

Without --precision each graph comes in the one that suits the device (--device):
on a CPU q4, the smallest that runs fast and loses little; on a GPU fp16; fp32
where a model has neither.`,
		Example: `  lookout models pull smolvlm2-256m
  lookout models pull HuggingFaceTB/SmolVLM2-500M-Video-Instruct --precision q4f16
  lookout describe clip.mp4 --model smolvlm2-256m`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := hub.ParseRef(args[0])
			if err != nil {
				return usageError{err}
			}
			dir, err := engine.ModelsDir()
			if err != nil {
				return err
			}
			conf, err := g.load()
			if err != nil {
				return err
			}
			tell, done := pullProgress(cmd)
			got, err := hub.Pull(cmd.Context(), ref, hub.Options{Dir: dir, Files: hub.Needed(conf.Precision, engine.OnGPU(conf)), Progress: tell})
			done()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), got)
			return err
		},
	}
}

// pullProgress shows a bar for each file that takes a while, on a terminal of
// enough lines for those that come at once, and a line for each other: under
// the bars, as a line between two pictures of them may get lost.
func pullProgress(cmd *cobra.Command) (func(hub.Progress), func()) {
	var mu sync.Mutex
	line := func(p hub.Progress) string { return fmt.Sprintf("%s: %d bytes\n", p.File, p.Total) }
	if _, lines, err := term.GetSize(int(os.Stderr.Fd())); err != nil || lines < 10 {
		told := map[string]bool{}
		return func(p hub.Progress) {
			mu.Lock()
			defer mu.Unlock()
			if p.Done == p.Total && !told[p.File] {
				told[p.File] = true
				fmt.Fprint(cmd.ErrOrStderr(), line(p))
			}
		}, func() {}
	}
	bars := newBars(mpb.PopCompletedMode())
	byFile := map[string]*mpb.Bar{}
	under := map[string]string{}
	tell := func(p hub.Progress) {
		mu.Lock()
		defer mu.Unlock()
		b := byFile[p.File]
		if b == nil && p.Done == p.Total {
			under[p.File] = line(p)
			return
		}
		if b == nil {
			b = bars.AddBar(p.Total, mpb.PrependDecorators(decor.Percentage(decor.WCSyncSpace), decor.Name(" "+p.File, decor.WCSyncSpaceR), decor.CountersKibiByte("% .1f / % .1f")))
			b.SetRefill(p.Kept)
			byFile[p.File] = b
		}
		b.SetCurrent(p.Done)
	}
	return tell, func() {
		mu.Lock()
		for _, b := range byFile {
			if !b.Completed() {
				b.Abort(false)
			}
		}
		mu.Unlock()
		bars.Wait()
		for _, name := range slices.Sorted(maps.Keys(under)) {
			fmt.Fprint(cmd.ErrOrStderr(), under[name])
		}
	}
}

func modelsVerify() *cobra.Command {
	return &cobra.Command{
		Use: "verify [NAME|DIR]", Short: "Compares every file with its sha256", Args: cobra.MaximumNArgs(1),
		Example: "  lookout models verify\n  lookout models verify smolvlm2-256m",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, layout, err := locate(args)
			if err != nil {
				return err
			}
			if layout != model.Lookout {
				if err := hub.Verify(cmd.Context(), dir); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: as it was pulled\n", dir)
				return err
			}
			b, err := openBundle(dir)
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
}

// locate finds a model by folder or name; the embedded one has no folder.
func locate(args []string) (dir string, layout model.Layout, err error) {
	if len(args) == 0 {
		return "", model.Lookout, nil
	}
	dir, err = engine.ModelPath(args[0])
	if err == nil {
		layout, err = model.Detect(dir)
	}
	return dir, layout, err
}

func openBundle(dir string) (*model.Bundle, error) {
	if dir == "" {
		return model.Default()
	}
	b, err := model.Open(dir)
	if errors.Is(err, model.ErrNoManifest) {
		return nil, fmt.Errorf("%w; `lookout models list` names models that are known", err)
	}
	return b, err
}
