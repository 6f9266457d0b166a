package pipeline

import (
	"slices"
	"sync"
	"time"

	"github.com/lookout-video/lookout/event"
)

// Why a frame or an utterance was spent nothing on.
const (
	SkipStill       = "still"         // the gate: nothing changed
	SkipBusy        = "busy"          // a newer frame came before this one's turn
	SkipLate        = "late"          // not encoded in time for the next one, which waited already
	SkipDegraded    = "degraded"      // left out under load
	SkipNoNews      = "no_news"       // not novel enough to speak of
	SkipOutOfDomain = "out_of_domain" // unlike what the model knows
	SkipFailed      = "failed"        // the model could not be asked
	SkipAbsent      = "absent"        // the source is away
)

// keepLatencies is how many of the newest latencies percentiles are taken of.
const keepLatencies = 512

// stats is one stream's counters. All methods are safe for many goroutines.
type stats struct {
	mu       sync.Mutex
	state    event.Status
	looked   uint64
	encoded  uint64
	words    uint64
	events   uint64
	errors   uint64
	failing  string // why the model cannot be asked; empty when it can
	skipped  map[string]uint64
	visual   VisualTokens
	glass    []float64 // milliseconds from capture to first word, a ring
	glassAt  int
	first    time.Time // when the first word was said
	labels   []event.Label
	seq      uint64
	lookedAt []time.Time // of the last looks, for the rate
}

func (s *stats) skip(reason string, n uint64) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.skipped == nil {
		s.skipped = map[string]uint64{}
	}
	s.skipped[reason] += n
}

func (s *stats) saw(encoded bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked++
	if encoded {
		s.encoded++
	}
	if len(s.lookedAt) == 16 {
		copy(s.lookedAt, s.lookedAt[1:])
		s.lookedAt = s.lookedAt[:15]
	}
	s.lookedAt = append(s.lookedAt, time.Now())
}

func (s *stats) reduced(v VisualTokens) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visual = v
}

func (s *stats) spoke(glass time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first.IsZero() {
		s.first = time.Now()
	}
	ms := float64(glass) / float64(time.Millisecond)
	if len(s.glass) < keepLatencies {
		s.glass = append(s.glass, ms)
		return
	}
	s.glass[s.glassAt] = ms
	s.glassAt = (s.glassAt + 1) % keepLatencies
}

// Snapshot is a stream's state for people and metrics.
type Snapshot struct {
	Name            string
	Source          string // redacted
	Status          event.Status
	Counters        SourceCounters
	Codec           string
	Looked, Encoded uint64
	Words, Events   uint64
	Errors          uint64
	Skipped         map[string]uint64
	Visual          VisualTokens // all 0 where none are left out
	GlassToWord     []float64    // milliseconds, the newest, sorted
	FirstWord       time.Time
	Labels          []event.Label
	LabelNames      []string
	Prompts         []event.Prompt
	LookFPS         float64
	Degraded        string
	Seq             uint64
}

// Percentile of a sorted list, by the nearest rank; 0 for an empty one.
func Percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}

func (s *stats) snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Snapshot{Status: s.state, Looked: s.looked, Encoded: s.encoded, Words: s.words, Events: s.events, Errors: s.errors, Degraded: s.failing,
		Skipped: map[string]uint64{}, Visual: s.visual, GlassToWord: slices.Sorted(slices.Values(s.glass)), FirstWord: s.first, Labels: slices.Clone(s.labels), Seq: s.seq}
	for k, v := range s.skipped {
		out.Skipped[k] = v
	}
	if n := len(s.lookedAt); n > 1 {
		if d := time.Since(s.lookedAt[0]); d > 0 {
			out.LookFPS = float64(n) / d.Seconds()
		}
	}
	return out
}
