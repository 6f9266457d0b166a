//go:build !race

package ort

import (
	"context"
	"testing"
)

// Whether it may be stopped or not, a run allocates nothing.
func TestARunAllocatesNothing(t *testing.T) {
	e := open(t, Config{})
	b := slow(t, e, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, run := range map[string]func() error{
		"stoppable":      func() error { return b.Run(ctx) },
		"without an end": func() error { return b.Run(context.Background()) },
		"never stopped":  func() error { return b.Step(ctx) },
	} {
		if got := testing.AllocsPerRun(20, func() {
			if err := run(); err != nil {
				t.Fatal(err)
			}
		}); got != 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}
