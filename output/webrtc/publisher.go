package webrtc

import (
	"context"
	"time"

	"github.com/pion/rtcp"
	pion "github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media/samplebuilder"

	"github.com/lookout-video/lookout/media"
)

// keyEvery is how often a publisher is asked for a key frame. Browsers send
// none by themselves, and who joins late starts at one.
const keyEvery = 4 * time.Second

// publisher is a session that takes a camera.
type publisher struct {
	*session
	format  offered
	sink    PushSink
	track   chan *pion.TrackRemote
	lastKey time.Time // of the last request for a key frame after a loss
}

// Publish begins a session whose camera becomes the source of stream (WHIP).
func (s *Server) Publish(ctx context.Context, stream, offer string) (_ Answer, err error) {
	formats, err := parseOffer(offer)
	if err != nil {
		return Answer{}, err
	}
	if err := s.reserve(); err != nil {
		return Answer{}, err
	}
	p := &publisher{session: s.newSession(stream, true), format: formats[0], track: make(chan *pion.TrackRemote, 1)}
	defer func() {
		if err != nil {
			p.abandon()
			if p.sink != nil {
				_ = p.sink.Close()
			}
			s.unreserve(nil)
		}
	}()
	if err := p.open(p.format); err != nil {
		return Answer{}, err
	}
	p.pc.OnTrack(func(t *pion.TrackRemote, _ *pion.RTPReceiver) {
		select {
		case p.track <- t:
		default: // a second camera in one session is not asked for
		}
	})
	answer, err := p.settle(ctx, offer)
	if err != nil {
		return Answer{}, err
	}
	if p.sink, err = s.backend.Publish(ctx, stream, p.format.codec); err != nil {
		return Answer{}, err
	}
	p.spawn(p.receive)
	s.unreserve(p.session)
	go p.run(func() { _ = p.sink.Close() })
	return answer, nil
}

// receive turns the camera's RTP into access units. It ends when the
// connection closes, which ends the track's Read.
func (p *publisher) receive() {
	defer p.end("camera stopped")
	var track *pion.TrackRemote
	select {
	case track = <-p.track:
	case <-p.ctx.Done():
		return
	}
	p.spawn(func() { p.wantKeys(track) })
	// 200 packets hold a large key frame and the time that a resend takes.
	units := samplebuilder.New(200, p.format.depacketizer(), media.ClockRate, samplebuilder.WithMaxTimeDelay(500*time.Millisecond))
	var a assembler
	for {
		pkt, _, err := track.ReadRTP()
		if err != nil {
			return
		}
		units.Push(pkt)
		for sample := units.Pop(); sample != nil; sample = units.Pop() {
			if sample.PrevDroppedPackets > 0 {
				p.lostPackets.Add(uint64(sample.PrevDroppedPackets))
				a.broken = true
			}
			unit := a.unit(p.format.codec, sample.Data, sample.PacketTimestamp, time.Now())
			if unit == nil {
				continue
			}
			if err := p.sink.Write(unit); err != nil {
				p.log.Warn("publication refused", "error", err)
				return
			}
		}
		if a.broken && time.Since(p.lastKey) > 500*time.Millisecond {
			p.lastKey = time.Now()
			p.wantKey(track)
		}
	}
}

func (p *publisher) wantKey(t *pion.TrackRemote) {
	_ = p.pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(t.SSRC())}})
}

func (p *publisher) wantKeys(track *pion.TrackRemote) {
	t := time.NewTicker(keyEvery)
	defer t.Stop()
	for {
		p.wantKey(track)
		select {
		case <-t.C:
		case <-p.ctx.Done():
			return
		}
	}
}
