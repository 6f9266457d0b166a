package ingest

import (
	"math"
	"time"

	"github.com/asticode/go-astiav"
)

// clock puts a source's timestamps on the media clock, which never goes back:
// not over a loop of the file, a reconnect, or a camera that sets its own clock.
type clock struct {
	unit   float64       // nanoseconds of one tick of the source
	base   int64         // the tick that offset stands for
	based  bool          // base is known
	offset time.Duration // media time at base
	last   time.Duration // media time of the newest packet
	step   time.Duration // between two frames, for sources that do not tell
	heard  time.Time     // wall clock of the newest packet
	shown  time.Duration // media time of the newest frame, or -1
}

// Jumps beyond these are no video but a clock that was set.
const (
	backward = time.Second
	forward  = 30 * time.Second
)

// start begins a new run of timestamps, the first of which is at offset.
func (c *clock) start(st *stream, offset time.Duration) {
	c.unit = 1e9 * float64(st.base.Num()) / float64(st.base.Den())
	c.based, c.base, c.offset = false, 0, offset
	if st.par == nil { // the publisher's clock is the media clock
		c.based, c.offset = true, 0
	}
	c.step = 40 * time.Millisecond
	if st.rate > 0 {
		c.step = time.Duration(float64(time.Second) / st.rate)
	}
	c.heard = time.Time{}
}

func (c *clock) of(ts int64) time.Duration {
	d := float64(ts-c.base) * c.unit
	if math.Abs(d) > 1e17 { // three years: nonsense, and near the end of what Duration holds
		return c.last + c.step
	}
	return max(c.offset+time.Duration(math.Round(d)), 0)
}

// packet gives the media time of the next packet.
func (c *clock) packet(pts, dts int64) time.Duration {
	ts := pts
	if ts == astiav.NoPtsValue {
		ts = dts
	}
	now := time.Now()
	silent := now.Sub(c.heard)
	first := c.heard.IsZero()
	c.heard = now
	if ts == astiav.NoPtsValue {
		c.last += c.step
		if !c.based { // timestamps begin behind the packets that had none
			c.offset = c.last + c.step
		}
		return c.last
	}
	if !c.based {
		c.base, c.based = ts, true
	}
	at := c.of(ts)
	if at < c.last-backward || !first && at > c.last+forward && at > c.last+2*silent {
		c.base, c.offset = ts, c.last+c.step
		at = c.offset
	}
	c.last = max(c.last, at)
	return at
}

// frame gives the media time of the next picture out of the decoder.
func (c *clock) frame(ts int64) time.Duration {
	at := c.last
	if ts != astiav.NoPtsValue && c.based {
		at = c.of(ts)
	}
	if at <= c.shown || at > c.last+backward {
		at = max(min(c.shown+c.step, c.last), c.shown+time.Millisecond)
	}
	c.shown = at
	return at
}
