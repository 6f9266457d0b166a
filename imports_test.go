// Package lookout holds the rules of the whole module. It has no code.
package lookout

import (
	"go/build"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/lookout-video/lookout/"

// stages, leaves and outputs are the module's layers (ARCHITECTURE.md).
var (
	stages   = []string{"ingest", "encoder", "temporal", "llm"}
	leaves   = []string{"media", "tensor", "event"}
	onlyHere = map[string]string{"github.com/asticode/go-astiav": "ingest", "github.com/yalue/onnxruntime_go": "internal/ort"}
)

func top(pkg string) string { t, _, _ := strings.Cut(pkg, "/"); return t }

func in(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// forbidden tells why package from may not import to, or "".
func forbidden(from, to string) string {
	if owner, ok := onlyHere[to]; ok && from != owner {
		return "only " + owner + " imports " + to
	}
	if !strings.HasPrefix(to, module) {
		return ""
	}
	to = strings.TrimPrefix(to, module)
	if to == "llm/tokenizer" { // a leaf in all but its place: the text tower reads words as the decoder does
		return ""
	}
	f, t := top(from), top(to)
	switch {
	case f == t || f == "cmd":
		return ""
	case in(leaves, f) && !in(leaves, t):
		return "a leaf knows no stage"
	case f != "cmd" && t == "cmd":
		return "nothing imports cmd"
	case in(stages, f) && (in(stages, t) || t == "pipeline" || t == "output"):
		return "a stage knows the types it takes and gives, never another stage"
	case f == "output" && (in(stages, t) || t == "pipeline"):
		return "outputs know events, not stages"
	}
	return ""
}

func TestImportsGoOneWay(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if base := d.Name(); path != "." && (strings.HasPrefix(base, ".") || base == "testdata") {
			return fs.SkipDir
		}
		pkg, err := build.ImportDir(path, 0)
		if err != nil {
			return nil // no Go here
		}
		seen++
		for _, to := range pkg.Imports {
			if why := forbidden(filepath.ToSlash(path), to); why != "" {
				t.Errorf("%s imports %s: %s", path, to, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 5 {
		t.Fatalf("looked at %d packages only", seen)
	}
}

func TestForbiddenImportsAreSeen(t *testing.T) {
	for _, c := range []struct {
		from, to string
		bad      bool
	}{
		{"ingest", module + "media", false},
		{"pipeline", module + "ingest", false},
		{"cmd/lookout", module + "pipeline", false},
		{"encoder", module + "ingest", true},
		{"media", module + "event", false},
		{"media", module + "llm", true},
		{"output/redis", module + "event", false},
		{"output/web", module + "pipeline", true},
		{"temporal", module + "output/web", true},
		{"encoder", module + "llm", true},
		{"encoder", module + "llm/tokenizer", false},
		{"pipeline", module + "cmd/lookout", true},
		{"pipeline", "github.com/asticode/go-astiav", true},
		{"ingest", "github.com/asticode/go-astiav", false},
		{"encoder", "github.com/yalue/onnxruntime_go", true},
	} {
		if got := forbidden(c.from, c.to); (got != "") != c.bad {
			t.Errorf("%s -> %s: %q", c.from, c.to, got)
		}
	}
}
