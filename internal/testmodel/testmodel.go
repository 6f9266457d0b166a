// Package testmodel gives tests the model to run on. It is imported by tests
// only.
package testmodel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/model"
)

// Bundle is the bundle in $LOOKOUT_TEST_BUNDLE, else the embedded one. A test
// fails where there is neither.
func Bundle(t testing.TB) *model.Bundle {
	t.Helper()
	if dir := os.Getenv("LOOKOUT_TEST_BUNDLE"); dir != "" {
		b, err := model.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b, err := model.Default()
	if errors.Is(err, model.ErrNoDefault) {
		t.Fatal("no bundle to test with: model/default is empty and LOOKOUT_TEST_BUNDLE names none")
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Env is an ONNX Runtime on the CPU, closed when the test ends. As users have it
// it prepares graphs: on a CPU without VNNI the library's own products in 8 bits
// cut off large sums.
func Env(t testing.TB) *ort.Env {
	t.Helper()
	e, err := ort.Open(ort.Config{Device: "cpu", CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// ResidentKB is the memory that this process holds now, C's included.
func ResidentKB(t testing.TB) int {
	t.Helper()
	runtime.GC()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("needs /proc")
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize() / 1024
}

// Flat fails the test when calling f again and again makes the process grow:
// it compares after a fifth of the calls and after all.
func Flat(t testing.TB, calls, mayGrowKB int, f func()) {
	t.Helper()
	for range calls / 5 {
		f()
	}
	before := ResidentKB(t)
	for range calls - calls/5 {
		f()
	}
	if grown := ResidentKB(t) - before; grown > mayGrowKB {
		t.Errorf("the process grew by %d KB over %d calls", grown, calls-calls/5)
	}
}
