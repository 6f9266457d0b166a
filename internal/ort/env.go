// Package ort is the one door to ONNX Runtime: it finds the library, owns the
// process's thread budget, picks the device, and runs graphs over slices that
// the caller owns. Nothing else imports onnxruntime_go.
package ort

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/lookout-video/lookout/internal/ort/kernels"

	ortgo "github.com/yalue/onnxruntime_go"
)

// ErrOpen is returned by Open while another Env is open: ONNX Runtime has one
// environment a process.
var ErrOpen = errors.New("ort: already open in this process")

// ErrClosed is returned by calls on a closed Env, Session or Binding.
var ErrClosed = errors.New("ort: closed")

// Config configures an Env. The zero value is ready to use.
type Config struct {
	// Library is the path of libonnxruntime.so. By default it is looked for in
	// $LOOKOUT_ONNXRUNTIME, in ../lib and . beside the executable, and where
	// `make deps` put it.
	Library string
	// Device is "auto", "cpu", "cuda" or "cuda:N". Auto takes CUDA when library
	// and machine have it, else the CPU. It defaults to "auto".
	Device string
	// Threads is how many threads all runs in progress use together: each run
	// waits for as many as its session takes. Lend lends of as many.
	// It defaults to the CPUs this process may use.
	Threads int
	// CacheDir holds graphs prepared for this machine, so that the next start
	// is quick. Empty: none are kept.
	CacheDir string
	// CacheBytes is the most that CacheDir may hold: what was not loaded for
	// longest is deleted. It defaults to 16 GB, and is never more than a quarter of
	// what the disk would have free without it. Models of more than half of it are not
	// kept, which is logged.
	CacheBytes int64
	// Logger is told when auto falls back to the CPU, and what is prepared or cannot be
	// kept.
	// It defaults to slog.Default().
	Logger *slog.Logger
}

// Env is the process's ONNX Runtime. It may be used from many goroutines.
type Env struct {
	cfg     Config
	library string
	cuda    bool
	gpu     int
	own     bool          // prepared graphs may use the operators of package kernels
	gate    chan struct{} // held while taking CPUs, so that runs start in order
	cpus    chan struct{} // holds one element for each that is taken

	mu       sync.Mutex
	sessions map[*Session]struct{}
	closed   bool
	lent     int // threads that work outside the runs was given
}

// process remembers what onnxruntime_go keeps in its own globals. The library
// stays loaded until the process ends: unloading it is not safe once its
// providers have started threads.
var process struct {
	sync.Mutex
	library string
	open    bool
}

// Open loads ONNX Runtime (1.24 or newer) and settles on a device.
func Open(cfg Config) (*Env, error) {
	if cfg.Threads <= 0 {
		cfg.Threads = runtime.GOMAXPROCS(0)
	}
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = 16 << 30
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	want, gpu, err := parseDevice(cfg.Device)
	if err != nil {
		return nil, err
	}
	process.Lock()
	defer process.Unlock()
	if process.open {
		return nil, ErrOpen
	}
	if process.library == "" {
		lib, err := findLibrary(cfg.Library)
		if err != nil {
			return nil, err
		}
		ortgo.SetSharedLibraryPath(lib)
		// Failures come back as errors; the library need not print them too.
		if err := ortgo.InitializeEnvironment(ortgo.WithLogLevelFatal()); err != nil {
			if strings.Contains(err.Error(), "ORT API base") { // the one sign of it; the version itself is gone with the library
				return nil, fmt.Errorf("ort: %s is older than ONNX Runtime 1.24, which is needed: run `make deps`", lib)
			}
			return nil, fmt.Errorf("ort: load %s: %w: run `make deps`", lib, err)
		}
		process.library = lib
	} else if cfg.Library != "" && cfg.Library != process.library {
		return nil, fmt.Errorf("ort: this process already loaded %s, it cannot load %s too", process.library, cfg.Library)
	}
	e := &Env{
		cfg: cfg, library: process.library, gpu: gpu,
		gate: make(chan struct{}, 1), cpus: make(chan struct{}, cfg.Threads), sessions: map[*Session]struct{}{},
	}
	if want != "cpu" {
		switch err := probeCUDA(e.library, gpu); {
		case err == nil:
			e.cuda = true
		case want == "cuda":
			return nil, fmt.Errorf("ort: device %q: %w: set the device to cpu or auto to go on without", cfg.Device, err)
		default:
			cfg.Logger.Info("no CUDA device, running on the CPU", "why", err)
		}
	}
	e.own = !e.cuda && kernels.Supported()
	process.open = true
	return e, nil
}

// Device is where graphs run: "cpu" or "cuda:N".
func (e *Env) Device() string {
	if e.cuda {
		return fmt.Sprintf("cuda:%d", e.gpu)
	}
	return "cpu"
}

// Kernels names the instructions that package kernels runs with, "" where all of a
// graph is the library's.
func (e *Env) Kernels() string {
	if !e.own {
		return ""
	}
	return kernels.Instructions()
}

// Version is the library's, such as "1.24.4".
func (e *Env) Version() string { return ortgo.GetVersion() }

// Library is the path of the library in use.
func (e *Env) Library() string { return e.library }

// Threads is how many threads all runs in progress use together.
func (e *Env) Threads() int { return e.cfg.Threads }

// Close closes the sessions that are still open, waiting for their runs.
func (e *Env) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	left := make([]*Session, 0, len(e.sessions))
	for s := range e.sessions {
		left = append(left, s)
	}
	e.mu.Unlock()
	var errs []error
	for _, s := range left {
		errs = append(errs, s.Close())
	}
	kernels.StopTeam()
	process.Lock()
	process.open = false
	process.Unlock()
	return errors.Join(errs...)
}

// acquire waits for n CPUs. Waiting runs are served in order: one that needs
// many is not passed by those that need few.
func (e *Env) acquire(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case e.gate <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-e.gate }()
	for i := range n {
		select {
		case e.cpus <- struct{}{}:
		case <-ctx.Done():
			e.release(i)
			return ctx.Err()
		}
	}
	return nil
}

func (e *Env) release(n int) {
	for range n {
		<-e.cpus
	}
}

// Lend grants up to n threads of the budget to work outside the runs, as a
// decoder's: together no more than Threads, but at least one to each, without
// which it could not go on. The runs do not wait for them: decoders wait most of
// the time. back returns what was granted.
func (e *Env) Lend(n int) (granted int, back func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	granted = max(1, min(n, e.cfg.Threads-e.lent))
	e.lent += granted
	return granted, sync.OnceFunc(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.lent -= granted
	})
}

// defaultLibrary is set when the program is linked.
var defaultLibrary string

// findLibrary gives the first library that exists. A place that the user named
// must hold it: falling through to another version would hide the mistake.
func findLibrary(named string) (string, error) {
	for _, n := range []struct{ from, path string }{{"the configuration", named}, {"LOOKOUT_ONNXRUNTIME", os.Getenv("LOOKOUT_ONNXRUNTIME")}} {
		if n.path == "" {
			continue
		}
		if fi, err := os.Stat(n.path); err != nil {
			return "", fmt.Errorf("ort: the library named by %s: %w: run `make deps`", n.from, err)
		} else if fi.IsDir() {
			return "", fmt.Errorf("ort: %s, named by %s, is a folder: name the file libonnxruntime.so in it", n.path, n.from)
		}
		return n.path, nil
	}
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		dirs = []string{filepath.Join(filepath.Dir(exe), "..", "lib"), filepath.Dir(exe)}
	}
	for _, d := range dirs {
		// libonnxruntime.so first, then the newest versioned name.
		found, _ := filepath.Glob(filepath.Join(d, "libonnxruntime.so*"))
		slices.Sort(found)
		if len(found) == 0 {
			continue
		}
		if filepath.Base(found[0]) == "libonnxruntime.so" {
			return found[0], nil
		}
		return found[len(found)-1], nil
	}
	if defaultLibrary != "" {
		if _, err := os.Stat(defaultLibrary); err == nil {
			return defaultLibrary, nil
		}
		dirs = append(dirs, defaultLibrary)
	}
	return "", fmt.Errorf("ort: no ONNX Runtime library (looked in $LOOKOUT_ONNXRUNTIME and %v): run `make deps`", dirs)
}
