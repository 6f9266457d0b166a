package event

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// TestAlert gives one score each second: digits are tenths, x is 1, ? an
// abstention. Marks below show the events: S start, U update, E end.
func TestAlert(t *testing.T) {
	base := AlertConfig{MinDuration: 2 * time.Second, CoolDown: -1, UpdateStep: 2, Patience: 4 * time.Second}
	with := func(f func(*AlertConfig)) AlertConfig { c := base; f(&c); return c }
	for name, c := range map[string]struct {
		cfg          AlertConfig
		scores, want string
	}{
		"a life": {base,
			"0137777721110",
			".....S....E.."},
		"too short": {base,
			"0770770077000",
			"............."},
		"hysteresis holds between off and on": {base,
			"7774444444333",
			"..S.........E"},
		"a dip shorter than the minimum": {base,
			"77711711777",
			"..S........"},
		"updates on a change of score": {with(func(c *AlertConfig) { c.UpdateStep = 0.2 }),
			"666677899xx5",
			"..S...U..U.U"},
		"cool-down": {with(func(c *AlertConfig) { c.CoolDown = 5 * time.Second; c.MinDuration = -1 }),
			"7070700770",
			"SE.....S.E"}, // ended at 1, so none before 6
		"abstentions hold the state": {base,
			"77??7?7?77?100",
			"....S........E"},
		"abstentions for too long end it": {base,
			"777????00",
			"..S...E.."},
		"what was about to start is forgotten": {base,
			"77????777",
			"........S"},
		"one frame is enough": {with(func(c *AlertConfig) { c.MinDuration = -1 }),
			"0700",
			".SE."},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.NewID = ids()
			a := NewAlert(c.cfg)
			var got strings.Builder
			for i, r := range c.scores {
				s := Score{At: at(float64(i))}
				switch r {
				case '?':
					s.Abstained = true
				case 'x':
					s.Value = 1
				default:
					s.Value = float64(r-'0') / 10
				}
				mark := "."
				for _, ev := range a.Observe(s) {
					mark = map[Phase]string{Start: "S", Update: "U", End: "E"}[ev.Data.Phase]
					if ev.Data.Abstained != s.Abstained || (ev.Data.Probability == nil) != s.Abstained {
						t.Errorf("at %d: abstained %v, probability %v", i, ev.Data.Abstained, ev.Data.Probability)
					}
				}
				got.WriteString(mark)
			}
			if got.String() != c.want {
				t.Errorf("scores %s\n   got %s\n  want %s", c.scores, got.String(), c.want)
			}
		})
	}
}

func TestAlertKeepsOneIDAndGrowingRevisions(t *testing.T) {
	a := NewAlert(AlertConfig{NewID: ids(), MinDuration: -1, CoolDown: -1})
	var all []*Event
	for i, v := range []float64{0.6, 0.9, 0.1, 0.9} {
		all = append(all, a.Observe(Score{At: at(float64(i)), Value: v, Text: "t"})...)
	}
	all = append(all, a.Close(at(9))...)
	want := "e1.0 start t, e1.1 update t, e1.2 end t, e2.0 start t, e2.1 end t"
	if got := life(all); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(a.Close(at(9))) != 0 || a.On() {
		t.Error("closed twice")
	}
}

func TestAlertCalibration(t *testing.T) {
	cfg := AlertConfig{Quantile: 0.95, Margin: 0.05, Threshold: 0.5, MinDuration: -1, CoolDown: -1, Learn: 50, Window: 100, NewID: ids()}
	feed := func(a *Alert, from, n int, score func(i int) float64) (starts int) {
		for i := range n {
			for _, ev := range a.Observe(Score{At: at(float64(from + i)), Value: score(i)}) {
				if ev.Data.Phase == Start {
					starts++
				}
			}
		}
		return starts
	}
	high := func(i int) float64 { return 0.6 + 0.001*float64(i%50) } // 0.600 .. 0.649

	a := NewAlert(cfg)
	if n := feed(a, 0, 300, high); n != 0 {
		t.Errorf("a camera whose ordinary scene scores 0.6 alerted %d times", n)
	}
	if b := a.Threshold(); math.Abs(b-0.698) > 0.005 {
		t.Errorf("threshold %v, want the 95 %% quantile 0.648 plus 0.05", b)
	}
	if n := feed(a, 300, 500, func(int) float64 { return 0.9 }); n != 1 || !a.On() {
		t.Errorf("a long alert started %d times, on: %v: its own scores must not raise the threshold", n, a.On())
	}
	if n := feed(a, 800, 300, func(int) float64 { return 0.1 }); n != 0 || a.Threshold() != 0.5 {
		t.Errorf("a quiet camera's threshold is %v, want the floor", a.Threshold())
	}
	if got := a.Suppressed()[ReasonLearning]; got != 50 {
		t.Errorf("%d scores kept quiet while learning, want 50", got)
	}
	always := NewAlert(cfg)
	feed(always, 0, 60, func(int) float64 { return 1 })
	if b := always.Threshold(); b > 0.99 {
		t.Errorf("threshold %v cannot be reached", b)
	}
}

func TestAlertIgnoresNaN(t *testing.T) {
	a := NewAlert(AlertConfig{MinDuration: -1})
	if evs := a.Observe(Score{Value: math.NaN()}); len(evs) != 0 {
		t.Error(fmt.Sprint(life(evs)))
	}
}
