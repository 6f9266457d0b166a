// Package testmodel gives tests the model to run on. It is imported by tests
// only.
package testmodel

import (
	"errors"
	"os"
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

// Env is an ONNX Runtime on the CPU, closed when the test ends.
func Env(t testing.TB) *ort.Env {
	t.Helper()
	e, err := ort.Open(ort.Config{Device: "cpu"})
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
