package event

import (
	"maps"
	"strings"
	"time"
	"unicode"

	"github.com/lookout-video/lookout/media"
)

// Reasons why an observation led to no event, as Suppressed counts them. An
// Observation may bring its own.
const (
	ReasonRepeat  = "repeat"  // said already, and it still holds
	ReasonNothing = "nothing" // there was nothing to say
	ReasonAbstain = "abstain" // the model could not tell
	ReasonDoubt   = "doubt"   // the model was not sure
)

// NarrationConfig configures a Narration.
type NarrationConfig struct {
	// Stream is the stream's name.
	Stream string
	// Prompt is the standing request that the texts answer. It defaults to none.
	Prompt *Prompt
	// Quiet is how long after the last thing said a description ends, in media
	// time. It defaults to 5 seconds.
	Quiet time.Duration
	// NewID makes event ids. It defaults to NewID.
	NewID func() string
}

// Observation is what one update of the stream brought.
type Observation struct {
	// At is the time of the newest frame. Its Media drives the life cycle, so
	// the same frames give the same events however fast they are worked through.
	At media.Timestamp
	// Text is what was said about the frames; empty when nothing was.
	Text string
	// Reason tells why Text is empty. It defaults to ReasonNothing.
	Reason string
	// Empty says that the scene is empty: a description that holds ends now.
	// Text may say so in words.
	Empty bool
	// Time is when the words were complete. When it is zero the Emitter takes
	// the time of emission.
	Time     time.Time
	Evidence []Evidence
	Model    *Model
	Latency  *Latency
}

// Narration turns the texts that a model says about a stream, one per update
// and most of them no news, into description events with a life: start when
// something is said after silence, update when the text changes, end after a
// quiet time or when the scene is empty. A text that repeats what holds keeps
// the life going without an event.
//
// It is one goroutine's, like the stream it tells of.
type Narration struct {
	cfg        NarrationConfig
	next       string // the id that a new life will have
	live       bool
	data       Data // of the newest event, while live
	norm       string
	said       time.Duration // media time of the last text that was said or repeated
	suppressed map[string]uint64
}

// NewNarration makes a Narration.
func NewNarration(cfg NarrationConfig) *Narration {
	if cfg.Quiet <= 0 {
		cfg.Quiet = 5 * time.Second
	}
	if cfg.NewID == nil {
		cfg.NewID = NewID
	}
	return &Narration{cfg: cfg, next: cfg.NewID(), suppressed: map[string]uint64{}}
}

// EventID is the id that a text said at media time at will have: for the
// deltas that go out before the text is complete.
func (n *Narration) EventID(at time.Duration) string {
	if n.live && !n.quietBy(at) {
		return n.data.EventID
	}
	return n.next
}

func (n *Narration) quietBy(at time.Duration) bool { return at-n.said >= n.cfg.Quiet }

// Observe takes what one update brought and gives the events that follow: none,
// one, or an end and a start. Call it for each update, also when nothing was
// said, or a description will not end in time.
func (n *Narration) Observe(o Observation) []*Event {
	var evs []*Event
	if n.live && n.quietBy(o.At.Media) {
		evs = append(evs, n.end(o))
	}
	norm := normalize(o.Text)
	switch {
	case norm == "":
		if o.Reason == "" {
			o.Reason = ReasonNothing
		}
		n.suppressed[o.Reason]++
	case n.live && norm == n.norm:
		n.suppressed[ReasonRepeat]++
		n.said = o.At.Media
		if len(o.Evidence) > 0 {
			n.data.Evidence = o.Evidence
		}
	case o.Empty && !n.live && norm == n.norm:
		// "The scene is empty" is news once, not at each update.
		n.suppressed[ReasonRepeat]++
	default:
		evs = append(evs, n.say(o, norm))
	}
	if o.Empty && n.live {
		evs = append(evs, n.end(o))
	}
	return evs
}

func (n *Narration) say(o Observation, norm string) *Event {
	d := Data{
		Stream: n.cfg.Stream, EventID: n.next, Phase: Start,
		Text: strings.TrimSpace(o.Text), Prompt: n.cfg.Prompt,
		Evidence: o.Evidence, Model: o.Model, Latency: o.Latency,
	}
	if n.live {
		d.EventID, d.Revision, d.Phase = n.data.EventID, n.data.Revision+1, Update
	} else {
		n.next = n.cfg.NewID()
	}
	n.live, n.data, n.norm, n.said = true, d, norm, o.At.Media
	return New(TypeDescription, o.Time, d)
}

// end repeats the last text, so that a reader who sees only ends knows what
// ended. Its evidence is the last frames on which the text was said to hold.
func (n *Narration) end(o Observation) *Event {
	d := n.data
	d.Revision++
	d.Phase = End
	d.Latency = nil
	n.live, n.data = false, Data{}
	if !o.Empty {
		n.norm = "" // the same words after a silence are news
	}
	return New(TypeDescription, o.Time, d)
}

// Close ends what still holds: for a stream that ends or is reconfigured.
func (n *Narration) Close(at media.Timestamp) []*Event {
	if !n.live {
		return nil
	}
	return []*Event{n.end(Observation{At: at})}
}

// Suppressed counts the observations that led to no event, by reason.
func (n *Narration) Suppressed() map[string]uint64 { return maps.Clone(n.suppressed) }

// normalize gives texts that a reader takes for the same the same form: letters
// and digits in lower case, single spaces, no articles.
func normalize(s string) string {
	words := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsDigit(r)
	})
	kept := words[:0]
	for _, w := range words {
		if w != "a" && w != "an" && w != "the" {
			kept = append(kept, w)
		}
	}
	return strings.Join(kept, " ")
}
