// Package model opens bundles: a manifest, graphs and a tokenizer that belong
// together, checked to be whole before anything runs them. It holds the
// embedded default.
package model

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Errors that callers decide on.
var (
	// ErrNoDefault is returned by Default when the program was built without
	// the embedded bundle.
	ErrNoDefault = errors.New("model: this program was built without its model: name a bundle's folder, or rebuild with model/default in place")
	// ErrNoManifest is returned by Open for a folder that is no bundle.
	ErrNoManifest = errors.New("no manifest.json")
	// ErrBroken is returned by Open when a file is missing or is not the one
	// that the manifest lists.
	ErrBroken = errors.New("the bundle is not whole")
)

const fix = "copy the bundle's folder again, or fetch it with `lookout models pull`"

//go:embed all:default
var embedded embed.FS

// Bundle is an opened model. It holds no file open.
type Bundle struct {
	Name, Version string
	// Hash identifies the bundle: "sha256:" and the first 16 hex digits of the
	// manifest's sum, which covers the sums of all files.
	Hash string
	// Dir is the folder, or empty for the embedded bundle.
	Dir      string
	Manifest Manifest

	fsys fs.FS
}

// Default is the bundle within the program. The sums of its files are checked
// when the program is tested, not at each start.
func Default() (*Bundle, error) {
	sub, err := fs.Sub(embedded, "default")
	if err != nil {
		return nil, err
	}
	b, err := read(sub, "the embedded model", "")
	if errors.Is(err, ErrNoManifest) {
		return nil, ErrNoDefault
	}
	return b, err
}

// Open reads the bundle in dir and checks the size and sha256 of each file.
func Open(dir string) (*Bundle, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("model: open bundle: %w", err)
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("model: %s is a file: name the folder that holds manifest.json", dir)
	}
	b, err := read(os.DirFS(dir), dir, dir)
	if err != nil {
		return nil, err
	}
	return b, b.Verify()
}

func read(fsys fs.FS, where, dir string) (*Bundle, error) {
	data, err := fs.ReadFile(fsys, "manifest.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("model: %s: %w: a bundle's folder holds manifest.json and the files it lists", where, ErrNoManifest)
	}
	if err != nil {
		return nil, fmt.Errorf("model: %s: %w", where, err)
	}
	m, err := ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("model: %s: manifest.json: %w", where, err)
	}
	b := &Bundle{Name: m.Name, Version: m.Version, Dir: dir, Manifest: m, fsys: fsys}
	sum := sha256.Sum256(data)
	b.Hash = "sha256:" + hex.EncodeToString(sum[:8])
	for name, f := range m.Files {
		fi, err := fs.Stat(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("model: %s: %w: %s is missing: %s", where, ErrBroken, name, fix)
		}
		if fi.Size() != f.Size {
			return nil, fmt.Errorf("model: %s: %w: %s has %d bytes, the manifest says %d: %s", where, ErrBroken, name, fi.Size(), f.Size, fix)
		}
	}
	return b, nil
}

// Verify reads every file and compares its sha256 with the manifest's.
func (b *Bundle) Verify() error {
	for name, f := range b.Manifest.Files {
		if err := b.verify(name, f.SHA256); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bundle) verify(name, want string) error {
	r, err := b.fsys.Open(name)
	if err != nil {
		return fmt.Errorf("model: %s: %w", b.Name, err)
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return fmt.Errorf("model: %s: read %s: %w", b.Name, name, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("model: %s: %w: the sha256 of %s is %s, the manifest says %s: %s", b.Name, ErrBroken, name, got, want, fix)
	}
	return nil
}

// Read gives the whole of one file.
func (b *Bundle) Read(name string) ([]byte, error) {
	data, err := fs.ReadFile(b.fsys, name)
	if err != nil {
		return nil, fmt.Errorf("model: %s: %w", b.Name, err)
	}
	return data, nil
}

// Path is where a file lies on disk, or empty for the embedded bundle.
func (b *Bundle) Path(name string) string {
	if b.Dir == "" {
		return ""
	}
	return filepath.Join(b.Dir, name)
}
