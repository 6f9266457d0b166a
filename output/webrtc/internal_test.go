package webrtc

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
)

// stuck is a data channel whose peer acknowledges only what the test lets it.
type stuck struct {
	mu     sync.Mutex
	sent   []string
	amount uint64
	low    func()
}

func (s *stuck) Label() string                        { return ChannelEvents }
func (s *stuck) SetBufferedAmountLowThreshold(uint64) {}
func (s *stuck) OnBufferedAmountLow(f func())         { s.low = f }
func (s *stuck) BufferedAmount() uint64               { s.mu.Lock(); defer s.mu.Unlock(); return s.amount }
func (s *stuck) SendText(t string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, t)
	s.amount += uint64(len(t))
	return nil
}
func (s *stuck) acknowledge() {
	s.mu.Lock()
	s.amount = 0
	s.mu.Unlock()
	s.low()
}
func (s *stuck) messages() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.sent...)
}

func TestSlowViewerLosesAndIsTold(t *testing.T) {
	ch, lost := &stuck{}, new(atomic.Uint64)
	p := newPipe(ch, 10, lost)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { p.run(done) })
	defer wg.Wait()
	defer close(done)

	big := make([]byte, highWater+1)
	for i := range big {
		big[i] = ' '
	}
	p.send(big) // more than may wait inside the connection: the next one waits
	for len(ch.messages()) == 0 || len(p.queue) > 0 {
		time.Sleep(time.Millisecond)
	}
	begun := time.Now()
	for i := range 100 {
		p.send(fmt.Appendf(nil, "%d", i))
	}
	if d := time.Since(begun); d > time.Second {
		t.Errorf("sending to a stuck viewer took %v", d)
	}
	if n := lost.Load(); n < 89 || n > 90 { // ten queued, perhaps one in hand
		t.Errorf("%d lost, want 89 or 90", n)
	}
	var told Message
	for end := time.Now().Add(5 * time.Second); told.Events == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		ch.acknowledge()
		all := ch.messages()
		_ = json.Unmarshal([]byte(all[len(all)-1]), &told)
	}
	if told.Type != "lost" || told.Events != lost.Load() || told.Reason != "slow" {
		t.Errorf("told %+v, lost %d", told, lost.Load())
	}
	for i, m := range ch.messages()[1 : len(ch.messages())-1] {
		if m != fmt.Sprint(i) {
			t.Errorf("message %d is %q", i, m)
		}
	}
}

func TestAssemblerHoldsBackWhatCannotBeDecoded(t *testing.T) {
	sets := []byte{0, 0, 0, 1, 7, 1, 2, 3, 0, 0, 0, 1, 8, 4}
	idr := []byte{0, 0, 0, 1, 0x65, 9, 9}
	p := []byte{0, 0, 0, 1, 0x41, 9}
	var a assembler
	at := func(n int) uint32 { return uint32(n) * 3000 }
	unit := func(n int, parts ...[]byte) *media.Packet {
		var au []byte
		for _, x := range parts {
			au = append(au, x...)
		}
		return a.unit(media.H264, au, at(n), time.Now())
	}
	if unit(0, p) != nil || unit(1, idr) != nil || unit(2, sets) != nil {
		t.Error("units before the first whole key frame got through")
	}
	got := unit(3, idr)
	if got == nil || !got.Key || string(got.Data) != string(sets)+string(idr) {
		t.Fatalf("key frame without its parameter sets: %v", got)
	}
	if got := unit(4, p); got == nil || got.Key || got.At.Media != 4*3000*time.Second/media.ClockRate {
		t.Errorf("picture 4: %+v", got)
	}
	a.broken = true
	if unit(5, p) != nil {
		t.Error("a picture that rests on a lost one got through")
	}
	if got := unit(6, sets, idr); got == nil || string(got.Data) != string(sets)+string(idr) {
		t.Errorf("key frame after a loss: %v", got)
	}
	if got := unit(5, p); got == nil || got.At.Media != 6*3000*time.Second/media.ClockRate {
		t.Errorf("the clock went back: %+v", got)
	}
}

func TestCongestion(t *testing.T) {
	var c congestion
	now := time.Unix(1000, 0)
	narrow := func(after time.Duration, lost ...uint8) bool {
		now = now.Add(after)
		for _, l := range lost {
			c.report(l, now)
		}
		return c.narrow(now)
	}
	for i, step := range []struct {
		after time.Duration
		lost  []uint8
		want  bool
	}{
		{0, []uint8{0, 10, 200, 0, 200}, false}, // a loss now and then
		{0, []uint8{200}, true},
		{thinAtLeast - 1, nil, true},
		{1, nil, false},
		{time.Second, []uint8{64, 64}, true}, // too early: now it is twice as long
		{2*thinAtLeast - 1, nil, true},
		{1, []uint8{64, 64}, true},
		{4*thinAtLeast - 1, nil, true},
		{1, []uint8{64, 64}, true},
		{thinAtMost, nil, false},
		{time.Hour, []uint8{64, 64}, true}, // forgotten
		{thinAtLeast, nil, false},
	} {
		if got := narrow(step.after, step.lost...); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
}

func TestHiddenAlsoWithoutMulticast(t *testing.T) {
	const name = "a=candidate:1 1 udp 2130706431 5e6c.local 40000 typ host\r\n"
	const own = "a=candidate:2 1 udp 2130706431 192.168.1.7 40000 typ host generation 0\r\na=candidate:3 1 tcp 1671430143 fe80::1 9 typ host tcptype passive\r\n"
	const outside = "a=candidate:4 1 udp 1694498815 203.0.113.7 40000 typ srflx raddr 0.0.0.0 rport 40000\r\n"
	if got := hide("v=0\r\n" + name + own + outside); got != "v=0\r\n"+name+outside {
		t.Errorf("told:\n%s", got)
	}
}

func FuzzTrickle(f *testing.F) {
	f.Add("a=ice-ufrag:abcd\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 40000 typ host\r\na=end-of-candidates\r\n")
	f.Add("\n\n=\n")
	f.Fuzz(func(t *testing.T, body string) {
		frag, err := parseFragment(body)
		if err == nil && len(frag.candidates) > 64 {
			t.Errorf("%d candidates", len(frag.candidates))
		}
	})
}

func FuzzOffer(f *testing.F) {
	f.Add("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;profile-level-id=42e01f\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n")
	f.Fuzz(func(t *testing.T, offer string) {
		formats, err := parseOffer(offer)
		if err == nil && len(formats) == 0 {
			t.Error("neither formats nor an error")
		}
	})
}

func FuzzAssembler(f *testing.F) {
	clip, err := os.ReadFile("testdata/yard.h264")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(clip[:2000], uint32(0), true)
	f.Add([]byte{0, 0, 0, 1}, uint32(1<<31), false)
	f.Fuzz(func(t *testing.T, data []byte, rtp uint32, h264 bool) {
		var a assembler
		codec := media.VP8
		if h264 {
			codec = media.H264
		}
		for range 2 {
			if p := a.unit(codec, data, rtp, time.Time{}); p != nil && len(p.Data) < len(data) {
				t.Error("lost data")
			}
		}
	})
}
