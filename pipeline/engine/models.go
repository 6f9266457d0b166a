package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/model/hub"
)

// ErrNoModel is returned for a model that is neither a folder nor pulled.
var ErrNoModel = errors.New("no such model here; `lookout models list` names those that are known, `lookout models pull NAME` gets one")

// ModelsDir is where pulled models lie.
func ModelsDir() (string, error) {
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("a folder for models: %w; set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(d, "lookout", "models"), nil
}

// ModelPath finds a model's folder: a path, or the name or repository of one
// that was pulled.
func ModelPath(name string) (string, error) {
	if st, err := os.Stat(name); err == nil && st.IsDir() {
		return name, nil
	}
	dir, err := ModelsDir()
	if err != nil {
		return "", err
	}
	if ref, err := hub.ParseRef(name); err == nil {
		path := hub.Path(dir, ref)
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, ErrNoModel)
}

// OnGPU tells whether models would run on a GPU here. Where the engine cannot
// start they would not.
func OnGPU(c configs.Config) bool {
	env, err := ort.Open(ort.Config{Device: c.Device, Threads: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return false
	}
	defer env.Close()
	return strings.HasPrefix(env.Device(), "cuda")
}
