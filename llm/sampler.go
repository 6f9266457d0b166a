package llm

import (
	"math"
	"math/rand/v2"
	"slices"
)

// sampler picks the next token. It allocates only when it first sees a
// vocabulary.
type sampler struct {
	rng   rand.PCG
	prob  []float32
	order []int32
}

// pick gives the likeliest token when temperature is 0. Else it draws one from
// the smallest set of tokens whose probabilities add up to topP.
func (s *sampler) pick(logits []float32, temperature, topP float64) (int, error) {
	best := 0
	for i, x := range logits {
		if x != x || x > math.MaxFloat32 {
			return 0, ErrNaN
		}
		if x > logits[best] {
			best = i
		}
	}
	if logits[best] < -math.MaxFloat32 {
		return 0, ErrNaN
	}
	if temperature <= 0 {
		return best, nil
	}
	if len(s.prob) != len(logits) {
		s.prob, s.order = make([]float32, len(logits)), make([]int32, 0, len(logits))
	}
	s.order = s.order[:0]
	sum := 0.0
	for i, x := range logits {
		p := math.Exp(float64(x-logits[best]) / temperature)
		s.prob[i] = float32(p)
		sum += p
		if p > 1e-7 { // together less than anyone will notice
			s.order = append(s.order, int32(i))
		}
	}
	prob := s.prob
	slices.SortFunc(s.order, func(a, b int32) int {
		switch pa, pb := prob[a], prob[b]; {
		case pa > pb:
			return -1
		case pa < pb:
			return 1
		}
		return int(a - b)
	})
	if topP <= 0 || topP > 1 {
		topP = 1
	}
	within, n := 0.0, 0
	for n < len(s.order) && (n == 0 || within < topP*sum) {
		within += float64(prob[s.order[n]])
		n++
	}
	draw := float64(s.rng.Uint64()>>11) / (1 << 53) * within
	for _, id := range s.order[:n] {
		if draw -= float64(prob[id]); draw < 0 {
			return int(id), nil
		}
	}
	return int(s.order[0]), nil
}

// repeats reports whether an answer has begun to go round in circles: its end
// is one piece of up to sixteen tokens at least three times, eight tokens or more.
func repeats(spoken []int) bool {
	for k := 1; k <= 16; k++ {
		times := max(3, (7+k)/k)
		if k*times > len(spoken) {
			continue
		}
		tail := spoken[len(spoken)-k*times:]
		if slices.Equal(tail[k:], tail[:len(tail)-k]) {
			return true
		}
	}
	return false
}
