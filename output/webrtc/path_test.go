package webrtc_test

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	pion "github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"

	"github.com/lookout-video/lookout/output/internal/fake"
	"github.com/lookout-video/lookout/output/webrtc"
)

// relay is the network between a server and one client: a NAT that forwards
// what it gets to the server's port, and back.
type relay struct {
	front *net.UDPConn // the client's side
	cut   atomic.Bool  // nothing gets through
	lose  atomic.Int32 // of a hundred packets from the server, so many get lost
	n     atomic.Int32
}

// newRelay listens on host.
func newRelay(t *testing.T, host string, port, server int) *relay {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(host), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: server})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{front: front}
	var client atomic.Pointer[net.UDPAddr]
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := front.ReadFromUDP(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			client.Store(from)
			if !r.cut.Load() {
				_, _ = back.Write(b[:n])
			}
		}
	})
	wg.Go(func() {
		b := make([]byte, 2048)
		for {
			n, err := back.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Small ones are checks and reports: they get through, as on a link that
			// is full of video.
			lost := n > 300 && r.n.Add(1)%100 < r.lose.Load()
			if to := client.Load(); to != nil && !r.cut.Load() && !lost {
				_, _ = front.WriteToUDP(b[:n], to)
			}
		}
	})
	t.Cleanup(func() { front.Close(); back.Close(); wg.Wait() })
	return r
}

// candidate is the relay as the way to the server.
func (r *relay) candidate() pion.ICECandidateInit {
	a := r.front.LocalAddr().(*net.UDPAddr)
	zero := uint16(0)
	return pion.ICECandidateInit{Candidate: fmt.Sprintf("candidate:1 1 udp 2130706431 %s %d typ host", a.IP, a.Port), SDPMLineIndex: &zero}
}

// peer is a client that finds its way as the test tells it.
type peer struct {
	*pion.PeerConnection
	t  *testing.T
	up chan struct{}
}

func newPeer(t *testing.T, set func(*pion.SettingEngine)) *peer {
	t.Helper()
	e := pion.SettingEngine{}
	e.SetIncludeLoopbackCandidate(true)
	e.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	e.SetICETimeouts(2*time.Second, 30*time.Second, 500*time.Millisecond)
	if set != nil {
		set(&e)
	}
	m := &pion.MediaEngine{}
	if err := m.RegisterDefaultCodecs(); err != nil {
		t.Fatal(err)
	}
	pc, err := pion.NewAPI(pion.WithSettingEngine(e), pion.WithMediaEngine(m)).NewPeerConnection(pion.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.GracefulClose() })
	p := &peer{pc, t, make(chan struct{})}
	var once sync.Once
	pc.OnConnectionStateChange(func(s pion.PeerConnectionState) {
		if s == pion.PeerConnectionStateConnected {
			once.Do(func() { close(p.up) })
		}
	})
	return p
}

// must ends the test unless err is nil.
func (p *peer) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// offer is what to send to the server: without candidates, which it would
// otherwise reach past the relay.
func (p *peer) offer(o *pion.OfferOptions) string {
	p.t.Helper()
	offer, err := p.CreateOffer(o)
	p.must(err)
	p.must(p.SetLocalDescription(offer))
	return offer.SDP
}

var iceLines = regexp.MustCompile(`a=(ice-ufrag|ice-pwd):\S+\r\n|a=candidate:[^\r\n]*\r\n|a=end-of-candidates\r\n`)

// take applies the server's answer, and by the ways that it is told, or its own
// when there are none.
func (p *peer) take(answer string, ways ...pion.ICECandidateInit) {
	p.t.Helper()
	if len(ways) > 0 {
		answer = iceLines.ReplaceAllStringFunc(answer, func(l string) string {
			if strings.HasPrefix(l, "a=ice-") {
				return l
			}
			return ""
		})
	}
	p.must(p.SetRemoteDescription(pion.SessionDescription{Type: pion.SDPTypeAnswer, SDP: answer}))
	for _, w := range ways {
		p.must(p.AddICECandidate(w))
	}
}

// retake applies the fragment that answers an ICE restart.
func (p *peer) retake(fragment string, ways ...pion.ICECandidateInit) {
	p.t.Helper()
	answer := p.CurrentRemoteDescription().SDP
	for _, key := range []string{"ice-ufrag", "ice-pwd"} {
		line := regexp.MustCompile(`a=` + key + `:\S+`)
		answer = line.ReplaceAllString(answer, line.FindString(fragment))
	}
	p.take(answer, ways...)
}

func (p *peer) connected() {
	p.t.Helper()
	select {
	case <-p.up:
	case <-time.After(15 * time.Second):
		p.t.Fatal("never connected")
	}
}

// watch makes p a viewer and counts its pictures and what it is told.
func (p *peer) watch() (pictures *atomic.Int64, texts *heard) {
	p.t.Helper()
	pictures, texts = new(atomic.Int64), &heard{}
	p.OnTrack(func(track *pion.TrackRemote, _ *pion.RTPReceiver) {
		for {
			pkt, _, err := track.ReadRTP()
			if err != nil {
				return
			}
			if pkt.Marker {
				pictures.Add(1)
			}
		}
	})
	_, err := p.AddTransceiverFromKind(pion.RTPCodecTypeVideo, pion.RTPTransceiverInit{Direction: pion.RTPTransceiverDirectionRecvonly})
	p.must(err)
	dc, err := p.CreateDataChannel(webrtc.ChannelEvents, nil)
	p.must(err)
	dc.OnMessage(func(m pion.DataChannelMessage) { texts.message(p.t, m.Data) })
	return pictures, texts
}

func freePort(t *testing.T) int {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}

// TestICERestart loses the network under a session and goes on over another
// one: the same session, nothing missed.
func TestICERestart(t *testing.T) {
	port := freePort(t)
	s := newSite(t, webrtc.Config{UDPPort: port}, nil)
	first, second := newRelay(t, "127.0.0.1", 0, port), newRelay(t, "127.0.0.1", 0, port)

	// restart checks the conditions of RFC 9725 and then does it.
	restart := func(t *testing.T, p *peer, a webrtc.Answer) {
		t.Helper()
		before := p.offer(&pion.OfferOptions{ICERestart: true})
		frag := strings.Join(regexp.MustCompile(`a=(?:ice-ufrag|ice-pwd|mid):\S+|m=[^\r\n]+`).FindAllString(before, 4), "\r\n") + "\r\n"
		var e *webrtc.Error
		for match, code := range map[string]string{"": "precondition_required", `"other"`: "precondition_failed"} {
			if _, err := s.Patch(t.Context(), a.Session, match, frag); !errors.As(err, &e) || e.Code != code {
				t.Errorf("If-Match: %s: %v, want %s", match, err, code)
			}
		}
		for _, bad := range []string{"a=ice-ufrag:abcd\r\n", "a=ice-ufrag:abcd\r\na=ice-pwd:short\r\n", "a=ice-ufrag:ab cd\r\na=ice-pwd:0123456789012345678901\r\n"} {
			if _, err := s.Patch(t.Context(), a.Session, "*", bad); !errors.Is(err, webrtc.ErrInvalid) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		b, err := s.Patch(t.Context(), a.Session, "*", frag)
		if err != nil {
			t.Fatal(err)
		}
		if b.ETag == a.ETag || b.Session != a.Session || !strings.Contains(b.SDP, "a=candidate:") || !strings.Contains(b.SDP, "a=ice-pwd:") || strings.Contains(b.SDP, "fingerprint") {
			t.Errorf("restarted: %+v, before %s", b, a.ETag)
		}
		if _, err := s.Patch(t.Context(), a.Session, a.ETag, "a=end-of-candidates\r\n"); !errors.As(err, &e) || e.Code != "precondition_failed" {
			t.Errorf("the ETag of before: %v", err)
		}
		if c, err := s.Patch(t.Context(), a.Session, b.ETag, "a=end-of-candidates\r\n"); err != nil || c.SDP != "" {
			t.Errorf("candidates: %+v, %v", c, err)
		}
		p.retake(b.SDP, second.candidate())
	}

	t.Run("viewer", func(t *testing.T) {
		p := newPeer(t, nil)
		pictures, told := p.watch()
		a, err := s.Play(t.Context(), webrtc.PlayRequest{Stream: "yard", Offer: p.offer(nil)})
		if err != nil {
			t.Fatal(err)
		}
		p.take(a.SDP, first.candidate())
		p.connected()
		say(s.backend, "yard", "before")
		eventually(t, "pictures and words", func() bool { return pictures.Load() > 10 && len(told.seqs("yard")) == 1 })
		first.cut.Store(true)
		say(s.backend, "yard", "meanwhile")
		restart(t, p, a)
		n := pictures.Load()
		eventually(t, "pictures on the other way", func() bool { return pictures.Load() > n+10 })
		say(s.backend, "yard", "after")
		told.gets(t, "yard", 1, 3)
		if s.Stats().Sessions != 1 {
			t.Errorf("%d sessions", s.Stats().Sessions)
		}
	})
	t.Run("publisher", func(t *testing.T) {
		clip, err := fake.LoadVP8("testdata/yard.ivf")
		if err != nil {
			t.Fatal(err)
		}
		p := newPeer(t, nil)
		track, err := pion.NewTrackLocalStaticSample(pion.RTPCodecCapability{MimeType: pion.MimeTypeVP8}, "cam", "cam")
		p.must(err)
		_, err = p.AddTransceiverFromTrack(track, pion.RTPTransceiverInit{Direction: pion.RTPTransceiverDirectionSendonly})
		p.must(err)
		a, err := s.Publish(t.Context(), "phone", p.offer(nil))
		if err != nil {
			t.Fatal(err)
		}
		first.cut.Store(false)
		p.take(a.SDP, first.candidate())
		p.connected()
		sink, n := s.backend.Sink("phone"), 0
		arrive := func(more int) func() bool {
			have, _ := sink.Packets()
			return func() bool {
				p.must(track.WriteSample(media.Sample{Data: clip.Units[n%fake.Frames], Duration: time.Second / fake.FPS}))
				n++
				got, _ := sink.Packets()
				return len(got) > len(have)+more
			}
		}
		eventually(t, "pictures", arrive(20))
		first.cut.Store(true)
		restart(t, p, a)
		eventually(t, "pictures on the other way", arrive(40))
	})
}

// TestNarrowWay has one viewer behind a link that loses most of its video: it
// gets key frames, learns what it lost, and recovers; the other one notices
// nothing.
func TestNarrowWay(t *testing.T) {
	port := freePort(t)
	s := newSite(t, webrtc.Config{UDPPort: port}, nil)
	link := newRelay(t, "127.0.0.1", 0, port)
	other := &collect{units: map[uint32][]byte{}, depay: depacketizer("vp8")}
	s.subscribe(t, "eight", webrtc.SubscribeOptions{OnRTP: other.add})

	p := newPeer(t, nil)
	pictures, told := p.watch()
	a, err := s.Play(t.Context(), webrtc.PlayRequest{Stream: "eight", Offer: p.offer(nil)})
	if err != nil {
		t.Fatal(err)
	}
	p.take(a.SDP, link.candidate())
	p.connected()
	eventually(t, "pictures", func() bool { return pictures.Load() > 10 })
	if n := s.Stats().LostPackets; n != 0 {
		t.Errorf("%d pictures lost before", n)
	}
	link.lose.Store(70)
	var lost uint64
	eventually(t, "word of it", func() bool {
		told.mu.Lock()
		defer told.mu.Unlock()
		lost = 0
		for _, m := range told.lost {
			lost += m.Pictures
		}
		return lost > 0
	})
	if n := s.Stats().LostPackets; n < lost {
		t.Errorf("told of %d pictures, counted %d", lost, n)
	}
	link.lose.Store(0)
	sch := schema(t)
	told.mu.Lock()
	for _, m := range told.lost {
		valid(t, sch, m)
		if m.Reason != "slow" || m.Stream != "eight" || m.Events != 0 {
			t.Errorf("told %+v", m)
		}
	}
	told.mu.Unlock()
	n := pictures.Load()
	eventually(t, "all pictures again", func() bool { return pictures.Load() > n+2*fake.FPS })

	other.mu.Lock()
	defer other.mu.Unlock()
	for i, ts := range other.order {
		if i > 0 && picture(ts) != picture(other.order[i-1])+1 {
			t.Fatalf("the other viewer gets picture %d after %d", picture(ts), picture(other.order[i-1]))
		}
	}
	if behind := s.backend.Newest("eight").Frame - uint64(picture(other.order[len(other.order)-1])); behind > fake.FPS {
		t.Errorf("the other viewer is %d pictures behind", behind)
	}
}

// TestOverTCP has no UDP at all, as behind some firewalls.
func TestOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s := newSite(t, webrtc.Config{TCPPort: port}, nil)
	p := newPeer(t, func(e *pion.SettingEngine) { e.SetNetworkTypes([]pion.NetworkType{pion.NetworkTypeTCP4}) })
	pictures, told := p.watch()
	a, err := s.Play(t.Context(), webrtc.PlayRequest{Stream: "yard", Offer: p.offer(nil)})
	if err != nil {
		t.Fatal(err)
	}
	p.take(a.SDP)
	p.connected()
	say(s.backend, "yard", "over TCP")
	eventually(t, "pictures and words", func() bool { return pictures.Load() > 30 && len(told.seqs("yard")) == 1 })
	pair, err := p.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair.Remote.Protocol != pion.ICEProtocolTCP || int(pair.Remote.Port) != port {
		t.Errorf("the way is %v, %v", pair, err)
	}
}

// TestBehindNAT reaches the server by its public address alone.
func TestBehindNAT(t *testing.T) {
	port := freePort(t)
	const public = "127.0.0.2"
	newRelay(t, public, port, port)
	s := newSite(t, webrtc.Config{UDPPort: port, NATAddresses: []string{public}}, nil)
	p := newPeer(t, nil)
	pictures, _ := p.watch()
	a, err := s.Play(t.Context(), webrtc.PlayRequest{Stream: "yard", Offer: p.offer(nil)})
	if err != nil {
		t.Fatal(err)
	}
	own := regexp.MustCompile(`a=candidate:[^\r\n]* 127\.0\.0\.1 [^\r\n]*\r\n`) // not routed to outside
	p.take(own.ReplaceAllString(a.SDP, ""))
	p.connected()
	eventually(t, "pictures", func() bool { return pictures.Load() > 10 })
	if pair, err := p.SCTP().Transport().ICETransport().GetSelectedCandidatePair(); err != nil || pair.Remote.Address != public {
		t.Errorf("the way is %v, %v", pair, err)
	}
}

// TestHiddenAddresses tells names instead of addresses, and reaches viewers
// that cannot look them up by their own candidates.
func TestHiddenAddresses(t *testing.T) {
	s := newSite(t, webrtc.Config{HideAddresses: true}, nil)
	p := newPeer(t, nil)
	pictures, _ := p.watch()
	gathered := pion.GatheringCompletePromise(p.PeerConnection)
	p.offer(nil)
	<-gathered
	a, err := s.Play(t.Context(), webrtc.PlayRequest{Stream: "yard", Offer: p.LocalDescription().SDP})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(a.SDP, ".local ") {
		t.Errorf("no name in\n%s", a.SDP)
	}
	for line := range strings.Lines(a.SDP) {
		if f := strings.Fields(line); strings.HasPrefix(line, "a=candidate:") && net.ParseIP(f[4]) != nil {
			t.Errorf("an address is told: %s", line)
		}
	}
	p.take(a.SDP)
	p.connected()
	eventually(t, "pictures", func() bool { return pictures.Load() > 10 })
}

// TestFirstRequestIsAnswered: requests come while the other channels are still
// being told of the past, and before the control channel's own OnOpen is done.
func TestFirstRequestIsAnswered(t *testing.T) {
	telling, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s := newSite(t, webrtc.Config{}, nil)
	defer close(goOn)
	say(s.backend, "yard", "a person runs")
	p := newPeer(t, nil)
	p.watch()
	a, err := s.Play(t.Context(), webrtc.PlayRequest{Stream: "yard", Offer: p.offer(nil), Allowed: func(webrtc.Action, string) bool {
		once.Do(func() { close(telling); <-goOn })
		return true
	}})
	p.must(err)
	p.take(a.SDP)
	select {
	case <-telling:
	case <-time.After(15 * time.Second):
		t.Fatal("the past is not told")
	}
	dc, err := p.CreateDataChannel(webrtc.ChannelControl, nil)
	p.must(err)
	replies := make(chan []byte, 1)
	dc.OnMessage(func(m pion.DataChannelMessage) { replies <- m.Data })
	dc.OnOpen(func() { _ = dc.SendText(`{"op":"ping","id":1}`) })
	select {
	case b := <-replies:
		valid(t, schema(t), b)
	case <-time.After(10 * time.Second):
		t.Fatal("the first request has no reply")
	}
}
