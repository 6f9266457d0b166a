package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Layout names a way to lay a model out in a folder.
type Layout string

// Lookout is the project's own layout (ARCHITECTURE.md).
const Lookout Layout = "lookout"

// Detect tells the layout of a folder from its files.
func Detect(dir string) (Layout, error) {
	data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err == nil {
		var m struct{ Layout Layout }
		if err := json.Unmarshal(data, &m); err != nil {
			return "", fmt.Errorf("model: %s: manifest.json: %w", dir, err)
		}
		if m.Layout == Lookout {
			return Lookout, nil
		}
	}
	l, err := detectPublic(dir)
	if errors.Is(err, fs.ErrNotExist) && !hasConfig(dir) {
		return "", fmt.Errorf("model: %s: no layout that is known: %s needs manifest.json with \"layout\":%q, public models their config.json", dir, Lookout, Lookout)
	}
	return l, err
}

func hasConfig(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "config.json"))
	return err == nil
}
