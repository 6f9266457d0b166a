package testmodel

import (
	"os"
	"path/filepath"
	"testing"
)

// SmolLM2 is the folder that `make smollm2` writes, or LOOKOUT_SMOLLM2. The test
// is skipped where there are no real weights.
func SmolLM2(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("LOOKOUT_SMOLLM2")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "lookout", "models", "local--smollm2-135m")
	}
	if _, err := os.Stat(filepath.Join(dir, "golden.json")); err != nil {
		t.Skipf("NOT TESTED: no real language weights in %s; `make smollm2` makes them", dir)
	}
	return dir
}
