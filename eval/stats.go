package eval

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
)

const (
	z95       = 1.959964
	resamples = 1000
	bins      = 15 // of the calibration error
)

// Score is one figure with its 95 % interval.
type Score struct {
	Value     float64 // NaN when N is 0
	N         int     // what was counted
	Low, High float64
}

// tally counts right among all, clip by clip.
type tally struct{ right, all map[int]int }

func (t *tally) add(clip int, right bool) {
	if t.all == nil {
		t.right, t.all = map[int]int{}, map[int]int{}
	}
	t.all[clip]++
	if right {
		t.right[clip]++
	}
}

// sum gives right and all over the clips.
func (t *tally) sum() (right, all int) {
	for c, n := range t.all {
		all += n
		right += t.right[c]
	}
	return right, all
}

// proportion is right/all with the Wilson interval. What happens in one clip
// hangs together, so n is divided by the design effect of the clips; when all
// are right or all wrong that effect can't be seen, and the clips are counted.
func (t *tally) proportion() Score {
	right, all := t.sum()
	if all == 0 {
		return Score{Value: math.NaN(), Low: math.NaN(), High: math.NaN()}
	}
	p, n := float64(right)/float64(all), float64(all)
	k := float64(len(t.all))
	eff := k
	if p > 0 && p < 1 {
		eff = n
		if k > 1 {
			v := 0.0
			for _, c := range sortedKeys(t.all) {
				d := float64(t.right[c]) - p*float64(t.all[c])
				v += d * d
			}
			v /= n * n
			eff = n / max(1, v/(p*(1-p)/n))
		}
	}
	z2 := z95 * z95
	mid := (p + z2/(2*eff)) / (1 + z2/eff)
	half := z95 / (1 + z2/eff) * math.Sqrt(p*(1-p)/eff+z2/(4*eff*eff))
	return Score{Value: p, N: all, Low: min(p, max(0, mid-half)), High: max(p, min(1, mid+half))}
}

func sortedKeys(m map[int]int) []int {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Ints(keys)
	return keys
}

// yesItem is one yes/no question: the probability of yes, and the truth.
type yesItem struct {
	clip int
	p    float64
	yes  bool
}

// bootstrap gives f's value and percentile interval over resampled clips. f gets
// how often each clip counts; NaN results (a resample without a yes) are left out.
func bootstrap(clips []int, n int, f func(weight map[int]int) float64) Score {
	weight := map[int]int{}
	for _, c := range clips {
		weight[c] = 1
	}
	s := Score{Value: f(weight), N: n, Low: math.NaN(), High: math.NaN()}
	if n == 0 || math.IsNaN(s.Value) {
		return s
	}
	r := rand.New(rand.NewPCG(4, 95))
	var got []float64
	for range resamples {
		clear(weight)
		for range clips {
			weight[clips[r.IntN(len(clips))]]++
		}
		if v := f(weight); !math.IsNaN(v) {
			got = append(got, v)
		}
	}
	if len(got) > 0 {
		sort.Float64s(got)
		s.Low = min(s.Value, got[int(0.025*float64(len(got)-1))])
		s.High = max(s.Value, got[int(math.Ceil(0.975*float64(len(got)-1)))])
	}
	return s
}

// auroc is the chance that a question whose answer is yes gets the higher
// probability of two, ties counting half. items are sorted by p.
func auroc(items []yesItem, weight map[int]int) float64 {
	var below, pos, wins float64
	for i := 0; i < len(items); {
		var y, n float64
		j := i
		for ; j < len(items) && items[j].p == items[i].p; j++ {
			w := float64(weight[items[j].clip])
			if items[j].yes {
				y += w
			} else {
				n += w
			}
		}
		wins += y * (below + n/2)
		pos += y
		below += n
		i = j
	}
	if pos == 0 || below == 0 {
		return math.NaN()
	}
	return wins / (pos * below)
}

// ece is the expected calibration error of the probability of yes.
func ece(items []yesItem, weight map[int]int) float64 {
	var p, y, n [bins]float64
	total := 0.0
	for _, it := range items {
		b, w := min(int(it.p*bins), bins-1), float64(weight[it.clip])
		p[b] += w * it.p
		n[b] += w
		total += w
		if it.yes {
			y[b] += w
		}
	}
	if total == 0 {
		return math.NaN()
	}
	e := 0.0
	for b := range n {
		e += math.Abs(p[b] - y[b])
	}
	return e / total
}

// yesScores are AUROC and ECE with intervals over clips.
func yesScores(items []yesItem) (a, e Score) {
	items = slices.Clone(items)
	sort.SliceStable(items, func(i, j int) bool { return items[i].p < items[j].p })
	seen := map[int]int{}
	for _, it := range items {
		seen[it.clip]++
	}
	clips := sortedKeys(seen)
	return bootstrap(clips, len(items), func(w map[int]int) float64 { return auroc(items, w) }),
		bootstrap(clips, len(items), func(w map[int]int) float64 { return ece(items, w) })
}

// timing is what one clip cost.
type timing struct {
	frames  int
	seconds float64
	says    []float64 // milliseconds of each description
}

// speedScores are frames a second and the median of a description.
func speedScores(t map[int]timing) (fps, ms Score) {
	keys := map[int]int{}
	frames, said := 0, 0
	for c, x := range t {
		keys[c] = 1
		frames += x.frames
		said += len(x.says)
	}
	clips := sortedKeys(keys)
	fps = bootstrap(clips, frames, func(w map[int]int) float64 {
		var n, s float64
		for c, k := range w {
			n += float64(k * t[c].frames)
			s += float64(k) * t[c].seconds
		}
		if s == 0 {
			return math.NaN()
		}
		return n / s
	})
	ms = bootstrap(clips, said, func(w map[int]int) float64 {
		var all []float64
		for c, k := range w {
			for range k {
				all = append(all, t[c].says...)
			}
		}
		if len(all) == 0 {
			return math.NaN()
		}
		sort.Float64s(all)
		return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	})
	return fps, ms
}
