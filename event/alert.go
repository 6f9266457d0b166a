package event

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/lookout-video/lookout/media"
)

// AlertConfig configures an Alert. Durations are media time.
type AlertConfig struct {
	// Stream is the stream's name.
	Stream string
	// Prompt is the standing question or the trigger text.
	Prompt Prompt
	// Threshold is the score from which on the alert may start; with Quantile
	// set it is the floor that calibration never goes below.
	// It defaults to 0.5.
	Threshold float64
	// Hysteresis is how far below the start's threshold the score must fall for
	// the alert to end. It defaults to 0.1; a negative value means none.
	Hysteresis float64
	// MinDuration is how long the score must stay above the threshold before
	// the alert starts, and below before it ends. It defaults to 500 ms; a
	// negative value means that one frame is enough.
	MinDuration time.Duration
	// CoolDown is how long after an end no alert starts. It defaults to 10
	// seconds; a negative value means none.
	CoolDown time.Duration
	// Patience is how long the alert's state outlasts scores that are all
	// abstentions: then what was about to start is forgotten, and what holds
	// ends as abstained. It defaults to 10 seconds.
	Patience time.Duration
	// UpdateStep is the change of score since the last event that is worth an
	// update. It defaults to 0.2.
	UpdateStep float64

	// Quantile calibrates the threshold on this camera's own recent scores: it
	// is that quantile of the scores of the ordinary scene, plus Margin. A camera
	// whose ordinary scene scores 0.6 then needs more than 0.6. Scores above the
	// threshold are not ordinary: an alert does not raise it. But one that has
	// held for a whole Window ends, and its scores are the ordinary ones from then
	// on: what lasts is no news. No alert starts before Learn scores were seen. It
	// defaults to 0, no calibration; 0.98 is a good value for zero-shot triggers.
	Quantile float64
	// Margin is added to the quantile. It defaults to 0.05.
	Margin float64
	// Window is how many recent scores the quantile is taken of; what is learned
	// is unlearned after as many. It defaults to 1024.
	Window int
	// Learn is how many scores must have been seen before the first alert, with
	// Quantile set. It defaults to 64.
	Learn int

	// NewID makes event ids. It defaults to NewID.
	NewID func() string
}

// Score is one frame's answer to the alert's question.
type Score struct {
	At media.Timestamp
	// Value is the probability of yes, in [0, 1].
	Value float64
	// Abstained says that the model cannot tell; Value is not looked at.
	Abstained bool
	// Text is the answer in words. It defaults to none.
	Text string
	// Time is when the answer was complete; zero leaves it to the Emitter.
	Time     time.Time
	Evidence []Evidence
	Labels   []Label
	Model    *Model
	Latency  *Latency
}

// Alert turns the scores of one standing question into alert events with a
// life: start, updates while it holds, end. See AlertConfig for what keeps it
// from flapping. It is one goroutine's.
type Alert struct {
	cfg    AlertConfig
	recent []float64 // ring of the ordinary scores
	pos    int
	held   []float64 // scores since the alert's start
	bar    float64   // cached threshold
	stale  int       // scores learned since bar was computed

	on        bool
	off       float64 // threshold to fall below, fixed at the start
	data      Data    // of the newest event, while on
	crossed   bool    // the score is on the other side since turned
	turned    time.Duration
	heard     time.Duration // time of the last score that was no abstention
	hasHeard  bool
	coolUntil time.Duration
	settled   bool // an alert became ordinary: the score must fall before the next

	suppressed map[string]uint64
}

// Reasons why a score above the threshold led to no start, as Suppressed
// counts them.
const (
	ReasonLearning = "learning" // calibration has not seen enough
	ReasonTooShort = "short"    // it did not last MinDuration
	ReasonCoolDown = "cooldown"
	ReasonOrdinary = "ordinary" // an alert has lasted so long that it is the ordinary state
)

// NewAlert makes an Alert.
func NewAlert(cfg AlertConfig) *Alert {
	def := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
		*v = max(*v, 0)
	}
	defD := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
		*v = max(*v, 0)
	}
	def(&cfg.Threshold, 0.5)
	def(&cfg.Hysteresis, 0.1)
	def(&cfg.UpdateStep, 0.2)
	def(&cfg.Margin, 0.05)
	defD(&cfg.MinDuration, 500*time.Millisecond)
	defD(&cfg.CoolDown, 10*time.Second)
	defD(&cfg.Patience, 10*time.Second)
	if cfg.Window <= 0 {
		cfg.Window = 1024
	}
	if cfg.Learn <= 0 {
		cfg.Learn = 64
	}
	cfg.Learn = min(cfg.Learn, cfg.Window)
	if cfg.NewID == nil {
		cfg.NewID = NewID
	}
	return &Alert{cfg: cfg, bar: cfg.Threshold, coolUntil: math.MinInt64, suppressed: map[string]uint64{}}
}

// Threshold is the score that starts the alert now.
func (a *Alert) Threshold() float64 { return a.bar }

// On tells whether the alert holds.
func (a *Alert) On() bool { return a.on }

// Suppressed counts the scores above the threshold (and the abstentions) that
// led to no event, by reason.
func (a *Alert) Suppressed() map[string]uint64 { return maps.Clone(a.suppressed) }

// Observe takes one frame's score and gives the events that follow: at most one.
func (a *Alert) Observe(s Score) []*Event {
	at := s.At.Media
	if !a.hasHeard {
		a.heard, a.hasHeard = at, true
	}
	if s.Abstained || math.IsNaN(s.Value) {
		a.suppressed[ReasonAbstain]++
		if at-a.heard < a.cfg.Patience {
			return nil
		}
		a.crossed = false
		if !a.on {
			return nil
		}
		s.Abstained = true
		return []*Event{a.end(s)}
	}
	a.heard = at
	if a.on {
		return a.observeOn(s)
	}
	learning := a.cfg.Quantile > 0 && len(a.recent) < a.cfg.Learn
	bar := a.bar
	if s.Value < bar {
		if a.crossed {
			a.suppressed[ReasonTooShort]++
		}
		a.crossed, a.settled = false, false
		a.learn(s.Value)
		return nil
	}
	switch {
	case learning:
		a.suppressed[ReasonLearning]++
		a.learn(s.Value)
		a.settled = s.Value >= a.bar // certain from the first: no threshold lies above
		return nil
	case a.settled:
		a.suppressed[ReasonOrdinary]++
		a.learn(s.Value)
		return nil
	case at < a.coolUntil:
		a.suppressed[ReasonCoolDown]++
		return nil
	}
	if !a.crossed {
		a.crossed, a.turned = true, at
	}
	if at-a.turned < a.cfg.MinDuration {
		return nil
	}
	a.on, a.crossed, a.off = true, false, bar-a.cfg.Hysteresis
	return []*Event{a.event(s, Data{EventID: a.cfg.NewID(), Phase: Start})}
}

func (a *Alert) observeOn(s Score) []*Event {
	if a.outlasted(s.Value) {
		return []*Event{a.end(s)}
	}
	if s.Value < a.off {
		if !a.crossed {
			a.crossed, a.turned = true, s.At.Media
		}
		if s.At.Media-a.turned >= a.cfg.MinDuration {
			return []*Event{a.end(s)}
		}
		return nil
	}
	a.crossed = false
	if a.data.Probability == nil || math.Abs(s.Value-*a.data.Probability) >= a.cfg.UpdateStep-1e-9 {
		return []*Event{a.event(s, Data{EventID: a.data.EventID, Revision: a.data.Revision + 1, Phase: Update})}
	}
	return nil
}

func (a *Alert) event(s Score, d Data) *Event {
	d.Stream, d.Prompt, d.Text, d.Abstained = a.cfg.Stream, &a.cfg.Prompt, s.Text, s.Abstained
	d.Evidence, d.Labels, d.Model, d.Latency = s.Evidence, s.Labels, s.Model, s.Latency
	if !s.Abstained {
		p := min(max(s.Value, 0), 1)
		d.Probability = &p
	}
	a.data = d
	return New(TypeAlert, s.Time, d)
}

func (a *Alert) end(s Score) *Event {
	ev := a.event(s, Data{EventID: a.data.EventID, Revision: a.data.Revision + 1, Phase: End})
	a.on, a.crossed, a.data, a.held = false, false, Data{}, a.held[:0]
	a.coolUntil = s.At.Media + a.cfg.CoolDown
	return ev
}

// Close ends an alert that holds: for a stream that ends or is reconfigured.
func (a *Alert) Close(at media.Timestamp) []*Event {
	if !a.on {
		return nil
	}
	last := Score{At: at, Text: a.data.Text, Evidence: a.data.Evidence, Model: a.data.Model}
	if last.Abstained = a.data.Probability == nil; !last.Abstained {
		last.Value = *a.data.Probability
	}
	return []*Event{a.end(last)}
}

// outlasted notes a score of the alert that holds, and tells whether it has
// held for so long that its scores are the ordinary ones.
func (a *Alert) outlasted(v float64) bool {
	if a.cfg.Quantile <= 0 {
		return false
	}
	if a.held = append(a.held, v); len(a.held) < a.cfg.Window {
		return false
	}
	a.recent, a.held, a.pos, a.settled = a.held, a.recent[:0], 0, true
	a.suppressed[ReasonOrdinary]++
	a.calibrate()
	return true
}

// learn adds a score of the camera's ordinary scene. Scores of alerts stay
// out, or a long alert would raise the threshold above itself.
func (a *Alert) learn(v float64) {
	if a.cfg.Quantile <= 0 {
		return
	}
	if len(a.recent) < a.cfg.Window {
		a.recent = append(a.recent, v)
	} else {
		a.recent[a.pos] = v
		a.pos = (a.pos + 1) % a.cfg.Window
	}
	// Sorting for each frame would be waste: one score moves a quantile little.
	if a.stale++; len(a.recent) < a.cfg.Learn || a.stale < 16 && len(a.recent) > a.cfg.Learn {
		return
	}
	a.calibrate()
}

// calibrate computes the threshold from the ordinary scores.
func (a *Alert) calibrate() {
	a.stale = 0
	sorted := slices.Sorted(slices.Values(a.recent))
	q := sorted[min(int(a.cfg.Quantile*float64(len(sorted))), len(sorted)-1)]
	// Never above what a probability can reach: a camera that always says yes
	// must still be able to say so.
	a.bar = min(max(a.cfg.Threshold, q+a.cfg.Margin), 0.99)
}
