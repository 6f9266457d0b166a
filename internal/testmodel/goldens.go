package testmodel

import (
	_ "embed"
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/tensor"
)

//go:embed testdata/goldens.json
var goldens []byte

// Goldens are what train/vlm/goldens.py computed from the same graphs in
// another way.
type Goldens struct {
	Bundle  string
	Patches []int // the patches that are told of
	Encoder []struct {
		Tokens, Patch [][]float32
		Image         []float32
		Distance      float32
	}
	Text []struct {
		Text  string
		Embed []float32
	}
	Temporal []struct {
		Tick   int
		Visual [][]float32 // the first and the last visual token
		State  []float32   // of the second of Patches
	}
	Question string
	Logits   [][]float32 // of the answer's first token, after each frame
}

// Golden gives the goldens of b.
func Golden(t testing.TB, b *model.Bundle) *Goldens {
	t.Helper()
	var g Goldens
	if err := json.Unmarshal(goldens, &g); err != nil {
		t.Fatal(err)
	}
	if g.Bundle != b.Hash {
		const why = "the goldens are of bundle %s, this is %s: run `cd train && python -m vlm.goldens ../model/default`"
		if os.Getenv("LOOKOUT_TEST_BUNDLE") != "" {
			t.Skipf(why, g.Bundle, b.Hash)
		}
		t.Fatalf(why, g.Bundle, b.Hash)
	}
	return &g
}

// Picture is a frame of stripes and a block; each n gives another.
func Picture(n, w, h int) *media.Frame {
	f := &media.Frame{}
	f.Reset(w, h)
	bx := (n * 23) % (w - 40)
	for y := range h {
		for x := range w {
			for c := range 3 {
				v := (x*(c+1) + y*3 + n*37) % 200
				if x >= bx && x < bx+40 && y > 60 && y < 100 {
					v = 255 - 60*c
				}
				f.Pix[(y*w+x)*3+c] = uint8(v)
			}
		}
	}
	return f
}

// Visual is a frame of visual tokens; each n gives another.
func Visual(n, tokens, width int) tensor.View[float32] {
	v := tensor.Make[float32](tokens, width)
	for i := range v.Data {
		v.Data[i] = float32(math.Sin(0.37*float64(i) + 1.3*float64(n)))
	}
	return v
}

// Near reports whether got is want, but for 3.5 % of want's length: what is
// rounded the other way, among 8 bits, goes through all layers.
func Near(t testing.TB, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	var length, off float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		length, off = length+float64(want[i])*float64(want[i]), off+d*d
	}
	if off, length = math.Sqrt(off), math.Sqrt(length); !(off <= 0.035*length) {
		t.Errorf("%s: off by %g, of a length of %g", what, off, length)
	}
}
