package webrtc

import (
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/internal/follow"
)

// subscribe adds streams to what the viewer hears about; "*" is all. after
// holds the Seq of the last event that the viewer has, by stream. It refuses
// more than MaxStreams names: each costs a queue, whether it exists or not.
func (v *viewer) subscribe(streams []string, after map[string]uint64) error {
	v.hearing.Lock()
	defer v.hearing.Unlock()
	n := len(v.feeds)
	for _, s := range streams {
		if s != "*" && v.feeds[s] == nil {
			n++
		}
	}
	if n > MaxStreams || len(after) > follow.MaxStreams {
		return fmt.Errorf("%w streams: more than %d are heard by their names; \"*\" is all", ErrInvalid, MaxStreams)
	}
	v.listen(streams, after)
	return nil
}

// listen is subscribe with hearing held; "" is all, as well.
func (v *viewer) listen(streams []string, after map[string]uint64) {
	if v.follow == nil { // control was first; events, when it opens, begins anew
		v.follow = v.newFollower()
	}
	v.follow.Has(after)
	for _, s := range streams {
		if s == "*" {
			s = ""
		}
		switch {
		case s != "" && v.feeds[""] != nil:
			continue // hears it already
		case s == "":
			// One feed of all takes the others' place. What they had not said
			// yet is in the history.
			for _, f := range v.feeds {
				f.Close()
			}
			clear(v.feeds)
		case v.feeds[s] != nil:
			v.feeds[s].Close()
		}
		f := v.follow.Join(v.srv.bus, s)
		v.feeds[s] = f
		v.spawn(func() {
			for {
				select {
				case it, ok := <-f.C():
					if !ok || !v.hearNow(s, f, it) {
						return
					}
				case <-v.ctx.Done():
					f.Close()
					return
				}
			}
		})
	}
}

// hearNow passes an item of feed f on, unless another feed has taken its place.
func (v *viewer) hearNow(stream string, f *event.Subscription, it event.Item) bool {
	v.hearing.Lock()
	defer v.hearing.Unlock()
	if v.feeds[stream] != f {
		return false
	}
	v.follow.Hear(it)
	return true
}

func (v *viewer) unsubscribe(streams []string) {
	v.hearing.Lock()
	defer v.hearing.Unlock()
	for _, s := range streams {
		if s == "*" {
			s = ""
		}
		if f := v.feeds[s]; f != nil {
			f.Close()
			delete(v.feeds, s)
		}
	}
}

// pipe is the bounded queue in front of one data channel. Who sends never
// waits; what has no room is counted, and the viewer is told.
type pipe struct {
	dc    channelWriter
	label string
	queue chan []byte
	low   chan struct{}
	gone  atomic.Uint64 // lost and not yet told
	lost  *atomic.Uint64
}

// channelWriter is the part of a data channel that a pipe needs.
type channelWriter interface {
	Label() string
	SendText(string) error
	BufferedAmount() uint64
	SetBufferedAmountLowThreshold(uint64)
	OnBufferedAmountLow(func())
}

// highWater is how many bytes may wait inside the connection. More would only
// grow the delay of what is queued behind them.
const highWater = 128 << 10

func newPipe(dc channelWriter, size int, lost *atomic.Uint64) *pipe {
	p := &pipe{dc: dc, label: dc.Label(), queue: make(chan []byte, size), low: make(chan struct{}, 1), lost: lost}
	dc.SetBufferedAmountLowThreshold(highWater / 2)
	dc.OnBufferedAmountLow(func() {
		select {
		case p.low <- struct{}{}:
		default:
		}
	})
	return p
}

func (p *pipe) send(b []byte) {
	select {
	case p.queue <- b:
	default:
		p.gone.Add(1)
		p.lost.Add(1)
	}
}

// run writes until done is closed or the channel is.
func (p *pipe) run(done <-chan struct{}) {
	for {
		var b []byte
		select {
		case b = <-p.queue:
		case <-done:
			return
		}
		for p.dc.BufferedAmount() > highWater {
			select {
			case <-p.low:
			case <-done:
				return
			}
		}
		if p.dc.SendText(string(b)) != nil {
			return
		}
		// What was lost is newer than all that waits: it is told behind that.
		if len(p.queue) > 0 {
			continue
		}
		if n := p.gone.Swap(0); n > 0 {
			m := Message{Type: "lost", Reason: "slow"}
			if p.label == ChannelText {
				m.Deltas = n
			} else {
				m.Events = n
			}
			b, _ := json.Marshal(m)
			if p.dc.SendText(string(b)) != nil {
				return
			}
		}
	}
}
