package temporal

import (
	"math"
	"slices"
)

// keepCosine is the cosine to the kept token under which a place is new.
const keepCosine = 0.9

// novelty tells how much of a frame is new. Each patch place holds the last
// token that was kept for it. A frame's score is 1 minus the mean cosine
// between its tokens and the kept ones, over the sixteenth of the places that
// differ most: something small that moves counts as much as something large.
// Places whose cosine is below keepCosine then keep the new token. Comparing
// with what was kept, not with the previous frame, a slow drift adds up until
// it shows.
type novelty struct {
	patches, dim int
	kept         []float32 // [P, D], unit length
	cos          []float32 // of the places, sorted while scoring
	some         bool
}

func newNovelty(patches, dim int) novelty {
	return novelty{patches: patches, dim: dim, kept: make([]float32, patches*dim), cos: make([]float32, patches)}
}

// step scores a frame's tokens, [P, D], and keeps what is new.
func (n *novelty) step(tokens []float32) (score float32, kept int) {
	for p := range n.patches {
		t, k := tokens[p*n.dim:(p+1)*n.dim], n.kept[p*n.dim:(p+1)*n.dim]
		var tt, tk float32
		for i, x := range t {
			tt += x * x
			tk += x * k[i]
		}
		length := float32(math.Sqrt(float64(tt)))
		if length == 0 {
			length = 1
		}
		c := tk / length
		n.cos[p] = c
		if !n.some || c < keepCosine {
			kept++
			for i, x := range t {
				k[i] = x / length
			}
		}
	}
	if !n.some {
		n.some = true
		return 1, kept
	}
	slices.Sort(n.cos)
	most := max(1, n.patches/16)
	var sum float32
	for _, c := range n.cos[:most] {
		sum += c
	}
	return max(0, 1-sum/float32(most)), kept
}

func (n *novelty) reset() { n.some = false }
