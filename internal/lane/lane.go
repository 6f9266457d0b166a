// Package lane lets the answers of several sessions meet, so that a token of
// each is decoded in one run.
package lane

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Lane is the place of one session's answer. What reads or writes N and Len
// holds the Set's Run.
type Lane struct {
	// N is its number, from 0.
	N int
	// Len is how many tokens its cache holds, ID the one that is to be read.
	Len int
	ID  int64
	// Logits are of the token that follows.
	Logits []float32

	set  *Set
	used bool
	done chan error
}

// Config of a Set.
type Config struct {
	// Most is how many answers are decoded in one run at most, Vocab how many
	// logits each gets.
	Most, Vocab int
	// Wait is how long a run waits for the lanes that have not asked for it yet.
	Wait time.Duration
	// Begin makes room at the first use, and tells whether lanes may be used at
	// all.
	Begin func(all []*Lane) bool
	// Decode reads the ID of each lane that waits into its cache, adds one to
	// Len and fills Logits. Run is held by Decode itself.
	Decode func(waiting []*Lane) error
	// Closed is what Step returns after Close.
	Closed error
}

// Set is the lanes of one model. A session that speaks alone does so by itself,
// as there is nobody to wait for. One that begins while another speaks copies
// its cache into a lane, and nothing back: what an answer leaves in the cache is
// not kept.
type Set struct {
	// Run is held while a run lasts and while a session copies its cache.
	Run sync.Mutex
	// All is made at the first use.
	All []*Lane

	c        Config
	speaking atomic.Int32 // sessions, alone or in lanes
	active   atomic.Int32 // lanes in use
	asks     chan *Lane
	stop     chan struct{}
	ended    chan struct{}

	mu         sync.Mutex // guards the lanes' use and what follows
	begun, fit bool
}

// New makes a Set. Nothing runs before two sessions speak at once.
func New(c Config) *Set {
	return &Set{c: c, asks: make(chan *Lane), stop: make(chan struct{}), ended: make(chan struct{})}
}

func (s *Set) begin() {
	for n := range s.c.Most {
		s.All = append(s.All, &Lane{N: n, set: s, Logits: make([]float32, s.c.Vocab), done: make(chan error, 1)})
	}
	s.begun, s.fit = true, s.c.Begin(s.All)
	go s.serve()
}

// Enter gives a lane after take has copied the session's cache into it, or nil
// when the session is to decode alone. Leave must follow either.
func (s *Set) Enter(take func(*Lane)) *Lane {
	if s == nil || s.speaking.Add(1) == 1 {
		return nil
	}
	a := s.free()
	if a != nil {
		s.Run.Lock()
		take(a)
		s.Run.Unlock()
		s.active.Add(1)
	}
	return a
}

// free gives the lowest free lane: a run takes all lanes up to the highest.
func (s *Set) free() *Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun {
		s.begin()
	}
	for _, a := range s.All {
		if s.fit && !a.used {
			a.used = true
			return a
		}
	}
	return nil
}

// Leave ends an answer; a is what Enter gave.
func (s *Set) Leave(a *Lane) {
	if s == nil {
		return
	}
	if a != nil {
		s.Run.Lock()
		a.Len = 0
		s.Run.Unlock()
		s.active.Add(-1)
		s.mu.Lock()
		a.used = false
		s.mu.Unlock()
	}
	s.speaking.Add(-1)
}

// Speak counts a session that speaks without a lane until the function it gives
// is called.
func (s *Set) Speak() (end func()) {
	s.speaking.Add(1)
	return func() { s.speaking.Add(-1) }
}

// State tells whether any lane was ever used, whether they may be, how many are
// in use and how many sessions speak.
func (s *Set) State() (begun, fit bool, active, speaking int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun, s.fit, int(s.active.Load()), int(s.speaking.Load())
}

// Step takes one token into the lane's cache and gives the logits of the next,
// which hold until then. Once its run has begun it waits for the end. It
// allocates nothing.
func (a *Lane) Step(ctx context.Context, id int) ([]float32, error) {
	a.ID = int64(id)
	select {
	case a.set.asks <- a:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-a.set.ended:
		return nil, a.set.c.Closed
	}
	return a.Logits, <-a.done
}

// serve runs the lanes until Close.
func (s *Set) serve() {
	defer close(s.ended)
	late := time.NewTimer(0)
	defer late.Stop()
	waiting := make([]*Lane, 0, s.c.Most)
	for {
		select {
		case <-s.stop:
			return
		case a := <-s.asks:
			waiting = append(waiting[:0], a)
		}
		late.Reset(s.c.Wait)
		for open := true; open && len(waiting) < int(s.active.Load()); {
			select {
			case a := <-s.asks:
				waiting = append(waiting, a)
			case <-late.C:
				open = false
			}
		}
		err := s.c.Decode(waiting)
		for _, a := range waiting {
			a.done <- err
		}
	}
}

// Close waits for the end of a run; the sessions are closed. It gives false
// where it had been called before.
func (s *Set) Close() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stop:
		return false
	default:
	}
	close(s.stop)
	if s.begun {
		<-s.ended
	}
	return true
}
