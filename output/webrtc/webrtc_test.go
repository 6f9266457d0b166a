package webrtc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/rtp"
	pion "github.com/pion/webrtc/v4"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/output/internal/fake"
	"github.com/lookout-video/lookout/output/webrtc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually polls until ok, for at most ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// site is a server with streams and a bare WHEP endpoint in front of it.
type site struct {
	*webrtc.Server
	backend *fake.Backend
	bus     *event.Bus
	whep    string // address of the streams
	client  *http.Client
}

func newSite(t *testing.T, cfg webrtc.Config, allowed func(webrtc.Action, string) bool) *site {
	t.Helper()
	bus := event.NewBus(500)
	b := fake.New(bus)
	cfg.Addresses = []string{"127.0.0.1"}
	cfg.Log = slog.New(slog.DiscardHandler)
	srv, err := webrtc.New(cfg, b, bus)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var players sync.WaitGroup
	play := func(name string, load func(string) (fake.Clip, error), path string) {
		clip, err := load(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(clip.Units) != fake.Frames {
			t.Fatalf("%s has %d pictures", path, len(clip.Units))
		}
		players.Go(func() { b.Start(ctx, name, clip, nil) })
	}
	play("yard", fake.LoadH264, "testdata/yard.h264")
	play("eight", fake.LoadVP8, "testdata/yard.ivf")
	eventually(t, "both streams play", func() bool { return b.Newest("yard").Frame > 0 && b.Newest("eight").Frame > 0 })

	mux := http.NewServeMux()
	mux.HandleFunc("POST /whep/{stream}", func(w http.ResponseWriter, r *http.Request) {
		offer, _ := io.ReadAll(r.Body)
		req := webrtc.PlayRequest{Stream: r.PathValue("stream"), Offer: string(offer), Allowed: allowed}
		if q := r.URL.Query().Get("after"); q != "" {
			n, _ := strconv.ParseUint(q, 10, 64)
			req.After = &n
		}
		a, err := srv.Play(r.Context(), req)
		if err != nil {
			http.Error(w, webrtc.Fault(err).Code, http.StatusBadRequest)
			return
		}
		w.Header().Set("Location", "/session/"+a.Session)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, a.SDP)
	})
	mux.HandleFunc("DELETE /session/{id}", func(w http.ResponseWriter, r *http.Request) {
		if srv.End(r.Context(), r.PathValue("id")) != nil {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	h := httptest.NewServer(mux)
	t.Cleanup(func() {
		done := make(chan struct{})
		go func() { srv.Close(); close(done) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("Close hangs")
		}
		cancel()
		players.Wait()
		h.Client().CloseIdleConnections()
		h.Close()
	})
	return &site{srv, b, bus, h.URL + "/whep/", h.Client()}
}

func (s *site) subscribe(t *testing.T, stream string, o webrtc.SubscribeOptions) *webrtc.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o.HTTP = s.client
	c, err := webrtc.Subscribe(ctx, s.whep+stream, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// collect keeps the access units that RTP packets make up.
type collect struct {
	mu    sync.Mutex
	depay rtp.Depacketizer
	cur   []byte
	units map[uint32][]byte // by RTP time
	order []uint32
}

func (c *collect) add(p *rtp.Packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := c.depay.Unmarshal(p.Payload)
	if err != nil {
		return
	}
	c.cur = append(c.cur, b...)
	if p.Marker {
		c.units[p.Timestamp] = c.cur
		c.order = append(c.order, p.Timestamp)
		c.cur = nil
	}
}

func (c *collect) len() int { c.mu.Lock(); defer c.mu.Unlock(); return len(c.order) }

func TestPicturesKeepTheStreamsClock(t *testing.T) {
	s := newSite(t, webrtc.Config{}, nil)
	for _, c := range []struct {
		stream string
		codec  media.Codec
		load   func(string) (fake.Clip, error)
		path   string
	}{{"yard", media.H264, fake.LoadH264, "testdata/yard.h264"}, {"eight", media.VP8, fake.LoadVP8, "testdata/yard.ivf"}} {
		t.Run(c.stream, func(t *testing.T) {
			clip, err := c.load(c.path)
			if err != nil {
				t.Fatal(err)
			}
			got := &collect{units: map[uint32][]byte{}, depay: depacketizer(c.codec)}
			cl := s.subscribe(t, c.stream, webrtc.SubscribeOptions{OnRTP: got.add})
			eventually(t, "40 pictures arrive", func() bool { return got.len() >= 40 })
			cl.Close()
			if !strings.HasSuffix(strings.ToLower(cl.Stats().Codec), string(c.codec)) {
				t.Errorf("codec %s", cl.Stats().Codec)
			}
			got.mu.Lock()
			defer got.mu.Unlock()
			first := picture(got.order[0])
			if !clip.Key(int(first) % fake.Frames) {
				t.Errorf("begins at picture %d, no key frame", first)
			}
			for i, ts := range got.order {
				n := picture(ts)
				if n != first+uint32(i) {
					t.Fatalf("picture %d has the time of picture %d, begun at %d", i, n, first)
				}
				want := clip.Units[int(n)%fake.Frames]
				if c.codec == media.H264 {
					want = nals(want)
				}
				if !bytes.Equal(got.units[ts], want) {
					t.Fatalf("picture %d: %d bytes, want %d, or others", n, len(got.units[ts]), len(want))
				}
			}
		})
	}
	eventually(t, "nobody watches", func() bool { return s.backend.Watching("yard")+s.backend.Watching("eight") == 0 })
}

// TestPictureLossIsAnsweredAtOnce: the last key frame comes again, though the
// camera sends its next one much later.
func TestPictureLossIsAnsweredAtOnce(t *testing.T) {
	s := newSite(t, webrtc.Config{}, nil)
	var mu sync.Mutex
	var seen []uint32
	c := s.subscribe(t, "yard", webrtc.SubscribeOptions{OnRTP: func(p *rtp.Packet) {
		mu.Lock()
		defer mu.Unlock()
		if n := picture(p.Timestamp); len(seen) == 0 || seen[len(seen)-1] != n {
			seen = append(seen, n)
		}
	}})
	list := func() []uint32 { mu.Lock(); defer mu.Unlock(); return slices.Clone(seen) }
	// In the second half of a group of pictures, more than a second after its key frame.
	eventually(t, "a place far from key frames", func() bool { l := list(); return len(l) > 50 && l[len(l)-1]%30 >= 18 })
	before := list()
	if err := c.RequestKeyFrame(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a step back", func() bool {
		l := list()[len(before):]
		for i, n := range l {
			if i > 0 && n < l[i-1] || i == 0 && n < before[len(before)-1] {
				if n%30 != 0 {
					t.Fatalf("starts over at picture %d, no key frame: %v", n, l)
				}
				return true
			}
		}
		return false
	})
}

func depacketizer(c media.Codec) rtp.Depacketizer { return webrtc.Depacketizer(c) }

// nals is an access unit without its delimiter, all start codes of four bytes.
func nals(au []byte) (out []byte) {
	for _, n := range bytes.Split(bytes.ReplaceAll(au, []byte{0, 0, 0, 1}, []byte{0, 0, 1}), []byte{0, 0, 1}) {
		if len(n) > 0 && n[0]&0x1f != 9 {
			out = append(append(out, 0, 0, 0, 1), n...)
		}
	}
	return out
}

// schema checks messages against the published schema.
func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(webrtc.Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("protocol.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("protocol.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func valid(t *testing.T, s *jsonschema.Schema, v any) {
	t.Helper()
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(doc); err != nil {
		t.Errorf("%s\n%v", b, err)
	}
}

// heard is a viewer's ears.
type heard struct {
	mu     sync.Mutex
	events []*event.Event
	deltas []*event.Delta
	lost   []webrtc.Message
}

func (h *heard) options(after *uint64) webrtc.SubscribeOptions {
	return webrtc.SubscribeOptions{After: after,
		OnEvent: func(e *event.Event) { h.mu.Lock(); h.events = append(h.events, e); h.mu.Unlock() },
		OnDelta: func(d *event.Delta) { h.mu.Lock(); h.deltas = append(h.deltas, d); h.mu.Unlock() },
		OnLost:  func(m webrtc.Message) { h.mu.Lock(); h.lost = append(h.lost, m); h.mu.Unlock() }}
}

// message takes what came on the events channel.
func (h *heard) message(t *testing.T, data []byte) {
	var m webrtc.Message
	if err := json.Unmarshal(data, &m); err != nil {
		t.Error(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch m.Type {
	case "event":
		h.events = append(h.events, m.Event)
	case "lost":
		h.lost = append(h.lost, m)
	}
}

func (h *heard) seqs(stream string) (out []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Data.Stream == stream {
			out = append(out, e.Data.Seq)
		}
	}
	return out
}

func (h *heard) gets(t *testing.T, stream string, first, last uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("event %d of %s", last, stream), func() bool {
		s := h.seqs(stream)
		return len(s) > 0 && s[len(s)-1] == last
	})
	for i, n := range h.seqs(stream) {
		if n != first+uint64(i) {
			t.Fatalf("%s: events %v, want %d to %d", stream, h.seqs(stream), first, last)
		}
	}
}

func say(b *fake.Backend, stream, text string) {
	b.Say(&event.Event{Type: event.TypeDescription, Data: event.Data{Stream: stream, Phase: event.Start, Text: text}})
}

func TestEventsReplayAndFollow(t *testing.T) {
	s := newSite(t, webrtc.Config{Replay: 3}, nil)
	for i := range 10 {
		say(s.backend, "yard", fmt.Sprint("thing ", i+1))
	}
	say(s.backend, "eight", "other")

	var newest, late, all heard
	s.subscribe(t, "yard", newest.options(nil))
	newest.gets(t, "yard", 8, 10)
	four := uint64(4)
	s.subscribe(t, "yard", late.options(&four))
	late.gets(t, "yard", 5, 10)

	c := s.subscribe(t, "yard", all.options(nil))
	all.gets(t, "yard", 8, 10)
	if _, err := c.Do(t.Context(), webrtc.Request{Op: "subscribe", Streams: []string{"*"}, After: map[string]uint64{"eight": 0}}); err != nil {
		t.Fatal(err)
	}
	say(s.backend, "yard", "a person runs")
	say(s.backend, "eight", "a dog sits")
	all.gets(t, "yard", 8, 11)
	all.gets(t, "eight", 1, 2)
	newest.gets(t, "yard", 8, 11)
	if got := newest.seqs("eight"); got != nil {
		t.Errorf("heard of a stream that was not subscribed: %v", got)
	}
	// Once said is once heard, also by who subscribes twice.
	if _, err := c.Do(t.Context(), webrtc.Request{Op: "subscribe", Streams: []string{"yard", "*"}}); err != nil {
		t.Fatal(err)
	}
	say(s.backend, "yard", "last")
	all.gets(t, "yard", 8, 12)
	if _, err := c.Do(t.Context(), webrtc.Request{Op: "unsubscribe", Streams: []string{"*"}}); err != nil {
		t.Fatal(err)
	}
	say(s.backend, "yard", "unheard")
	newest.gets(t, "yard", 8, 13)
	if got := all.seqs("yard"); got[len(got)-1] != 12 {
		t.Errorf("heard %v after unsubscribe", got)
	}

	sch := schema(t)
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, e := range all.events {
		valid(t, sch, webrtc.Message{Type: "event", Event: e})
	}
	var words strings.Builder
	for _, d := range all.deltas {
		valid(t, sch, webrtc.Message{Type: "delta", Delta: d})
		if d.Stream == "yard" && d.EventID == "yard-11" {
			words.WriteString(d.Text)
		}
	}
	if words.String() != "a person runs" {
		t.Errorf("deltas say %q", words.String())
	}
}

func TestTooOldIsTold(t *testing.T) {
	s := newSite(t, webrtc.Config{}, nil)
	for i := range 700 { // the bus keeps 500
		say(s.backend, "yard", fmt.Sprint(i))
	}
	var h heard
	hundred := uint64(100)
	s.subscribe(t, "yard", h.options(&hundred))
	h.gets(t, "yard", 201, 700)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.lost) != 1 || h.lost[0].Events != 100 || h.lost[0].Reason != "history" || h.lost[0].Stream != "yard" {
		t.Errorf("told %+v, want 100 lost of history", h.lost)
	}
	for _, m := range h.lost {
		valid(t, schema(t), m)
	}
}

// TestNumbersThatBeganAnew: a viewer that knows later numbers, of a server whose
// state was lost since, hears what is said now.
func TestNumbersThatBeganAnew(t *testing.T) {
	s := newSite(t, webrtc.Config{}, nil)
	after := uint64(400)
	var early heard
	s.subscribe(t, "yard", early.options(&after))
	for i := range 3 {
		say(s.backend, "yard", fmt.Sprint("thing ", i))
	}
	early.gets(t, "yard", 1, 3)
	var late heard
	s.subscribe(t, "yard", late.options(&after))
	late.gets(t, "yard", 1, 3)
	say(s.backend, "yard", "last")
	early.gets(t, "yard", 1, 4)
	late.gets(t, "yard", 1, 4)
}

func TestControl(t *testing.T) {
	s := newSite(t, webrtc.Config{QuestionsPerMinute: 12}, func(a webrtc.Action, stream string) bool {
		return stream == "yard" || a == webrtc.View && stream == "eight"
	})
	var mine, others heard
	c := s.subscribe(t, "yard", mine.options(nil))
	s.subscribe(t, "yard", others.options(nil))

	m, err := c.Do(t.Context(), webrtc.Request{Op: "ask", Question: " is there a box? ", SinceMS: 4000})
	if err != nil {
		t.Fatal(err)
	}
	if want := fake.Answer("is there a box?"); m.Event.Data.Text != want || m.Event.Data.Prompt.ID != m.Prompt {
		t.Errorf("answer %q to %q, want %q", m.Event.Data.Text, m.Event.Data.Prompt.ID, want)
	}
	mine.gets(t, "yard", 1, 1)
	eventually(t, "the answer's words", func() bool { mine.mu.Lock(); defer mine.mu.Unlock(); return len(mine.deltas) > 5 })
	mine.mu.Lock()
	for _, d := range mine.deltas {
		if d.Prompt.ID != m.Prompt || d.Viewer == "" {
			t.Errorf("delta %+v does not belong to %s", d, m.Prompt)
		}
	}
	mine.mu.Unlock()
	say(s.backend, "yard", "for all")
	others.gets(t, "yard", 2, 2) // the answer was another's
	others.mu.Lock()
	if len(others.lost) > 0 {
		t.Errorf("another's answer counts as lost: %+v", others.lost)
	}
	others.mu.Unlock()

	ping, err := c.Do(t.Context(), webrtc.Request{Op: "ping"})
	if err != nil || time.Since(*ping.Time).Abs() > time.Minute {
		t.Errorf("ping: %+v, %v", ping, err)
	}
	if _, err := c.Do(t.Context(), webrtc.Request{Op: "labels", Labels: []string{"van", " dog ", "van"}}); err != nil {
		t.Error(err)
	}
	if got := s.backend.LabelsOf("yard"); got != "van,dog" {
		t.Errorf("labels %s", got)
	}
	if _, err := c.Do(t.Context(), webrtc.Request{Op: "prompt", Text: "What are the dogs doing?"}); err != nil {
		t.Error(err)
	}
	viewer := m.Event.Data.Viewer
	if s.backend.Prompt(viewer) != "What are the dogs doing?" {
		t.Errorf("prompt %q", s.backend.Prompt(viewer))
	}

	sch := schema(t)
	for name, bad := range map[string]struct {
		r    webrtc.Request
		code string
	}{
		"ask without permission":    {webrtc.Request{Op: "ask", Stream: "eight", Question: "?"}, "forbidden"},
		"labels without permission": {webrtc.Request{Op: "labels", Stream: "eight"}, "forbidden"},
		"stream without permission": {webrtc.Request{Op: "subscribe", Streams: []string{"cellar"}}, "forbidden"},
		"no such op":                {webrtc.Request{Op: "dance"}, "invalid"},
		"empty question":            {webrtc.Request{Op: "ask"}, "invalid"},
		"long question":             {webrtc.Request{Op: "ask", Question: strings.Repeat("é", 501)}, "invalid"},
		"looks too far back":        {webrtc.Request{Op: "ask", Question: "?", SinceMS: 1e8}, "invalid"},
		"no stream named":           {webrtc.Request{Op: "subscribe"}, "invalid"},
		"long label":                {webrtc.Request{Op: "labels", Labels: []string{strings.Repeat("x", 81)}}, "invalid"},
		"too many streams":          {webrtc.Request{Op: "subscribe", Streams: slices.Repeat([]string{"yard"}, webrtc.MaxStreams+1)}, "invalid"},
	} {
		m, err := c.Do(t.Context(), bad.r)
		var e *webrtc.Error
		if !errors.As(err, &e) || e.Code != bad.code {
			t.Errorf("%s: %v, want %s", name, err, bad.code)
		}
		valid(t, sch, m)
	}
	// Two at once, then as many as a minute allows.
	ctx, cancel := context.WithCancel(t.Context())
	for range 2 {
		go c.Do(ctx, webrtc.Request{Op: "ask", Question: "wait"})
	}
	var e *webrtc.Error
	eventually(t, "a bound on questions", func() bool {
		_, err := c.Do(t.Context(), webrtc.Request{Op: "ask", Question: "again"})
		return errors.As(err, &e) && (e.Code == "busy" || e.Code == "rate_limited")
	})
	cancel()
	c.Close()
	eventually(t, "the prompt is taken back", func() bool { return s.backend.Prompt(viewer) == "" })
}

func TestManyViewersAndBounds(t *testing.T) {
	s := newSite(t, webrtc.Config{MaxSessions: 20}, nil)
	heards := make([]heard, 20)
	for i := range heards {
		s.subscribe(t, "yard", heards[i].options(nil))
	}
	if n := s.Stats().Viewers["yard"]; n != 20 {
		t.Fatalf("%d viewers", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := webrtc.Subscribe(ctx, s.whep+"yard", webrtc.SubscribeOptions{HTTP: s.client}); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("the 21st: %v, want busy", err)
	}
	for i := range 5 {
		say(s.backend, "yard", fmt.Sprint("word ", i))
	}
	for i := range heards {
		heards[i].gets(t, "yard", 1, 5)
	}
}

func TestConfigs(t *testing.T) {
	port := func() int {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().(*net.TCPAddr).Port
	}
	for name, c := range map[string]webrtc.Config{
		"one UDP port": {UDPPort: port()},
		"port range":   {UDPPortMin: 41000, UDPPortMax: 41400},
		"TCP as well":  {TCPPort: port()},
		"NAT address":  {NATAddresses: []string{"203.0.113.7"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, c, nil)
			offer := offerOf(t, pion.RTPTransceiverDirectionRecvonly)
			a, err := s.Play(t.Context(), webrtc.PlayRequest{Stream: "yard", Offer: offer})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{
				"one UDP port": fmt.Sprint("127.0.0.1 ", c.UDPPort, " typ host"), "port range": " 41", "TCP as well": fmt.Sprint(c.TCPPort, " typ host tcptype passive"), "NAT address": "203.0.113.7",
			}[name]
			if !strings.Contains(a.SDP, want) {
				t.Errorf("no candidate with %q in\n%s", want, a.SDP)
			}
			for _, line := range strings.Split(a.SDP, "\n") {
				if strings.HasPrefix(line, "a=candidate") && !strings.Contains(line, "127.0.0.1") && !strings.Contains(line, "203.0.113.7") {
					t.Errorf("a candidate outside of the addresses: %s", line)
				}
			}
			if _, err := s.Patch(t.Context(), a.Session, a.ETag, "m=video 9 UDP 0\r\na=mid:0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 40000 typ host\r\n"); err != nil {
				t.Errorf("candidate: %v", err)
			}
			if err := s.End(t.Context(), a.Session); err != nil {
				t.Error(err)
			}
			if err := s.End(t.Context(), a.Session); !errors.Is(err, webrtc.ErrNotFound) {
				t.Errorf("ended twice: %v", err)
			}
			cl := s.subscribe(t, "yard", webrtc.SubscribeOptions{})
			eventually(t, "pictures", func() bool { return cl.Stats().Pictures > 5 })
		})
	}
	for _, c := range []webrtc.Config{{Addresses: []string{"localhost"}}, {HideAddresses: true, UDPPort: 9}, {UDPPortMin: 9, UDPPortMax: 8},
		{ICEServers: []webrtc.ICEServer{{URLs: []string{"turn:127.0.0.1"}}}}, {ICEServers: []webrtc.ICEServer{{URLs: []string{"http://127.0.0.1"}}}}} {
		if s, err := webrtc.New(c, nil, nil); err == nil {
			s.Close()
			t.Errorf("%+v: no error", c)
		}
	}
}

func TestBadOffers(t *testing.T) {
	s := newSite(t, webrtc.Config{ConnectTimeout: 300 * time.Millisecond}, nil)
	good := offerOf(t, pion.RTPTransceiverDirectionRecvonly)
	for name, c := range map[string]struct {
		stream, offer string
		want          error
	}{
		"no SDP":      {"yard", "hello", webrtc.ErrInvalid},
		"empty":       {"yard", "", webrtc.ErrInvalid},
		"no H.264":    {"yard", strings.ReplaceAll(good, "H264", "H265"), webrtc.ErrInvalid},
		"no ICE":      {"yard", strings.ReplaceAll(good, "a=ice-", "a=not-"), webrtc.ErrInvalid},
		"unknown":     {"cellar", good, webrtc.ErrNotFound},
		"no video":    {"yard", strings.Split(good, "m=video")[0], webrtc.ErrInvalid},
		"mode 0 only": {"yard", strings.ReplaceAll(good, "packetization-mode=1", "packetization-mode=0"), webrtc.ErrInvalid},
	} {
		if _, err := s.Play(t.Context(), webrtc.PlayRequest{Stream: c.stream, Offer: c.offer}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := s.Play(t.Context(), webrtc.PlayRequest{Stream: "yard", Offer: good}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "who never connects is gone", func() bool { return len(s.Stats().Viewers) == 0 })
	if n := s.backend.Watching("yard"); n != 0 {
		t.Errorf("%d still watch", n)
	}
}

func offerOf(t *testing.T, dir pion.RTPTransceiverDirection) string {
	t.Helper()
	pc, err := pion.NewPeerConnection(pion.Configuration{})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.GracefulClose()
	if _, err := pc.AddTransceiverFromKind(pion.RTPCodecTypeVideo, pion.RTPTransceiverInit{Direction: dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := pc.CreateDataChannel("events", nil); err != nil {
		t.Fatal(err)
	}
	o, err := pc.CreateOffer(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := pc.SetLocalDescription(o); err != nil {
		t.Fatal(err)
	}
	return pc.LocalDescription().SDP
}

// TestPublish sends clips as a camera does and wants them back, unit by unit.
func TestPublish(t *testing.T) {
	for _, c := range []struct {
		codec media.Codec
		mime  string
		fmtp  string
		load  func(string) (fake.Clip, error)
		path  string
	}{
		{media.H264, pion.MimeTypeH264, "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f", fake.LoadH264, "testdata/yard.h264"},
		{media.VP8, pion.MimeTypeVP8, "", fake.LoadVP8, "testdata/yard.ivf"},
	} {
		t.Run(string(c.codec), func(t *testing.T) {
			s := newSite(t, webrtc.Config{}, nil)
			clip, err := c.load(c.path)
			if err != nil {
				t.Fatal(err)
			}
			m := &pion.MediaEngine{}
			capability := pion.RTPCodecCapability{MimeType: c.mime, ClockRate: 90000, SDPFmtpLine: c.fmtp}
			if err := m.RegisterCodec(pion.RTPCodecParameters{RTPCodecCapability: capability, PayloadType: 96}, pion.RTPCodecTypeVideo); err != nil {
				t.Fatal(err)
			}
			e := pion.SettingEngine{}
			e.SetIncludeLoopbackCandidate(true)
			pc, err := pion.NewAPI(pion.WithMediaEngine(m), pion.WithSettingEngine(e)).NewPeerConnection(pion.Configuration{})
			if err != nil {
				t.Fatal(err)
			}
			defer pc.GracefulClose()
			track, err := pion.NewTrackLocalStaticRTP(capability, "cam", "cam")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pc.AddTrack(track); err != nil {
				t.Fatal(err)
			}
			up := make(chan struct{})
			pc.OnConnectionStateChange(func(s pion.PeerConnectionState) {
				if s == pion.PeerConnectionStateConnected {
					close(up)
				}
			})
			o, err := pc.CreateOffer(nil)
			if err != nil {
				t.Fatal(err)
			}
			gathered := pion.GatheringCompletePromise(pc)
			if err := pc.SetLocalDescription(o); err != nil {
				t.Fatal(err)
			}
			<-gathered
			offer := pc.LocalDescription().SDP
			a, err := s.Publish(t.Context(), "phone", offer)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Publish(t.Context(), "phone", offer); !errors.Is(err, webrtc.ErrExists) {
				t.Errorf("a second publisher: %v, want ErrExists", err)
			}
			if err := pc.SetRemoteDescription(pion.SessionDescription{Type: pion.SDPTypeAnswer, SDP: a.SDP}); err != nil {
				t.Fatal(err)
			}
			<-up
			if n := s.Stats().Publishers["phone"]; n != 1 {
				t.Errorf("%d publishers", n)
			}
			payloader := webrtc.Payloader(c.codec)
			seq, base := uint16(65500), uint32(1<<32-90000) // both wrap on the way
			send := func(n int, drop bool) {
				payloads := payloader.Payload(1200, clip.Units[n%fake.Frames])
				for i, b := range payloads {
					p := &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, Timestamp: base + uint32(n)*6000, Marker: i == len(payloads)-1}, Payload: b}
					seq++
					if !drop {
						if err := track.WriteRTP(p); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			sink := s.backend.Sink("phone")
			got := func() []*media.Packet { p, _ := sink.Packets(); return p }
			send(5, false) // no key frame: cannot be decoded, must not arrive
			n := 30
			eventually(t, "45 units", func() bool { send(n, false); n++; return len(got()) >= 45 })
			units := got()
			if !units[0].Key {
				t.Error("the first unit is no key frame")
			}
			for i, p := range units {
				want := clip.Units[(30+i)%fake.Frames]
				if c.codec == media.H264 {
					want = nals(want)
				}
				if !bytes.Equal(p.Data, want) || p.Codec != c.codec || p.Key != clip.Key((30+i)%fake.Frames) {
					t.Fatalf("unit %d differs: %d bytes, want %d; key %v", i, len(p.Data), len(want), p.Key)
				}
				if i > 0 && p.At.Media-units[i-1].At.Media != (time.Second/fake.FPS).Truncate(0) && (p.At.Media-units[i-1].At.Media-time.Second/fake.FPS).Abs() > time.Microsecond {
					t.Fatalf("unit %d comes %v after the one before", i, p.At.Media-units[i-1].At.Media)
				}
			}
			if err := s.End(t.Context(), a.Session); err != nil {
				t.Fatal(err)
			}
			if _, closed := sink.Packets(); !closed {
				t.Error("the sink is left open")
			}
		})
	}
}

// picture is the number of the picture with an RTP time, which is rounded down.
func picture(ts uint32) uint32 {
	const step = media.ClockRate / fake.FPS
	return (ts + step/2) / step
}
