package webrtc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pion "github.com/pion/webrtc/v4"
	"golang.org/x/time/rate"

	"github.com/lookout-video/lookout/event"
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

// The seeds of the fuzz targets are in testdata/fuzz: what Chromium and pion
// send, and what is just beside it.

// FuzzFragment is the body of a PATCH.
func FuzzFragment(f *testing.F) {
	old, err := os.ReadFile("testdata/chromium.sdp")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body string) {
		frag, err := parseFragment(body)
		if err != nil {
			return
		}
		if len(frag.candidates) > 64 {
			t.Errorf("%d candidates", len(frag.candidates))
		}
		offer, err := frag.offer(string(old))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
			return
		}
		if formats, err := parseOffer(offer); err != nil || len(formats) == 0 {
			t.Errorf("a restart that is no offer: %v\n%s", err, offer)
		}
		if sdpValue(offer, "a=ice-ufrag:") != frag.ufrag || sdpValue(offer, "a=ice-pwd:") != frag.pwd || strings.Contains(offer, "a=candidate") {
			t.Errorf("credentials of %+v in\n%s", frag, offer)
		}
		if told, err := fragmentOf(offer); err != nil || !strings.Contains(told, frag.pwd) {
			t.Errorf("%v: %s", err, told)
		}
	})
}

func FuzzOffer(f *testing.F) {
	f.Fuzz(func(t *testing.T, offer string) {
		formats, err := parseOffer(offer)
		if err == nil && len(formats) == 0 || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%d formats, %v", len(formats), err)
		}
		for _, o := range formats {
			got, err := choose(formats, &media.Packet{Codec: o.codec, Data: []byte{0, 0, 1, 0x67, 0x42, 0xe0, 0x1f}})
			if err != nil || got.codec != o.codec {
				t.Errorf("%s is offered and not chosen: %v", o.codec, err)
			}
		}
	})
}

// nobody is a Backend without streams.
type nobody struct{}

func (nobody) Browser(context.Context, string) (*media.Tap, func(), error) {
	return nil, nil, ErrNotFound
}
func (nobody) Ask(context.Context, Question) (*event.Event, error)     { return nil, ErrNotFound }
func (nobody) SetPrompt(context.Context, string, string, string) error { return ErrNotFound }
func (nobody) SetLabels(context.Context, string, []string) error       { return ErrNotFound }
func (nobody) Publish(context.Context, string, media.Codec) (PushSink, error) {
	return nil, ErrNotFound
}

// FuzzControl is a message on the control channel: whatever it is, there is a
// reply, with an error unless it can be done.
func FuzzControl(f *testing.F) {
	s, err := New(Config{Addresses: []string{"127.0.0.1"}, Log: slog.New(slog.DiscardHandler)}, nobody{}, event.NewBus(10))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		v := &viewer{session: s.newSession("yard", false), allowed: func(Action, string) bool { return true }, asking: make(chan struct{}, 2),
			questions: rate.NewLimiter(1, 1), requests: rate.NewLimiter(1, 1), pipes: map[string]*pipe{}, labels: map[string]struct{}{},
			feeds: map[string]*event.Subscription{}, prompts: map[string]struct{}{}}
		p := newPipe(&stuck{}, 10, new(atomic.Uint64))
		v.pipes[ChannelControl] = p
		v.message(pion.DataChannelMessage{IsString: true, Data: data})
		var m Message
		for m.Type != "reply" {
			if err := json.Unmarshal(<-p.queue, &m); err != nil {
				t.Fatal(err)
			}
		}
		var r Request
		bad := json.Unmarshal(data, &r) != nil || r.ID <= 0
		if !bad && m.ID != r.ID || m.Error == nil && (bad || r.Op != "ping" && r.Op != "subscribe" && r.Op != "unsubscribe") || m.Error != nil && m.Error.Code == "internal" {
			t.Errorf("%q: %+v %+v", data, m, m.Error)
		}
		v.hush()
		v.abandon()
	})
}

func FuzzAssembler(f *testing.F) {
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
