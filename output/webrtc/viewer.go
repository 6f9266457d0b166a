package webrtc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	pion "github.com/pion/webrtc/v4"
	"golang.org/x/time/rate"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/output/internal/follow"
)

// PlayRequest is a viewer's wish to watch a stream (WHEP).
type PlayRequest struct {
	Stream string
	Offer  string // SDP
	// After is the Seq of the last event of Stream that the viewer has; what
	// came later is sent first. nil sends the newest.
	After *uint64
	// Allowed says what the viewer may do. nil allows everything.
	Allowed func(a Action, stream string) bool
}

// mtu leaves room for the headers of RTP, SRTP, UDP and IPv6 in 1280 bytes.
const mtu = 1180

// viewer is a session that plays a stream and talks about it.
type viewer struct {
	*session
	allowed func(Action, string) bool
	tap     *media.Tap
	format  offered
	track   *pion.TrackLocalStaticRTP
	sender  *pion.RTPSender
	lostKey chan struct{} // the viewer asks for a key frame
	link    congestion

	questions *rate.Limiter
	requests  *rate.Limiter
	asked     atomic.Int64
	asking    chan struct{}

	after *uint64 // PlayRequest.After

	hearing sync.Mutex                     // held while subscriptions change and while they speak
	feeds   map[string]*event.Subscription // by stream; "" is all
	follow  *follow.Follower

	mu      sync.Mutex
	pipes   map[string]*pipe    // open channels, by label
	labels  map[string]struct{} // those that the viewer has made
	prompts map[string]struct{} // streams that this viewer has its own prompt for
}

// Play begins a session that shows the stream.
func (s *Server) Play(ctx context.Context, r PlayRequest) (_ Answer, err error) {
	formats, err := parseOffer(r.Offer)
	if err != nil {
		return Answer{}, err
	}
	if err := s.reserve(); err != nil {
		return Answer{}, err
	}
	tap, release, err := s.backend.Browser(ctx, r.Stream)
	if err != nil {
		s.unreserve(nil)
		return Answer{}, err
	}
	v := &viewer{
		session: s.newSession(r.Stream, false), allowed: r.Allowed, tap: tap,
		lostKey: make(chan struct{}, 1), asking: make(chan struct{}, 2),
		questions: rate.NewLimiter(rate.Limit(float64(s.cfg.QuestionsPerMinute)/60), max(1, s.cfg.QuestionsPerMinute/4)),
		requests:  rate.NewLimiter(20, 40),
		pipes:     map[string]*pipe{}, labels: map[string]struct{}{}, after: r.After, feeds: map[string]*event.Subscription{},
		prompts: map[string]struct{}{},
	}
	if v.allowed == nil {
		v.allowed = func(Action, string) bool { return true }
	}
	defer func() {
		if err != nil {
			v.abandon()
			release()
			s.unreserve(nil)
		}
	}()
	first, err := firstPacket(ctx, tap)
	if err != nil {
		return Answer{}, &Error{"busy", fmt.Sprintf("stream %s has no picture yet", r.Stream)}
	}
	if v.format, err = choose(formats, first); err != nil {
		return Answer{}, err
	}
	if err := v.open(v.format); err != nil {
		return Answer{}, err
	}
	v.pc.OnDataChannel(v.channel)
	if v.track, err = pion.NewTrackLocalStaticRTP(v.format.capability(), "video", "lookout-"+r.Stream); err != nil {
		return Answer{}, err
	}
	if v.sender, err = v.pc.AddTrack(v.track); err != nil {
		return Answer{}, err
	}
	answer, err := v.settle(ctx, r.Offer)
	if err != nil {
		return Answer{}, err
	}
	v.spawn(v.feedback)
	v.spawn(v.video)
	s.unreserve(v.session)
	go v.run(func() {
		v.hush()
		release()
	})
	return answer, nil
}

// firstPacket waits a little for a key frame: its parameter sets choose the
// format.
func firstPacket(ctx context.Context, tap *media.Tap) (*media.Packet, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	sub := tap.Subscribe()
	defer sub.Close()
	return sub.Next(ctx)
}

// feedback reads what the viewer's player reports.
func (v *viewer) feedback() {
	ssrc := uint32(v.sender.GetParameters().Encodings[0].SSRC)
	for {
		packets, _, err := v.sender.ReadRTCP()
		if err != nil {
			return
		}
		for _, p := range packets {
			switch p := p.(type) {
			case *rtcp.ReceiverReport:
				for _, r := range p.Reports {
					if r.SSRC == ssrc { // not those of what was sent again
						v.link.report(r.FractionLost, time.Now())
					}
				}
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				select {
				case v.lostKey <- struct{}{}:
				default:
				}
			}
		}
	}
}

// congestion finds out from the player's reports that the way to it is too
// narrow. The camera's bits cannot be made fewer, so it gets key frames alone
// for a while: some pictures whole instead of all of them broken.
type congestion struct {
	bad   int // reports in a row that tell of it
	wait  time.Duration
	until atomic.Int64 // key frames alone up to this time, in ns since 1970
}

const (
	tooMuchLost = 64 // of 256 packets
	thinAtLeast = 4 * time.Second
	thinAtMost  = 30 * time.Second
)

// report takes the share of packets, in 256ths, that got lost of late. It is
// for one goroutine.
func (c *congestion) report(lost uint8, now time.Time) {
	if lost < tooMuchLost {
		c.bad = 0
		return
	}
	if c.bad++; c.bad < 2 {
		return
	}
	c.bad = 0
	// Too narrow again so soon: it is tried later.
	if last := time.Unix(0, c.until.Load()); now.Sub(last) < 2*thinAtLeast {
		c.wait = min(2*c.wait, thinAtMost)
	} else {
		c.wait = thinAtLeast
	}
	c.until.Store(now.Add(c.wait).UnixNano())
}

// narrow tells whether it is the time of key frames alone. It is for any
// goroutine.
func (c *congestion) narrow(now time.Time) bool { return now.UnixNano() < c.until.Load() }

// video sends the stream's packets with the stream's own RTP times.
func (v *viewer) video() {
	select {
	case <-v.connected:
	case <-v.ctx.Done():
		return
	}
	var delayID uint8
	for _, e := range v.sender.GetParameters().HeaderExtensions {
		if e.URI == playoutDelay {
			delayID = uint8(e.ID)
		}
	}
	atOnce, _ := rtp.PlayoutDelayExtension{}.Marshal()
	payloader := v.format.payloader()
	seq := uint16(rand.Uint32())
	burst := 0

	sub := v.tap.Subscribe()
	var before, thinned, told uint64 // dropped by earlier subscriptions; left out as the way is narrow; told to the viewer
	var unseen uint64                // came before there was a key frame to begin with
	leave := func() {
		before += sub.Dropped()
		sub.Close()
	}
	defer func() { leave() }()
	var lastKey time.Time
	thin := false
	for {
		p, err := sub.Next(v.ctx)
		if err != nil {
			if errors.Is(err, media.ErrTapClosed) {
				v.end("stream ended")
			}
			return
		}
		if p.Codec != v.format.codec {
			v.end("stream changed its codec")
			return
		}
		select {
		case <-v.lostKey:
			// The key frame is at hand: begin again there instead of asking the
			// camera, which serves others too. Once a second is enough.
			if !thin && time.Since(lastKey) > time.Second {
				leave()
				sub = v.tap.Subscribe()
				continue
			}
		default:
		}
		if v.link.narrow(time.Now()) {
			thin = true
		} else if p.Key {
			thin = false
		}
		if thin && !p.Key {
			thinned++
		}
		if lastKey.IsZero() {
			unseen = sub.Dropped()
		}
		lost := before + sub.Dropped() - unseen + thinned
		v.lostPackets.Store(lost)
		if p.Key {
			lastKey = time.Now()
			if n := lost - told; n > 0 {
				told = lost
				v.send(ChannelEvents, &Message{Type: "lost", Stream: v.stream, Pictures: n, Reason: "slow"})
			}
		} else if thin {
			continue
		}
		payloads := payloader.Payload(mtu, p.Data)
		for i, b := range payloads {
			pkt := &rtp.Packet{
				Header:  rtp.Header{Version: 2, Marker: i == len(payloads)-1, SequenceNumber: seq, Timestamp: p.At.RTP},
				Payload: b,
			}
			seq++
			if delayID != 0 {
				_ = pkt.SetExtension(delayID, atOnce)
			}
			if err := v.track.WriteRTP(pkt); err != nil {
				v.end("connection lost")
				return
			}
			// A joiner gets seconds of video at once. Unpaced, its socket's
			// buffer loses some of them.
			if burst++; burst%16 == 0 {
				select {
				case <-time.After(time.Millisecond):
				case <-v.ctx.Done():
					return
				}
			}
		}
	}
}

// channel takes a data channel that the viewer opened. It is a callback of the
// connection, so it does not wait.
func (v *viewer) channel(dc *pion.DataChannel) {
	var lost *atomic.Uint64
	label := dc.Label()
	switch label {
	case ChannelEvents:
		lost = &v.lostEvents
	case ChannelText:
		lost = &v.lostDeltas
	case ChannelControl:
		lost = new(atomic.Uint64)
	default:
		_ = dc.Close()
		return
	}
	v.mu.Lock()
	_, taken := v.labels[label]
	v.labels[label] = struct{}{}
	v.mu.Unlock()
	if taken {
		_ = dc.Close()
		return
	}
	// Room for the past too, which comes at once.
	p := newPipe(dc, v.srv.cfg.Queue+follow.History, lost)
	if label == ChannelControl {
		// Requests come from a goroutine that does not wait for OnOpen's: there
		// is a way for replies before the first.
		v.register(label, p)
		dc.OnMessage(v.message)
	}
	dc.OnOpen(func() {
		if label != ChannelControl {
			v.begin(label, p)
		}
		// From here on hello is under way: who has it misses nothing.
		v.spawn(func() { p.run(v.ctx.Done()) })
	})
}

// begin makes p the way for events or deltas, and lets the past through it.
func (v *viewer) begin(label string, p *pipe) {
	if label == ChannelEvents {
		b, _ := json.Marshal(&Message{Type: "hello", Protocol: Protocol, Viewer: v.id, Stream: v.stream})
		p.send(b)
	}
	// Registered and subscribed in one step: what a feed for deltas alone
	// hears in between would be taken for said.
	v.hearing.Lock()
	defer v.hearing.Unlock()
	v.register(label, p)
	streams := []string{v.stream}
	for s := range v.feeds {
		streams = append(streams, s)
	}
	if label == ChannelEvents || len(v.feeds) == 0 {
		v.follow = v.newFollower() // no event has been said before
		v.listen(streams, nil)
	}
}

func (v *viewer) register(label string, p *pipe) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pipes[label] = p
}

func (v *viewer) newFollower() *follow.Follower {
	f := &follow.Follower{
		Viewer: v.id, Newest: v.srv.cfg.Replay,
		Allowed: func(stream string) bool { return v.allowed(View, stream) },
		Event:   func(e *event.Event) { v.send(ChannelEvents, &Message{Type: "event", Event: e}) },
		Delta:   func(d *event.Delta) { v.send(ChannelText, &Message{Type: "delta", Delta: d}) },
		Lost: func(stream string, n uint64, why string) {
			v.lostEvents.Add(n)
			v.send(ChannelEvents, &Message{Type: "lost", Stream: stream, Events: n, Reason: why})
		},
	}
	if v.after != nil {
		f.Has(map[string]uint64{v.stream: *v.after})
	}
	return f
}

func (v *viewer) pipe(label string) *pipe {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pipes[label]
}

// send queues m on a channel, if the viewer has opened it. It never waits.
func (v *viewer) send(label string, m *Message) bool {
	p := v.pipe(label)
	if p == nil {
		return false
	}
	b, err := json.Marshal(m)
	if err != nil {
		v.log.Error("message not sent", "type", m.Type, "error", err)
		return false
	}
	p.send(b)
	return true
}
