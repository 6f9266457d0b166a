//go:build !race

package ort

import (
	"context"
	"testing"
)

// A run that may be stopped costs a few small allocations, and the binding library
// one for each input and output; one that may not costs none, nor does one that is
// known to be over soon.
func TestWhatARunAllocates(t *testing.T) {
	e := open(t, Config{})
	b := slow(t, e, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, c := range map[string]struct {
		run  func() error
		most float64
	}{
		"stoppable":      {func() error { b.quick = false; return b.Run(ctx) }, 12},
		"over soon":      {func() error { return b.Run(ctx) }, 0},
		"without an end": {func() error { return b.Run(context.Background()) }, 0},
		"never stopped":  {func() error { return b.Step(ctx) }, 0},
	} {
		if got := testing.AllocsPerRun(20, func() {
			if err := c.run(); err != nil {
				t.Fatal(err)
			}
		}); got > c.most {
			t.Errorf("%s: %v allocations, want %v at most", name, got, c.most)
		} else {
			t.Logf("%s: %v", name, got)
		}
	}
	bind(t, b, "turns", []int64{2}, 1)
	if err := b.complete(); err != nil || b.quick {
		t.Error("of what is bound anew it is not known how long it takes", err)
	}
}
