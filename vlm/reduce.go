package vlm

import (
	"math"

	"github.com/lookout-video/lookout/tensor"
)

// reducer leaves out visual tokens that tell nothing new, so that the language
// model reads fewer. It needs no training: a token whose cosine to the one that
// stands for its place in the window is above the threshold is not read again,
// and of those that are left, neighbours in the order of reading that are as
// alike become one, their mean (bipartite matching, as in token merging for
// vision transformers).
type reducer struct {
	above  float32
	places []place
	done   Reduction
}

// place is where a token is in the picture, and what stands for it.
type place struct {
	token []float32
	frame int64 // that was read with it
}

// take gives what is to be read of the tokens of the frame called name. Frames
// before oldest have left the window: what they stood for is read anew.
func (r *reducer) take(tokens tensor.View[float32], oldest, name int64) tensor.View[float32] {
	n, width := tokens.Shape[0], tokens.Shape[1]
	if len(r.places) != n {
		r.places = make([]place, n)
	}
	var keep [][]float32
	newest, lowest := 0, float32(math.Inf(1)) // a frame is never left out whole
	for i := range n {
		p, t := &r.places[i], tokens.At(i).Data
		if p.token != nil && p.frame >= oldest {
			c := cosine(t, p.token)
			if c < lowest {
				newest, lowest = i, c
			}
			if c > r.above {
				continue
			}
		}
		*p = place{t, name}
		keep = append(keep, t)
	}
	if len(keep) == 0 {
		t := tokens.At(newest).Data
		r.places[newest] = place{t, name}
		keep = append(keep, t)
	}
	r.done.Reused += uint64(n - len(keep))
	r.done.Merged += uint64(len(keep))
	keep = r.merge(keep)
	r.done.Merged -= uint64(len(keep))
	r.done.Read += uint64(len(keep))
	out := tensor.Make[float32](len(keep), width)
	for i, t := range keep {
		copy(out.At(i).Data, t)
	}
	return out
}

// merge joins every other token with the one most like it among the rest.
func (r *reducer) merge(keep [][]float32) [][]float32 {
	joined := make([][]float32, len(keep)) // sums of what goes into a token
	weight := make([]float32, len(keep))
	var out [][]float32
	for i := 0; i < len(keep); i += 2 {
		best, like := -1, r.above
		for k := 1; k < len(keep); k += 2 {
			if c := cosine(keep[i], keep[k]); c > like {
				best, like = k, c
			}
		}
		if best < 0 {
			continue
		}
		if joined[best] == nil {
			joined[best], weight[best] = append([]float32(nil), keep[best]...), 1
		}
		for k, x := range keep[i] {
			joined[best][k] += x
		}
		weight[best]++
		weight[i] = -1 // gone
	}
	for i, t := range keep {
		switch {
		case weight[i] < 0:
			continue
		case weight[i] > 0:
			t = joined[i]
			for k := range t {
				t[k] /= weight[i]
			}
		}
		out = append(out, t)
	}
	return out
}

func cosine(a, b []float32) float32 {
	var ab, aa, bb float32
	for i, x := range a {
		ab += x * b[i]
		aa += x * x
		bb += b[i] * b[i]
	}
	if aa == 0 || bb == 0 {
		return 0
	}
	return ab / float32(math.Sqrt(float64(aa)*float64(bb)))
}

// Reduction counts a Session's visual tokens while it leaves some out.
type Reduction struct {
	Read   uint64 // by the language model
	Reused uint64 // left out: one as alike stands for the place already
	Merged uint64 // left out: joined with another of its frame
}

// Reduce sets the cosine above which tokens are left out from the next frame
// on, instead of Options.Reduce. 0 and 1 leave out none.
func (s *Session) Reduce(above float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reducer.above = float32(above)
	if above >= 1 {
		s.reducer.above = 0 // a token's cosine to itself may be rounded to more
	}
}

// Reduced tells what became of the visual tokens so far.
func (s *Session) Reduced() Reduction {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reducer.done
}
