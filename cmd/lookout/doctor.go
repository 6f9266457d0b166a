package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/assets"
	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/ingest"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/pipeline/engine"
	"github.com/lookout-video/lookout/pipeline/server"
)

// finding is one line of the doctor's report.
type finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	// Fix is set when something is wrong, or could be better.
	Fix string `json:"fix,omitempty"`
	// Needed says that Lookout does not run without it.
	Needed bool `json:"needed"`
}

// errUnwell is returned when something needed is missing.
var errUnwell = errors.New("something that is needed is missing; the report says how to mend it")

func doctorCommand(g *global) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Checks FFmpeg, ONNX Runtime, devices, model, Redis, and says how to mend what is wrong",
		Example: `  lookout doctor
  lookout doctor -c lookout.yaml --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := g.load()
			if err != nil {
				return err
			}
			list := examine(cmd.Context(), conf)
			sick := false
			for _, f := range list {
				sick = sick || f.Needed && !f.OK
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), map[string]any{"well": !sick, "findings": list})
			} else {
				err = report(cmd.OutOrStdout(), list)
			}
			if err == nil && sick {
				err = errUnwell
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return c
}

func report(w io.Writer, list []finding) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range list {
		mark := "ok"
		switch {
		case !f.OK && f.Needed:
			mark = "MISSING"
		case !f.OK:
			mark = "none"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", mark, f.What, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(table, "\t\tfix: %s\n", f.Fix)
		}
	}
	return table.Flush()
}

// examine looks at all that Lookout stands on. Each check is the real thing:
// a library is loaded, a video decoded, a server asked.
func examine(ctx context.Context, conf configs.Config) []finding {
	list := []finding{{What: "machine", OK: true, Detail: fmt.Sprintf("%s/%s, %d CPUs, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), version())}, decoding(ctx)}
	log := logger(configs.Log{Level: "error", Format: "text"})
	began := time.Now()
	e, err := engine.Open(conf, log)
	if err != nil {
		list = append(list, finding{What: "ONNX Runtime and model", Needed: true, Detail: err.Error(), Fix: "the message names it; `make deps` gets the library"})
	} else {
		device := e.Runtime.Device()
		if k := e.Runtime.Kernels(); k != "" {
			device += ", kernels for " + k
		}
		list = append(list, finding{What: "ONNX Runtime", OK: true, Needed: true, Detail: e.Runtime.Version() + " " + e.Runtime.Library()},
			finding{What: "device", OK: true, Detail: device},
			finding{What: "model", OK: true, Needed: true, Detail: fmt.Sprintf("%s %s, loaded in %d ms", e.Models.Info.Name, e.Models.Info.Hash, time.Since(began).Milliseconds())})
		if e.Bundle == nil {
			// Files of public models come with no sums to check here; `models verify` has those of the hub.
		} else if err := e.Bundle.Verify(); err != nil {
			list = append(list, finding{What: "model files", Needed: true, Detail: err.Error(), Fix: "pull or build the model again"})
		}
		if err := e.Close(); err != nil {
			list = append(list, finding{What: "closing the model", Detail: err.Error()})
		}
	}
	return append(list, redisFinding(ctx, conf), stateFinding(conf), listenFinding(conf))
}

// decoding decodes the bundled video's first pictures.
func decoding(ctx context.Context) finding {
	f := finding{What: "FFmpeg", Needed: true, Fix: "run `make deps`, then `make build`"}
	dir, err := os.MkdirTemp("", "lookout-doctor-")
	if err != nil {
		f.Detail, f.Fix = err.Error(), "make room in the folder for temporary files"
		return f
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "demo.mp4")
	if err := os.WriteFile(path, assets.Demo, 0o600); err != nil {
		f.Detail, f.Fix = err.Error(), "make room in the folder for temporary files"
		return f
	}
	r, err := ingest.Open(ctx, ingest.Config{Name: "doctor", URL: path, Width: 256, Height: 144})
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	defer r.Close()
	var frame media.Frame
	if err := r.ReadFrame(ctx, &frame); err != nil {
		f.Detail = err.Error()
		return f
	}
	f.OK, f.Fix = true, ""
	i := r.Info()
	f.Detail = fmt.Sprintf("decoded %s %dx%d", i.Codec, i.Width, i.Height)
	return f
}

func redisFinding(ctx context.Context, conf configs.Config) finding {
	if conf.Redis.URL == "" && len(conf.Redis.Addrs) == 0 {
		path, err := exec.LookPath("redis-server")
		if err != nil {
			return finding{What: "redis-server", Detail: "not on the PATH; the demo starts a private one", Fix: "apt-get install redis-server, or `lookout demo --redis URL`"}
		}
		return finding{What: "redis-server", OK: true, Detail: path + " (for the demo; no redis.url is set)"}
	}
	f := finding{What: "Redis", Needed: true}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := redis.Open(server.RedisConfig(conf.Redis))
	if err == nil {
		defer client.Close()
		err = client.Ping(ctx)
		f.Detail = client.Target()
	}
	if err != nil {
		f.Detail, f.Fix = err.Error(), "check redis.url; events wait in the outbox meanwhile"
		return f
	}
	f.OK = true
	return f
}

func stateFinding(conf configs.Config) finding {
	f := finding{What: "state folder", Detail: conf.StateDir, Needed: true}
	if err := os.MkdirAll(conf.StateDir, 0o700); err != nil {
		f.Detail, f.Fix = err.Error(), "set state_dir to a folder that can be written"
		return f
	}
	probe, err := os.CreateTemp(conf.StateDir, ".doctor-*")
	if err != nil {
		f.Detail, f.Fix = err.Error(), "set state_dir to a folder that can be written"
		return f
	}
	probe.Close()
	os.Remove(probe.Name())
	f.OK = true
	return f
}

func listenFinding(conf configs.Config) finding {
	f := finding{What: "address of the page", Detail: conf.Web.Listen}
	l, err := net.Listen("tcp", conf.Web.Listen)
	if err != nil {
		f.Detail, f.Fix = err.Error(), "stop what listens there, or set web.listen to another address"
		return f
	}
	l.Close()
	f.OK = true
	return f
}
