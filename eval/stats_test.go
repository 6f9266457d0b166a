package eval

import (
	"math"
	"math/rand/v2"
	"testing"
)

func near(a, b, by float64) bool { return math.Abs(a-b) <= by }

func TestWilson(t *testing.T) {
	// One item a clip: no design effect. 8 of 10 by Wilson: 0.4902 to 0.9433.
	var one tally
	for i := range 10 {
		one.add(i, i < 8)
	}
	if s := one.proportion(); !near(s.Value, 0.8, 1e-9) || !near(s.Low, 0.4902, 1e-4) || !near(s.High, 0.9433, 1e-4) || s.N != 10 {
		t.Errorf("8 of 10: %+v", s)
	}
	// All right: 10 clips, 0.7225 to 1, however many items they hold.
	var all tally
	for i := range 100 {
		all.add(i%10, true)
	}
	if s := all.proportion(); s.Value != 1 || s.High != 1 || !near(s.Low, 0.7225, 1e-4) || s.N != 100 {
		t.Errorf("100 of 100 in 10 clips: %+v", s)
	}
	// Whole clips right or wrong: as uncertain as the 10 clips, not the 100 items.
	var lumps tally
	for i := range 100 {
		lumps.add(i%10, i%10 < 8)
	}
	if s := lumps.proportion(); s.High-s.Low < 0.42 {
		t.Errorf("clips that are right as a whole: %+v is too narrow", s)
	}
	if s := (&tally{}).proportion(); s.N != 0 || !math.IsNaN(s.Value) {
		t.Errorf("nothing counted: %+v", s)
	}
}

// The one-pass AUROC equals the definition over all pairs.
func TestAUROC(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var items []yesItem
	for i := range 300 {
		y := r.IntN(3) == 0
		p := math.Round(100*math.Min(1, r.Float64()+map[bool]float64{true: 0.2}[y])) / 100
		items = append(items, yesItem{i % 20, p, y})
	}
	wins, pairs := 0.0, 0.0
	for _, a := range items {
		for _, b := range items {
			if a.yes && !b.yes {
				pairs++
				switch {
				case a.p > b.p:
					wins++
				case a.p == b.p:
					wins += 0.5
				}
			}
		}
	}
	got, _ := yesScores(items)
	if !near(got.Value, wins/pairs, 1e-12) || !(got.Low < got.Value && got.Value < got.High) || got.High-got.Low > 0.25 {
		t.Errorf("%+v, want %v", got, wins/pairs)
	}
}

func TestECE(t *testing.T) {
	w := map[int]int{0: 1}
	// Ten answers of 0.8, of which half are yes: off by 0.3.
	var items []yesItem
	for i := range 10 {
		items = append(items, yesItem{0, 0.8, i%2 == 0})
	}
	if got := ece(items, w); !near(got, 0.3, 1e-9) {
		t.Errorf("got %v, want 0.3", got)
	}
	// As often as it says: none.
	items = items[:0]
	for i := range 10 {
		items = append(items, yesItem{0, 0.8, i < 8})
	}
	if got := ece(items, w); !near(got, 0, 1e-9) {
		t.Errorf("got %v, want 0", got)
	}
	if got := ece([]yesItem{{0, 1, true}, {0, 0, false}}, w); got != 0 {
		t.Errorf("certain and right: %v", got)
	}
}

// assign finds the best of all assignments.
func TestAssign(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		rows, cols := 1+r.IntN(5), r.IntN(6)
		worth := make([][]int, rows)
		for i := range worth {
			worth[i] = make([]int, cols)
			for j := range worth[i] {
				worth[i][j] = r.IntN(4) * r.IntN(1000)
			}
		}
		var best func(i int, used int) int
		best = func(i, used int) int {
			if i == rows {
				return 0
			}
			b := best(i+1, used)
			for j := range cols {
				if used>>j&1 == 0 {
					b = max(b, worth[i][j]+best(i+1, used|1<<j))
				}
			}
			return b
		}
		sum, used := 0, map[int]bool{}
		for i, j := range assign(worth) {
			if j >= 0 {
				if used[j] {
					t.Fatal("a column given twice")
				}
				used[j] = true
				sum += worth[i][j]
			}
		}
		if sum != best(0, 0) {
			t.Fatalf("%v: %d, want %d", worth, sum, best(0, 0))
		}
	}
}
