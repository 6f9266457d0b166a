// Command lookout watches live video and tells, in words and as it happens,
// what it sees. This package holds its commands, flags, signals and exit codes;
// everything else is elsewhere.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lookout-video/lookout/configs"
)

// Exit codes, besides 0.
const (
	exitFailure = 1   // what was asked for could not be done
	exitUsage   = 2   // the command line or the configuration is wrong
	exitSignal  = 130 // ended by Ctrl-C before it was done
)

// usageError marks errors of the command line and the configuration.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends at once: whoever presses it twice means it.
	context.AfterFunc(ctx, stop)
	err := newRoot().ExecuteContext(ctx)
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		os.Exit(exitSignal)
	default:
		fmt.Fprintln(os.Stderr, "lookout:", err)
		if errors.As(err, new(usageError)) {
			os.Exit(exitUsage)
		}
		os.Exit(exitFailure)
	}
}

// global holds the flags of every command.
type global struct {
	config    string
	level     string
	model     string
	precision string
	device    string
}

func newRoot() *cobra.Command {
	var g global
	root := &cobra.Command{
		Use:   "lookout",
		Short: "Watches live video and tells, in words and as it happens, what it sees",
		Long: `Lookout watches live video and tells, in words and as it happens, what it sees.

FFmpeg decodes, a visual encoder looks at consecutive frames, a language model
speaks. The words go to a page (WebRTC data channels), into Redis Streams, and
to whoever asks.`,
		Example: `  lookout demo                                     # the bundled video, everything embedded
  lookout describe rtsp://user:pass@camera/stream  # what a camera sees, line by line
  lookout ask clip.mp4 "is there a red van?"       # one question about a file
  lookout run -c lookout.yaml                      # many cameras, page, Redis
  lookout doctor                                   # what is missing on this machine, and how to mend it`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SetVersionTemplate("lookout {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; `%s --help` shows the flags", err, c.CommandPath())}
	})
	f := root.PersistentFlags()
	f.StringVarP(&g.config, "config", "c", os.Getenv("LOOKOUT_CONFIG"), "configuration `file` (LOOKOUT_CONFIG)")
	f.StringVar(&g.level, "log", "", "least `level` of messages shown: debug, info, warn, error")
	f.StringVar(&g.model, "model", "", "model `folder` or name; the embedded model when empty")
	f.StringVar(&g.precision, "precision", "", "`variant` of a public model's files: auto, fp32, fp16, q4, q4f16, int8, uint8, quantized, bnb4; auto is what suits the device")
	f.StringVar(&g.device, "device", "", "auto, cpu, cuda or cuda:N")
	root.AddCommand(runCommand(&g), demoCommand(&g), describeCommand(&g), askCommand(&g), classifyCommand(&g), chatCommand(&g), evalCommand(&g), benchCommand(&g), doctorCommand(&g),
		modelsCommand(&g), eventsCommand(&g), configCommand(&g), versionCommand())
	for _, c := range root.Commands() {
		wrapUsage(c)
	}
	return root
}

// wrapUsage makes wrong arguments usage errors, which name the help.
func wrapUsage(c *cobra.Command) {
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, a []string) error {
			if err := args(c, a); err != nil {
				return usageError{fmt.Errorf("%w; `%s --help` shows how", err, c.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapUsage(sub)
	}
}

// load reads the configuration with the command line's flags laid over it.
func (g *global) load() (configs.Config, error) {
	c, err := configs.Load(g.config)
	if err != nil {
		return c, usageError{err}
	}
	if g.level != "" {
		c.Log.Level = g.level
	}
	if g.model != "" {
		c.Model = g.model
	}
	if g.precision != "" {
		c.Precision = g.precision
	}
	if g.device != "" {
		c.Device = g.device
	}
	if err := c.Validate(); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// logger writes text to a terminal and JSON elsewhere, unless told otherwise.
func logger(c configs.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // Validate has refused all else
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "text" || c.Format == "auto" && term.IsTerminal(int(os.Stderr.Fd())) {
		return slog.New(slog.NewTextHandler(os.Stderr, o))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, o))
}

// version is what the build says of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v, rev := info.Main.Version, ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			rev = s.Value[:12]
		}
	}
	if v == "" || v == "(devel)" {
		v = "devel"
		if rev != "" {
			v += " " + rev
		}
	}
	return v
}
