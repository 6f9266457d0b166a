package ingest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
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
	// Note, with Live, says once why the CPU decodes although a device was
	// wished for.
	Note string
}

// Supervised keeps one source open: it connects, gives frames, and connects
// again after a failure, each time waiting longer (with jitter, so that cameras
// that failed together do not come back together), up to Config.MaxWait. Its
// tap, counters, stills and clocks go on over all that.
type Supervised struct {
	r     *Reader
	open  bool
	wait  time.Duration
	state State
	note  string
}

// Supervise makes a Supervised source. Nothing happens before ReadFrame. Its
// frames are numbered from the time of day on (ms since 1970): a picture keeps
// its address in caches and on disk, and one of a later run never gets it.
func Supervise(cfg Config) *Supervised {
	s := &Supervised{r: newReader(cfg)}
	s.r.seq = uint64(time.Now().UnixMilli())
	return s
}

func (s *Supervised) tell(st Status) {
	s.state = st.State
	if s.r.cfg.OnStatus != nil {
		s.r.cfg.OnStatus(st)
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
				if s.state == Reconnecting {
					s.r.stats.reconnects.Add(1)
				}
				s.tell(s.live())
			}
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF) && !s.r.st.endless:
			s.tell(Status{State: Ended})
			return io.EOF
		}
		s.lose(err)
		d := s.backOff()
		s.tell(Status{State: Reconnecting, Err: err, Retry: d})
		if err := s.r.sleepUntil(ctx, time.Now().Add(d)); err != nil {
			return err
		}
	}
}

func (s *Supervised) live() Status {
	st := Status{State: Live}
	if note := s.r.Info().Note; note != s.note {
		s.note, st.Note = note, note
	}
	return st
}

func (s *Supervised) read(ctx context.Context, dst *media.Frame) error {
	if !s.open {
		if s.state == "" {
			s.tell(Status{State: Connecting})
		}
		offset := time.Duration(0)
		if !s.r.began.IsZero() { // media time goes on over the gap
			offset = max(time.Since(s.r.began), s.r.clock.last+s.r.clock.step)
		}
		if err := s.r.open(ctx, offset); err != nil {
			return err
		}
		s.open = true
	}
	return s.r.ReadFrame(ctx, dst)
}

// lose closes what has failed. What comes after does not go on from it: viewers
// start again at a key frame.
func (s *Supervised) lose(err error) {
	s.r.halt()
	s.r.closeInput()
	if s.r.tap != s.r.cfg.Packets { // a publisher cuts its own
		s.r.tap.Cut()
	}
	if s.r.cfg.Packets != nil && errors.Is(err, ErrTimeout) {
		s.r.cfg.Packets.Cut() // the last pictures of one who fell silent are not new when they are read again
	}
	s.open = false
}

// backOff doubles the wait and takes between half and all of it.
func (s *Supervised) backOff() time.Duration {
	lo, hi := s.r.cfg.MinWait, s.r.cfg.MaxWait
	if lo <= 0 {
		lo = 500 * time.Millisecond
	}
	if hi <= 0 {
		hi = 30 * time.Second
	}
	s.wait = min(max(2*s.wait, lo), hi)
	return s.wait/2 + rand.N(s.wait/2+1)
}

// Tap is Reader.Tap. It is there before the source is.
func (s *Supervised) Tap() *media.Tap { return s.r.tap }

// Info is Reader.Info.
func (s *Supervised) Info() Info { return s.r.Info() }

// Stats is Reader.Stats.
func (s *Supervised) Stats() Stats { return s.r.Stats() }

// Still is Reader.Still.
func (s *Supervised) Still(seq uint64, width int) ([]byte, error) { return s.r.Still(seq, width) }

// SetSampleRate is Reader.SetSampleRate.
func (s *Supervised) SetSampleRate(fps float64) { s.r.SetSampleRate(fps) }

// Close frees the source. It must not run beside ReadFrame.
func (s *Supervised) Close() error { return s.r.Close() }
