package pipeline

import (
	"fmt"
	"sync"
	"time"

	"github.com/lookout-video/lookout/event"
)

// load degrades a stream in the open: when frames are dropped because the
// machine cannot follow, it gives up in steps (frames a second, then how often
// something is said, then the length of what is said) and takes the steps back
// when there is room. Each step is an event.
type load struct {
	mu      sync.Mutex
	level   int
	n       uint64 // frames read, to leave out every other
	drops   uint64 // since the window began
	frames  uint64
	window  time.Time
	healthy int // windows in a row without a drop
}

var levels = []string{"", "half the frames", "half the frames, fewer words", "half the frames, fewer and shorter answers"}

const (
	loadWindow  = 3 * time.Second
	loadTooMuch = 0.25 // share of frames dropped that calls for a step down
	loadRecover = 4    // windows without a drop before a step up
)

// skipFrame tells the reader to leave out a frame.
func (l *load) skipFrame() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	l.frames++
	return l.level > 0 && l.n%2 == 0
}

func (l *load) dropped(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drops += n
}

// slower makes the time between two utterances longer under load.
func (l *load) slower(every time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.level >= 2 {
		return 2 * every
	}
	return every
}

// maxTokens bounds an answer under load; limit is the bound without it, 0 none.
func (l *load) maxTokens(limit int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.level >= 3 && (limit == 0 || limit > 24) {
		return 24
	}
	return limit
}

func (l *load) name() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return levels[l.level]
}

// judge closes a window and takes a step when it is due.
func (l *load) judge(now time.Time) (event.Status, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.window.IsZero() {
		l.window = now
	}
	if now.Sub(l.window) < loadWindow {
		return event.Status{}, false
	}
	share := 0.0
	if l.frames > 0 {
		share = float64(l.drops) / float64(l.frames)
	}
	drops := l.drops
	l.window, l.drops, l.frames = now, 0, 0
	switch {
	case share > loadTooMuch && l.level < len(levels)-1:
		l.level++
		l.healthy = 0
		return event.Status{State: "degraded", Count: drops, Reason: fmt.Sprintf("%.0f %% of the frames came faster than they could be looked at; now: %s", 100*share, levels[l.level]),
			Fix: "lower rate, watch fewer streams, or use a faster machine"}, true
	case drops == 0 && l.level > 0:
		l.healthy++
		if l.healthy >= loadRecover {
			l.level--
			l.healthy = 0
			now := levels[l.level]
			if now == "" {
				now = "everything"
			}
			return event.Status{State: "recovered", Reason: "there is room again; now: " + now}, true
		}
	default:
		l.healthy = 0
	}
	return event.Status{}, false
}
