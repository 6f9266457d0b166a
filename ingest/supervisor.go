package ingest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/lookout-video/lookout/media"
)

// State is where a supervised source stands.
type State string

// The states of a supervised source.
const (
	Connecting   State = "connecting"
	Live         State = "live"
	Reconnecting State = "reconnecting" // waiting for the next try; Err says why
	Ended        State = "ended"        // a file came to its end
)

// Status tells of a change of state.
type Status struct {
	State State
	Err   error
	// Retry is how long the supervisor waits before the next try.
	Retry time.Duration
}

// Supervised keeps one source open: it connects, gives frames, and connects
// again after a failure, each time waiting longer (with jitter, so that cameras
// that failed together do not come back together), up to MaxWait.
type Supervised struct {
	Config Config
	// OnStatus is called at each change of state, from ReadFrame's goroutine.
	OnStatus func(Status)
	// MinWait and MaxWait bound the wait between two tries. They default to
	// 500 ms and 30 s.
	MinWait, MaxWait time.Duration

	r     *Reader
	wait  time.Duration
	tap   func(*Reader)
	state State
	began time.Time
}

// endless tells the sources that have no end: when one stops it is lost.
func (c *Config) endless() bool {
	for _, p := range []string{"rtsp://", "rtsps://", "v4l2:"} {
		if strings.HasPrefix(c.URL, p) {
			return true
		}
	}
	return false
}

// OnOpen sets a function that sees each newly opened Reader, for its tap.
func (s *Supervised) OnOpen(f func(*Reader)) { s.tap = f }

func (s *Supervised) tell(st Status) {
	s.state = st.State
	if s.OnStatus != nil {
		s.OnStatus(st)
	}
}

// ReadFrame gives the next frame, connecting as often as that takes. It returns
// io.EOF when a file ends, and ctx's error; no other.
func (s *Supervised) ReadFrame(ctx context.Context, dst *media.Frame) error {
	for {
		err := s.read(ctx, dst)
		switch {
		case err == nil:
			s.wait = 0
			if s.state != Live {
				s.tell(Status{State: Live})
			}
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF) && !s.Config.endless():
			s.tell(Status{State: Ended})
			return io.EOF
		}
		s.Close()
		d := s.backOff()
		s.tell(Status{State: Reconnecting, Err: err, Retry: d})
		if err := sleepUntil(ctx, time.Now().Add(d)); err != nil {
			return err
		}
	}
}

func (s *Supervised) read(ctx context.Context, dst *media.Frame) error {
	if s.r == nil {
		if s.state == "" {
			s.tell(Status{State: Connecting})
		}
		r, err := Open(ctx, s.Config)
		if err != nil {
			return err
		}
		s.r = r
		if s.began.IsZero() {
			s.began = r.began
		} else { // media time goes on over the gap
			r.began, r.offset = s.began, time.Since(s.began)
		}
		if s.tap != nil {
			s.tap(r)
		}
	}
	return s.r.ReadFrame(ctx, dst)
}

// backOff doubles the wait and takes between half and all of it.
func (s *Supervised) backOff() time.Duration {
	lo, hi := s.MinWait, s.MaxWait
	if lo <= 0 {
		lo = 500 * time.Millisecond
	}
	if hi <= 0 {
		hi = 30 * time.Second
	}
	s.wait = min(max(2*s.wait, lo), hi)
	return s.wait/2 + rand.N(s.wait/2+1)
}

// Close frees the source. It must not run beside ReadFrame.
func (s *Supervised) Close() error {
	if s.r == nil {
		return nil
	}
	err := s.r.Close()
	s.r = nil
	return err
}
