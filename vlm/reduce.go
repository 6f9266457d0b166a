package vlm

import (
	"math"

	"github.com/lookout-video/lookout/tensor"
)

// reducer merges visual tokens that are alike, so that the language model reads
// fewer. It needs no training. The newest frame is read whole: what is there now
// is told from it. A token of the frame before whose cosine to the next frame's at
// the same place is above the threshold becomes one with that, which stands for
// both, and for those that it stood for: the oldest of them is what is held against the
// next, or a slow change would be left out step by step. So older frames tell what has
// changed since. What is left keeps its place (see Session.places), and no more frames
// are shown than without.
type reducer struct {
	above float32
	done  Reduction
	spare [][]int // rows of frames that are no longer shown
}

// thin leaves out of the last of frames what next repeats.
func (r *reducer) thin(frames []frame, next tensor.View[float32]) {
	f := &frames[len(frames)-1]
	if r.above <= 0 || !next.Shape.Equal(f.tokens.Shape) {
		return
	}
	var rows []int
	if n := len(r.spare); n > 0 {
		rows, r.spare = r.spare[n-1], r.spare[:n-1]
	} else {
		rows = make([]int, 0, len(f.rows))
	}
	newest, lowest := 0, float32(math.Inf(1)) // a frame is never left out whole
	for _, row := range f.rows {
		c := cosine(oldest(frames, row), next.At(row).Data)
		if c < lowest {
			newest, lowest = row, c
		}
		if c <= r.above {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		rows = append(rows, newest)
	}
	r.done.Merged += uint64(len(f.rows) - len(rows))
	r.done.Kept += uint64(len(rows))
	f.rows, f.thinned = rows, true
}

// oldest is the first of the tokens of a row that the last frame's stands for.
func oldest(frames []frame, row int) []float32 {
	i := len(frames) - 1
	for i > 0 && frames[i-1].tokens.Shape.Equal(frames[i].tokens.Shape) && !frames[i-1].has(row) {
		i--
	}
	return frames[i].tokens.At(row).Data
}

// reclaim takes back what thin gave a frame that is no longer shown.
func (r *reducer) reclaim(f frame) {
	if f.thinned {
		r.spare = append(r.spare, f.rows[:0])
	}
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
	Kept   uint64 // of frames before the newest
	Merged uint64 // left out of those: the next frame's stand for them
}

// Reduce sets the cosine above which tokens are merged from the next frame on,
// instead of Options.Reduce. 0 and 1 merge none.
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
