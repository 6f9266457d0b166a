// Package bench measures Lookout beside its peers on one machine, interleaved,
// so that a ratio can be trusted where a single figure can't.
package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"
	"time"
)

// ErrMissing is wrapped by a Side that can't run on this machine: a peer that is
// not set up, a model that is not there. The report names it with the reason.
var ErrMissing = errors.New("bench: not set up")

// Values are the figures of one run by name, such as "frames_per_second". A name
// ends in its unit where it has one (_ms, _seconds, _bytes).
type Values map[string]float64

// Side is one of those that are compared.
type Side struct {
	Name string
	// Command reproduces what Run does, for the report.
	Command string
	// Open gets ready: loads models, starts servers. What it takes is not
	// measured. It may be nil.
	Open func(ctx context.Context) error
	// Run does the work once.
	Run func(ctx context.Context) (Values, error)
	// WarmsItself says that each Run begins with a warm-up of its own.
	WarmsItself bool
	// Close gives back what Open took. It may be nil.
	Close func() error
}

// Scenario is one comparison. Its sides run in turn, A B A B, so that a machine
// that slows down slows all of them.
type Scenario struct {
	Name string
	Text string // what is measured, in a sentence
	// Warm runs come first and are thrown away, Runs are kept.
	// They default to 1 and 3; a negative Warm is none.
	Warm, Runs int
	Sides      []Side
}

// Ratio is a figure of the report made of two others of one scenario, run by
// run: Num / Den. Without Den it is Num itself.
type Ratio struct {
	Key      string
	Scenario string
	Num, Den string // "side.value"
	Aim      string // ">= 3", "<= 1.05"
	Text     string // what it is, for a reader
}

// Options are Run's.
type Options struct {
	// Progress is told before each run what is about to be done.
	// It defaults to none.
	Progress func(scenario, side string, run, of int)
	// RunTimeout bounds one run of one side. It defaults to 5 minutes.
	RunTimeout time.Duration
}

// Spread is a figure over its runs.
type Spread struct {
	Runs   []float64 `json:"runs"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
}

// SideResult is what one side of a scenario gave.
type SideResult struct {
	Name    string            `json:"name"`
	Command string            `json:"command"`
	Missing string            `json:"missing,omitempty"` // why it gave nothing
	Values  map[string]Spread `json:"values,omitempty"`

	rounds []Values
}

// ScenarioResult is one scenario's.
type ScenarioResult struct {
	Name  string       `json:"name"`
	Text  string       `json:"text"`
	Sides []SideResult `json:"sides"`
}

// RatioResult is one ratio's; Spread is nil when a side it needs is missing.
type RatioResult struct {
	*Spread
	Aim      string   `json:"aim,omitempty"`
	Commands []string `json:"commands"`
	Missing  string   `json:"missing,omitempty"`
}

// Results is a whole benchmark, as bench/results/latest.json holds it.
type Results struct {
	Format    int                    `json:"format"`
	Started   time.Time              `json:"started"`
	Seconds   float64                `json:"seconds"`
	Machine   Machine                `json:"machine"`
	Ratios    map[string]RatioResult `json:"ratios"`
	Missing   []string               `json:"missing"` // sides that gave nothing, each with why
	Scenarios []ScenarioResult       `json:"scenarios"`

	order []string // of the ratios
}

// Run runs the scenarios in order. A side that fails is named in the results
// with its error, and the others go on; only a context that ends stops all.
func Run(ctx context.Context, scenarios []Scenario, ratios []Ratio, opt Options) (*Results, error) {
	if opt.Progress == nil {
		opt.Progress = func(string, string, int, int) {}
	}
	if opt.RunTimeout <= 0 {
		opt.RunTimeout = 5 * time.Minute
	}
	if err := check(scenarios, ratios); err != nil {
		return nil, err
	}
	r := &Results{Format: 1, Started: time.Now().UTC().Truncate(time.Second), Machine: Describe(), Ratios: map[string]RatioResult{}, Missing: []string{}}
	began := time.Now()
	for _, s := range scenarios {
		res, err := runScenario(ctx, s, opt)
		if err != nil {
			return nil, err
		}
		for _, side := range res.Sides {
			if side.Missing != "" {
				r.Missing = append(r.Missing, fmt.Sprintf("%s in %s: %s", side.Name, s.Name, side.Missing))
			}
		}
		r.Scenarios = append(r.Scenarios, res)
	}
	for _, q := range ratios {
		r.Ratios[q.Key] = r.ratio(q)
		r.order = append(r.order, q.Key)
	}
	r.Seconds = math.Round(time.Since(began).Seconds())
	return r, nil
}

// check finds a ratio that names what no scenario has.
func check(scenarios []Scenario, ratios []Ratio) error {
	sides := map[string]bool{}
	for _, s := range scenarios {
		for _, x := range s.Sides {
			sides[s.Name+"/"+x.Name] = true
		}
	}
	for _, q := range ratios {
		for _, v := range []string{q.Num, q.Den} {
			side, _, ok := strings.Cut(v, ".")
			if v == "" && q.Den == "" {
				continue
			}
			if !ok || !sides[q.Scenario+"/"+side] {
				return fmt.Errorf("bench: ratio %s: scenario %q has no side for %q", q.Key, q.Scenario, v)
			}
		}
	}
	return nil
}

func runScenario(ctx context.Context, s Scenario, opt Options) (ScenarioResult, error) {
	if s.Warm == 0 {
		s.Warm = 1
	}
	if s.Runs == 0 {
		s.Runs = 3
	}
	res := ScenarioResult{Name: s.Name, Text: s.Text, Sides: make([]SideResult, len(s.Sides))}
	fail := func(i int, err error) {
		res.Sides[i].Missing = strings.TrimPrefix(err.Error(), ErrMissing.Error()+": ")
		res.Sides[i].rounds = nil
	}
	defer func() {
		for i, x := range s.Sides {
			if x.Close == nil {
				continue
			}
			if err := x.Close(); err != nil && res.Sides[i].Missing == "" {
				fail(i, fmt.Errorf("close: %w", err))
			}
		}
	}()
	for i, x := range s.Sides {
		res.Sides[i].Name, res.Sides[i].Command = x.Name, x.Command
		if x.Open != nil {
			if err := x.Open(ctx); err != nil {
				fail(i, err)
			}
		}
	}
	for round := -max(0, s.Warm); round < s.Runs; round++ {
		for i, x := range s.Sides {
			if res.Sides[i].Missing != "" || round < 0 && x.WarmsItself {
				continue
			}
			if err := ctx.Err(); err != nil {
				return res, fmt.Errorf("bench: %s: %w", s.Name, err)
			}
			opt.Progress(s.Name, x.Name, round, s.Runs)
			one, cancel := context.WithTimeout(ctx, opt.RunTimeout)
			v, err := x.Run(one)
			cancel()
			switch {
			case err != nil && ctx.Err() != nil:
				return res, fmt.Errorf("bench: %s: %w", s.Name, ctx.Err())
			case err != nil:
				fail(i, err)
			case round >= 0:
				res.Sides[i].rounds = append(res.Sides[i].rounds, v)
			}
		}
	}
	for i := range res.Sides {
		res.Sides[i].Values = spreads(res.Sides[i].rounds)
	}
	return res, nil
}

func spreads(rounds []Values) map[string]Spread {
	all := map[string][]float64{}
	for _, v := range rounds {
		for name, x := range v {
			all[name] = append(all[name], x)
		}
	}
	out := map[string]Spread{}
	for name, runs := range all {
		out[name] = spread(runs)
	}
	return out
}

// spread takes the median, least and largest of at least one run.
func spread(runs []float64) Spread {
	s := append([]float64(nil), runs...)
	sort.Float64s(s)
	return Spread{Runs: runs, Median: (s[(len(s)-1)/2] + s[len(s)/2]) / 2, Min: s[0], Max: s[len(s)-1]}
}

// ratio pairs the rounds of the two sides: what ran next to each other.
func (r *Results) ratio(q Ratio) RatioResult {
	out := RatioResult{Aim: q.Aim}
	find := func(v string) ([]float64, error) {
		side, value, _ := strings.Cut(v, ".")
		for _, s := range r.Scenarios {
			for _, x := range s.Sides {
				if s.Name != q.Scenario || x.Name != side {
					continue
				}
				if len(out.Commands) == 0 || out.Commands[0] != x.Command {
					out.Commands = append(out.Commands, x.Command)
				}
				if x.Missing != "" {
					return nil, fmt.Errorf("%s: %s", side, x.Missing)
				}
				var runs []float64
				for _, round := range x.rounds {
					f, ok := round[value]
					if !ok {
						return nil, fmt.Errorf("%s gave no %s", side, value)
					}
					runs = append(runs, f)
				}
				return runs, nil
			}
		}
		return nil, fmt.Errorf("%s did not run", side)
	}
	num, err := find(q.Num)
	den := make([]float64, len(num))
	for i := range den {
		den[i] = 1
	}
	if q.Den != "" {
		d, derr := find(q.Den)
		den, err = d, errors.Join(err, derr)
	}
	if err != nil {
		out.Missing = strings.ReplaceAll(err.Error(), "\n", "; ")
		return out
	}
	var runs []float64
	for i := range min(len(num), len(den)) {
		x := num[i] / den[i]
		if math.IsNaN(x) || math.IsInf(x, 0) {
			out.Missing = fmt.Sprintf("%s is %v and %s is %v", q.Num, num[i], q.Den, den[i])
			return out
		}
		runs = append(runs, x)
	}
	if len(runs) == 0 {
		out.Missing = "no runs"
		return out
	}
	s := spread(runs)
	out.Spread = &s
	return out
}
