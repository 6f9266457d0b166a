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

// part is a stretch of n scores, one a second.
type part struct {
	n      int
	score  func(i int) float64
	starts int     // alerts that start in it
	on     bool    // at its end
	bar    float64 // the threshold at its end
}

func TestAlertCalibration(t *testing.T) {
	flat := func(v float64) func(int) float64 { return func(int) float64 { return v } }
	high := func(i int) float64 { return 0.6 + 0.001*float64(i%50) } // 0.600 .. 0.649
	spike := func(at int, v float64) func(int) float64 {
		return func(i int) float64 {
			if i == at {
				return v
			}
			return high(i)
		}
	}
	const learned = 0.698 // the 95 % quantile 0.648 plus 0.05
	for name, parts := range map[string][]part{
		"an ordinary scene of 0.6 needs more than 0.6":        {{300, high, 0, false, learned}, {1, flat(0.69), 0, false, learned}, {5, flat(0.72), 1, true, learned}},
		"a quiet camera has the floor":                        {{300, flat(0.1), 0, false, 0.5}, {5, flat(0.6), 1, true, 0.5}},
		"nothing starts while it learns":                      {{49, flat(0.9), 0, false, 0.5}},
		"what happens while it learns is unlearned":           {{50, flat(0.9), 0, false, 0.95}, {100, flat(0.1), 0, false, 0.5}, {5, flat(0.9), 1, true, 0.5}},
		"a long alert does not raise the threshold":           {{300, high, 0, false, learned}, {99, flat(0.9), 1, true, learned}, {50, high, 0, false, learned}, {5, flat(0.9), 1, true, learned}},
		"nor do many short ones":                              {{300, high, 0, false, learned}, {200, func(i int) float64 { return 0.6 + 0.3*float64(i%2) }, 100, true, learned}},
		"nor a spike":                                         {{300, spike(200, 0.99), 1, false, learned}},
		"an alert of a whole window is the ordinary state":    {{300, high, 0, false, learned}, {101, flat(0.9), 1, false, 0.95}, {200, flat(0.9), 0, false, 0.95}},
		"above it alerts start again":                         {{300, high, 0, false, learned}, {201, flat(0.8), 1, false, 0.85}, {5, flat(0.95), 1, true, 0.85}},
		"and it is unlearned after as long":                   {{300, high, 0, false, learned}, {101, flat(0.9), 1, false, 0.95}, {200, high, 0, false, learned}, {5, flat(0.9), 1, true, learned}},
		"certainty for a window, and then until it has ended": {{60, flat(0.1), 0, false, 0.5}, {101, flat(1), 1, false, 0.99}, {500, flat(1), 0, false, 0.99}, {1, flat(0.1), 0, false, 0.99}, {5, flat(1), 1, true, 0.99}},
		"a camera that always said yes can say so":            {{300, flat(1), 0, false, 0.99}},
	} {
		t.Run(name, func(t *testing.T) {
			a := NewAlert(AlertConfig{Quantile: 0.95, Margin: 0.05, Threshold: 0.5, Hysteresis: 0.02, MinDuration: -1, CoolDown: -1, Learn: 50, Window: 100, NewID: ids()})
			now := 0
			for k, p := range parts {
				starts := 0
				for i := range p.n {
					for _, ev := range a.Observe(Score{At: at(float64(now)), Value: p.score(i)}) {
						if ev.Data.Phase == Start {
							starts++
						}
					}
					now++
				}
				if starts != p.starts || a.On() != p.on || math.Abs(a.Threshold()-p.bar) > 0.006 {
					t.Errorf("part %d: %d starts, on %v, threshold %.3f; want %d, %v, %.3f", k, starts, a.On(), a.Threshold(), p.starts, p.on, p.bar)
				}
			}
		})
	}
}

func TestAlertCountsWhatItKeepsQuiet(t *testing.T) {
	a := NewAlert(AlertConfig{Quantile: 0.95, MinDuration: -1, CoolDown: -1, Learn: 50, Window: 100})
	for i := range 300 {
		a.Observe(Score{At: at(float64(i)), Value: 1})
	}
	if got := a.Suppressed(); got[ReasonLearning] != 50 || got[ReasonOrdinary] < 100 {
		t.Errorf("kept quiet: %v", got)
	}
}

func TestAlertIgnoresNaN(t *testing.T) {
	a := NewAlert(AlertConfig{MinDuration: -1})
	if evs := a.Observe(Score{Value: math.NaN()}); len(evs) != 0 {
		t.Error(fmt.Sprint(life(evs)))
	}
}
