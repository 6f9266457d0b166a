package encoder

import (
	"fmt"

	"github.com/lookout-video/lookout/tensor"
)

// Region is where in a picture words fit best.
type Region struct {
	// Score is the cosine of the best patch, -1 to 1.
	Score float64
	// Box is x0, y0, x1, y1 as parts of width and height: 0 to 1.
	Box [4]float32
}

// Heat compares each patch with a text and gives the cosines, row after row of
// the grid, in dst if it has the room. patches is [P, embed].
func (e *Encoder) Heat(patches tensor.View[float32], text []float32, dst []float32) ([]float32, error) {
	if !patches.Shape.Equal(tensor.Shape{e.patches, e.embed}) || len(text) != e.embed {
		return nil, fmt.Errorf("encoder: locate: patches %v and a text of %d, want [%dx%d] and %d", patches.Shape, len(text), e.patches, e.embed, e.embed)
	}
	dst = dst[:0]
	for i := range e.patches {
		dst = append(dst, float32(dot(patches.At(i).Data, text)))
	}
	return dst, nil
}

// Locate tells where in a picture a text fits: the patches that stand out from
// the picture's mean at least half as much as the best one does, as far as
// they touch it. patches is [P, embed], both of unit length.
func (e *Encoder) Locate(patches tensor.View[float32], text []float32) (Region, error) {
	heat, err := e.Heat(patches, text, make([]float32, 0, e.patches))
	if err != nil {
		return Region{}, err
	}
	return region(heat, e.gridW, e.gridH), nil
}

func region(heat []float32, w, h int) Region {
	best, mean := 0, float32(0)
	for i, x := range heat {
		mean += x / float32(len(heat))
		if x > heat[best] {
			best = i
		}
	}
	floor := mean + (heat[best]-mean)/2
	x0, y0, x1, y1 := w, h, 0, 0
	seen := make([]bool, len(heat))
	todo := []int{best}
	seen[best] = true
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		x, y := i%w, i/w
		x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x+1), max(y1, y+1)
		for _, d := range [4][2]int{{1, 0}, {-1, 0}, {0, 1}, {0, -1}} {
			nx, ny := x+d[0], y+d[1]
			if nx < 0 || ny < 0 || nx >= w || ny >= h {
				continue
			}
			if k := ny*w + nx; !seen[k] && heat[k] >= floor {
				seen[k] = true
				todo = append(todo, k)
			}
		}
	}
	fw, fh := float32(w), float32(h)
	return Region{Score: float64(heat[best]), Box: [4]float32{float32(x0) / fw, float32(y0) / fh, float32(x1) / fw, float32(y1) / fh}}
}
