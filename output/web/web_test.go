package web_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/internal/fake"
	"github.com/lookout-video/lookout/output/web"
	"github.com/lookout-video/lookout/output/webrtc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// backend is a web.Backend over the fake cameras.
type backend struct {
	*fake.Backend
	dir string // of the clip's stills

	mu      sync.Mutex
	infos   []web.StreamInfo
	configs map[string]string
	ready   error
	past    []*event.Event
}

func newBackend(bus *event.Bus) *backend {
	return &backend{Backend: fake.New(bus), dir: "../webrtc/testdata", configs: map[string]string{}}
}

func (b *backend) Streams() []web.StreamInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Clone(b.infos)
	for name := range b.Published() {
		out = append(out, web.StreamInfo{Name: name, State: "live", Codec: "vp8"})
	}
	return out
}

func (b *backend) set(name string, change func(*web.StreamInfo)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.infos, func(s web.StreamInfo) bool { return s.Name == name })
	if i < 0 {
		b.infos = append(b.infos, web.StreamInfo{Name: name, State: "live"})
		i = len(b.infos) - 1
	}
	change(&b.infos[i])
}

func (b *backend) AddStream(_ context.Context, c json.RawMessage) (web.StreamInfo, error) {
	var in struct{ Name, URL string }
	if err := json.Unmarshal(c, &in); err != nil || in.Name == "" {
		return web.StreamInfo{}, fmt.Errorf("name: %w", webrtc.ErrInvalid)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.configs[in.Name]; ok {
		return web.StreamInfo{}, fmt.Errorf("stream %s: %w", in.Name, webrtc.ErrExists)
	}
	b.configs[in.Name] = string(c)
	info := web.StreamInfo{Name: in.Name, Source: in.URL, State: "connecting"}
	b.infos = append(b.infos, info)
	return info, nil
}

func (b *backend) ChangeStream(_ context.Context, name string, patch json.RawMessage) (web.StreamInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.configs[name]; !ok {
		return web.StreamInfo{}, fmt.Errorf("stream %s: %w", name, webrtc.ErrNotFound)
	}
	b.configs[name] = string(patch)
	return web.StreamInfo{Name: name, State: "connecting"}, nil
}

func (b *backend) RemoveStream(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.configs[name]; !ok {
		return fmt.Errorf("stream %s: %w", name, webrtc.ErrNotFound)
	}
	delete(b.configs, name)
	b.infos = slices.DeleteFunc(b.infos, func(s web.StreamInfo) bool { return s.Name == name })
	return nil
}

func (b *backend) Still(_ context.Context, stream string, frame uint64, _ int) ([]byte, error) {
	if _, err := b.Tap(stream); err != nil {
		return nil, err
	}
	if frame == 0 {
		frame = b.Newest(stream).Frame
	}
	return os.ReadFile(filepath.Join(b.dir, fmt.Sprintf("yard-%d.jpg", frame/fake.FPS%8)))
}

func (b *backend) Search(_ context.Context, q, stream string, k int) (hits []web.Hit, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q == "explode" {
		return nil, errors.New("dial redis://user:hunter2@10.0.0.1: refused")
	}
	for _, e := range b.past {
		if strings.Contains(e.Data.Text, q) && (stream == "" || e.Data.Stream == stream) && len(hits) < k {
			hits = append(hits, web.Hit{Event: e, Score: 1})
		}
	}
	return hits, nil
}

func (b *backend) Ready() error { b.mu.Lock(); defer b.mu.Unlock(); return b.ready }

var _ web.Backend = (*backend)(nil)

// house is a running server with streams.
type house struct {
	*backend
	bus  *event.Bus
	srv  *web.Server
	url  string
	log  *bytes.Buffer
	stop func()
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// play runs a clip as a stream until the test ends.
func (b *backend) play(t *testing.T, name string, load func(string) (fake.Clip, error), path string, words func(uint64) string) {
	t.Helper()
	clip, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { b.Start(ctx, name, clip, words) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	b.set(name, func(s *web.StreamInfo) {
		s.Codec, s.Width, s.Height, s.FPS, s.LookFPS = string(clip.Codec), 640, 360, fake.FPS, 4
	})
	eventually(t, name+" plays", func() bool { return b.Newest(name).Frame > 0 })
}

// open starts a server on b. It is stopped with the test, or before by stop.
func open(t *testing.T, cfg web.Config, b *backend, bus *event.Bus) *house {
	t.Helper()
	h := &house{backend: b, bus: bus, log: &bytes.Buffer{}}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	cfg.Log = slog.New(slog.NewTextHandler(&lockedWriter{w: h.log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.WebRTC.Addresses = []string{"127.0.0.1"}
	srv, err := web.New(cfg, b, bus)
	if err != nil {
		t.Fatal(err)
	}
	h.srv, h.url = srv, srv.URL()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the server does not stop")
		}
		http.DefaultClient.CloseIdleConnections()
	})
	t.Cleanup(h.stop)
	return h
}

func newHouse(t *testing.T, cfg web.Config) *house {
	t.Helper()
	bus := event.NewBus(200)
	return open(t, cfg, newBackend(bus), bus)
}

// req makes a request; header is "Name: value".
func (h *house) req(t *testing.T, method, path, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, h.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range headers {
		k, v, _ := strings.Cut(x, ": ")
		if k == "Host" {
			r.Host = v
		} else {
			r.Header.Set(k, v)
		}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

func (h *house) want(t *testing.T, status int, method, path, body string, headers ...string) string {
	t.Helper()
	got, _, text := h.req(t, method, path, body, headers...)
	if got != status {
		t.Errorf("%s %s: %d, want %d\n%.300s", method, path, got, status, text)
	}
	return text
}

func say(b *backend, stream, text string) {
	b.Say(&event.Event{Type: event.TypeDescription, Data: event.Data{Stream: stream, Phase: event.Start, Text: text}})
}

func TestEveryRouteIsDocumented(t *testing.T) {
	h := newHouse(t, web.Config{})
	var doc struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	if err := yaml.Unmarshal([]byte(h.want(t, 200, "GET", "/api/openapi.yaml", "")), &doc); err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for path, ops := range doc.Paths {
		for op := range ops {
			if op != "parameters" {
				documented = append(documented, strings.ToUpper(op)+" "+path)
			}
		}
	}
	served = append(served, h.srv.Routes()...)
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("documented:\n%s\nserved:\n%s", strings.Join(documented, "\n"), strings.Join(served, "\n"))
	}
	refs := regexp.MustCompile(`#/components/(\w+)/(\w+)`).FindAllStringSubmatch(string(web.OpenAPI), -1)
	var parts struct {
		Components map[string]map[string]any `yaml:"components"`
	}
	if err := yaml.Unmarshal(web.OpenAPI, &parts); err != nil {
		t.Fatal(err)
	}
	for _, r := range refs {
		if parts.Components[r[1]][r[2]] == nil {
			t.Errorf("%s is not there", r[0])
		}
	}
}

func TestAPI(t *testing.T) {
	h := newHouse(t, web.Config{Version: "test"})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	h.want(t, 200, "GET", "/healthz", "")
	h.want(t, 200, "GET", "/readyz", "")
	h.mu.Lock()
	h.ready = errors.New("the model is being loaded")
	h.mu.Unlock()
	if body := h.want(t, 503, "GET", "/readyz", ""); !strings.Contains(body, "being loaded") {
		t.Errorf("readyz: %s", body)
	}
	if body := h.want(t, 200, "GET", "/api/streams", ""); !strings.Contains(body, `"name":"yard"`) || !strings.Contains(body, `"can":["view","publish","ask"]`) {
		t.Errorf("streams: %s", body)
	}
	h.want(t, 200, "GET", "/api/streams/yard", "")
	h.want(t, 404, "GET", "/api/streams/cellar", "")
	h.want(t, 201, "POST", "/api/streams", `{"name":"gate","url":"rtsp://x"}`)
	h.want(t, 409, "POST", "/api/streams", `{"name":"gate","url":"rtsp://x"}`)
	h.want(t, 400, "POST", "/api/streams", `{"url":1}`)
	h.want(t, 400, "POST", "/api/streams", `[]`)
	h.want(t, 400, "POST", "/api/streams", `{"name":"x"} {}`)
	h.want(t, 200, "PATCH", "/api/streams/gate", `{"fps":2}`)
	h.want(t, 404, "PATCH", "/api/streams/cellar", `{"fps":2}`)
	h.want(t, 204, "DELETE", "/api/streams/gate", "")
	h.want(t, 404, "DELETE", "/api/streams/gate", "")

	var ev event.Event
	if err := json.Unmarshal([]byte(h.want(t, 200, "POST", "/api/streams/yard/ask", `{"question":"is it dark?"}`)), &ev); err != nil || ev.Data.Text != fake.Answer("is it dark?") {
		t.Errorf("answer %+v, %v", ev.Data, err)
	}
	h.want(t, 400, "POST", "/api/streams/yard/ask", `{"question":" "}`)
	h.want(t, 400, "POST", "/api/streams/yard/ask", `{"question":"?","since_ms":-1}`)
	h.want(t, 400, "POST", "/api/streams/yard/ask", `{"question":"?","sincems":1}`)
	h.want(t, 404, "POST", "/api/streams/cellar/ask", `{"question":"?"}`)
	body := h.want(t, 200, "POST", "/api/streams/yard/ask", `{"question":"is it wet?"}`, "Accept: text/event-stream")
	var words strings.Builder
	for _, m := range regexp.MustCompile(`event: delta\ndata: (.*)\n`).FindAllStringSubmatch(body, -1) {
		var d event.Delta
		if err := json.Unmarshal([]byte(m[1]), &d); err != nil {
			t.Fatal(err)
		}
		words.WriteString(d.Text)
	}
	if words.String() != fake.Answer("is it wet?") || !strings.Contains(body, "event: event\n") {
		t.Errorf("streamed answer %q in\n%s", words.String(), body)
	}

	h.want(t, 200, "PUT", "/api/streams/yard/labels", `{"labels":["a red van"]}`)
	h.want(t, 400, "PUT", "/api/streams/yard/labels", `{"labels":[""]}`)
	_, head, jpg := h.req(t, "GET", "/api/streams/yard/frames/latest.jpg?width=320", "")
	if head.Get("Content-Type") != "image/jpeg" || !strings.HasPrefix(jpg, "\xff\xd8") || head.Get("Cache-Control") != "no-store" {
		t.Errorf("latest.jpg: %v", head)
	}
	if _, head, _ := h.req(t, "GET", "/api/streams/yard/frames/30.jpg", ""); !strings.Contains(head.Get("Cache-Control"), "immutable") {
		t.Errorf("30.jpg: %v", head)
	}
	h.want(t, 400, "GET", "/api/streams/yard/frames/30.png", "")
	h.want(t, 400, "GET", "/api/streams/yard/frames/-1.jpg", "")
	h.want(t, 400, "GET", "/api/streams/yard/frames/1.jpg?width=1", "")
	h.want(t, 404, "GET", "/api/streams/cellar/frames/latest.jpg", "")

	h.mu.Lock()
	h.past = []*event.Event{{ID: "1", Data: event.Data{Stream: "yard", Text: "A red van stops."}}}
	h.mu.Unlock()
	if body := h.want(t, 200, "GET", "/api/search?q=red+van", ""); !strings.Contains(body, "A red van stops.") {
		t.Errorf("search: %s", body)
	}
	if body := h.want(t, 200, "GET", "/api/search?q=zebra", ""); body != "{\"hits\":[]}\n" {
		t.Errorf("search: %s", body)
	}
	h.want(t, 400, "GET", "/api/search?q=", "")
	h.want(t, 400, "GET", "/api/search?q=x&k=1000", "")
	if body := h.want(t, 500, "GET", "/api/search?q=explode", ""); strings.Contains(body, "redis") {
		t.Errorf("an inner error is told: %s", body)
	}
	if !strings.Contains(h.want(t, 200, "GET", "/metrics", ""), "lookout_web_sessions_total 0") {
		t.Error("no metrics")
	}
	h.want(t, 404, "PATCH", "/whep/yard/x", "", "Content-Type: application/trickle-ice-sdpfrag")
	h.want(t, 404, "DELETE", "/whep/yard/x", "")
	h.want(t, 400, "POST", "/whep/yard", "v=0")
	h.want(t, 400, "POST", "/whep/yard", "v=0", "Content-Type: application/sdp")
	h.want(t, 400, "POST", "/api/streams", `{"name":"`+strings.Repeat("x", 300<<10)+`"}`)
}

// TestPatch goes through the conditions of RFC 9725, section 4.3.
func TestPatch(t *testing.T) {
	h := newHouse(t, web.Config{})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	offer := "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\n" +
		"a=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdef012345\r\na=setup:actpass\r\na=fingerprint:sha-256 " + strings.Repeat("00:", 31) + "00\r\n" +
		"a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;profile-level-id=42e01f\r\n"
	code, head, body := h.req(t, "POST", "/whep/yard", offer, "Content-Type: application/sdp")
	path, etag := head.Get("Location"), head.Get("ETag")
	if code != 201 || etag == "" || head.Get("Accept-Patch") != "application/trickle-ice-sdpfrag" {
		t.Fatalf("%d %v %s", code, head, body)
	}
	const kind = "Content-Type: application/trickle-ice-sdpfrag"
	const candidate = "a=ice-ufrag:abcd\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 40000 typ host\r\n"
	const restart = "a=ice-ufrag:efgh\r\na=ice-pwd:0123456789abcdefABCDEF\r\n"
	h.want(t, 415, "PATCH", path, candidate, "If-Match: "+etag)
	h.want(t, 428, "PATCH", path, candidate, kind)
	h.want(t, 412, "PATCH", path, candidate, kind, `If-Match: "of-before"`)
	h.want(t, 400, "PATCH", path, "nonsense", kind, "If-Match: "+etag)
	h.want(t, 404, "PATCH", strings.Replace(path, "/whep/", "/whip/", 1), candidate, kind, "If-Match: "+etag)
	h.want(t, 204, "PATCH", path, candidate, kind, "If-Match: "+etag)
	h.want(t, 400, "PATCH", path, "a=ice-ufrag:efgh\r\n", kind, "If-Match: *") // and the session stays
	code, head, body = h.req(t, "PATCH", path, restart, kind, "If-Match: *")
	if code != 200 || head.Get("ETag") == "" || head.Get("ETag") == etag || head.Get("Content-Type") != "application/trickle-ice-sdpfrag" || !strings.Contains(body, "a=ice-pwd:") {
		t.Fatalf("restart: %d %v %s", code, head, body)
	}
	h.want(t, 412, "PATCH", path, candidate, kind, "If-Match: "+etag)
	h.want(t, 204, "PATCH", path, strings.Replace(candidate, "abcd", "efgh", 1), kind, "If-Match: "+head.Get("ETag"))
	h.want(t, 200, "DELETE", path, "", `If-Match: "of-before"`) // ignored here
}

// follower reads server-sent events.
type follower struct {
	t    *testing.T
	r    *bufio.Reader
	body io.Closer
	id   string
}

func (h *house) follow(t *testing.T, query string, headers ...string) *follower {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", h.url+"/api/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range headers {
		k, v, _ := strings.Cut(x, ": ")
		r.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 {
		t.Fatalf("events: %s", res.Status)
	}
	t.Cleanup(func() { res.Body.Close() })
	return &follower{t, bufio.NewReader(res.Body), res.Body, ""}
}

// next reads up to the next message named name.
func (f *follower) next(name string, into any) {
	f.t.Helper()
	event := ""
	for {
		line, err := f.r.ReadString('\n')
		if err != nil {
			f.t.Fatalf("events: %v", err)
		}
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch k {
		case "event":
			event = v
		case "id":
			f.id = v
		case "data":
			if event == name {
				if err := json.Unmarshal([]byte(v), into); err != nil {
					f.t.Fatal(err)
				}
				return
			}
		}
	}
}

func (f *follower) texts(n int) (out []string) {
	f.t.Helper()
	for range n {
		var e event.Event
		f.next("event", &e)
		out = append(out, e.Data.Text)
	}
	return out
}

func TestServerSentEventsResume(t *testing.T) {
	h := newHouse(t, web.Config{Replay: 2})
	for i := range 5 {
		say(h.backend, "yard", fmt.Sprint("y", i+1))
	}
	say(h.backend, "ga:te,", "g1") // a name that must be escaped in the position
	f := h.follow(t, "")
	if got := fmt.Sprint(f.texts(3)); got != "[y4 y5 g1]" {
		t.Errorf("who has nothing gets %s", got)
	}
	var d event.Delta
	say(h.backend, "yard", "y6")
	if f.next("delta", &d); d.Text != "y6" {
		t.Errorf("delta %+v", d)
	}
	f.texts(1)
	f.body.Close()
	say(h.backend, "yard", "y7")
	say(h.backend, "ga:te,", "g2")
	h.Say(&event.Event{Type: event.TypeAnswer, Data: event.Data{Stream: "yard", Text: "private", Viewer: "somebody"}})
	say(h.backend, "yard", "y9")
	for _, again := range []*follower{h.follow(t, "", "Last-Event-ID: "+f.id), h.follow(t, "?after="+strings.ReplaceAll(strings.ReplaceAll(f.id, "%", "%25"), "+", "%2B"))} {
		if got := fmt.Sprint(again.texts(3)); got != "[y7 g2 y9]" {
			t.Errorf("after %q: %s", f.id, got)
		}
	}
	one := h.follow(t, "?stream=yard&after=yard:6")
	if got := fmt.Sprint(one.texts(2)); got != "[y7 y9]" {
		t.Errorf("one stream: %s", got)
	}
	for i := range 300 {
		say(h.backend, "yard", fmt.Sprint("z", i))
	}
	var lost webrtc.Message
	late := h.follow(t, "?after=yard:6")
	if late.next("lost", &lost); lost.Events != 309-200-6 || lost.Reason != "history" {
		t.Errorf("lost %+v, want %d", lost, 309-200-6)
	}
	h.want(t, 400, "GET", "/api/events?after=nonsense", "")
}

func TestTooManyReaders(t *testing.T) {
	h := newHouse(t, web.Config{MaxSubscribers: 2})
	h.follow(t, "")
	h.follow(t, "")
	h.want(t, 503, "GET", "/api/events", "")
}

func TestAccess(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("open sesame"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	const token = "0123456789abcdef"
	h := newHouse(t, web.Config{Accounts: []web.Account{
		{Token: token},
		{User: "guard", Hash: string(hash), Allow: map[string][]webrtc.Action{"yard": {webrtc.View}, "door": {webrtc.View, webrtc.Ask, webrtc.Publish}}},
	}, Origins: []string{"https://cameras.example.com"}})
	for _, s := range []string{"yard", "door", "safe"} {
		h.play(t, s, fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	}
	bearer, basic := "Authorization: Bearer "+token, "Authorization: Basic Z3VhcmQ6b3BlbiBzZXNhbWU="

	for _, path := range []string{"/healthz", "/readyz", "/", "/app.js", "/api/openapi.yaml"} {
		h.want(t, 200, "GET", path, "")
	}
	for _, r := range h.srv.Routes() {
		method, path, _ := strings.Cut(r, " ")
		if slices.Contains([]string{"/healthz", "/readyz", "/", "/api/openapi.yaml", "/api/protocol.schema.json"}, path) || path == "/api/session" && method != "GET" {
			continue
		}
		h.want(t, 401, method, strings.NewReplacer("{stream}", "yard", "{session}", "x", "{frame}", "latest.jpg").Replace(path), "")
	}
	h.want(t, 401, "GET", "/api/streams", "", "Authorization: Bearer wrong-token")
	h.want(t, 401, "GET", "/api/streams", "", "Authorization: Basic Z3VhcmQ6d3Jvbmc=")
	if body := h.want(t, 200, "GET", "/api/streams", "", bearer); strings.Count(body, `"name"`) != 3 {
		t.Errorf("the token sees %s", body)
	}
	if body := h.want(t, 200, "GET", "/api/streams", "", basic); strings.Contains(body, "safe") || !strings.Contains(body, `"can":["view"]`) {
		t.Errorf("the guard sees %s", body)
	}
	h.want(t, 403, "POST", "/api/streams/yard/ask", `{"question":"?"}`, basic)
	h.want(t, 200, "POST", "/api/streams/door/ask", `{"question":"?"}`, basic)
	h.want(t, 404, "POST", "/api/streams/safe/ask", `{"question":"?"}`, basic)
	h.want(t, 404, "GET", "/api/streams/safe/frames/latest.jpg", "", basic)
	h.want(t, 404, "POST", "/whep/safe", "v=0", basic, "Content-Type: application/sdp")
	h.want(t, 403, "POST", "/whip/new", "v=0", basic, "Content-Type: application/sdp")
	h.want(t, 403, "POST", "/api/streams", `{"name":"x"}`, basic)
	h.want(t, 403, "DELETE", "/api/streams/door", "", basic)
	h.want(t, 404, "GET", "/api/events?stream=safe", "", basic)
	say(h.backend, "safe", "secret")
	say(h.backend, "door", "knock")
	if got := fmt.Sprint(h.follow(t, "", basic).texts(1)); got != "[knock]" {
		t.Errorf("the guard hears %s", got)
	}

	// A cookie instead of the secret.
	h.want(t, 401, "POST", "/api/session", `{"user":"guard","password":"no"}`)
	status, head, body := h.req(t, "POST", "/api/session", `{"user":"guard","password":"open sesame"}`)
	cookie := head.Get("Set-Cookie")
	if status != 200 || !strings.Contains(body, `"user":"guard"`) || !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Strict") {
		t.Fatalf("login: %d %s %s", status, body, cookie)
	}
	own := "Cookie: " + strings.Split(cookie, ";")[0]
	h.want(t, 200, "GET", "/api/streams", "", own)
	h.want(t, 204, "DELETE", "/api/session", "", own)
	h.want(t, 401, "GET", "/api/streams", "", own)
	h.want(t, 200, "POST", "/api/session", `{"password":"`+token+`"}`)

	// Other origins.
	for _, evil := range [][]string{{"Origin: https://evil.example"}, {"Sec-Fetch-Site: cross-site"}} {
		h.want(t, 403, "POST", "/api/streams/door/ask", `{"question":"?"}`, append(evil, bearer)...)
	}
	h.want(t, 200, "POST", "/api/streams/door/ask", `{"question":"?"}`, bearer, "Origin: https://cameras.example.com", "Sec-Fetch-Site: cross-site")
	if _, head, _ := h.req(t, "OPTIONS", "/whep/door", "", "Origin: https://cameras.example.com"); head.Get("Access-Control-Allow-Origin") != "https://cameras.example.com" {
		t.Errorf("preflight: %v", head)
	}
	if _, head, _ := h.req(t, "OPTIONS", "/whep/door", "", "Origin: https://evil.example"); head.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of another: %v", head)
	}

	// Guessing is slowed down, also by the right password after it.
	var code int
	for range 20 {
		code, _, _ = h.req(t, "POST", "/api/session", `{"user":"guard","password":"guess"}`)
	}
	if code != 429 {
		t.Errorf("after 20 guesses: %d", code)
	}
	h.stop()
	for _, secret := range []string{token, "open sesame", "Z3VhcmQ6", "guess", strings.TrimPrefix(own, "Cookie: lookout=")} {
		if strings.Contains(h.log.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestOpenToLoopbackOnly(t *testing.T) {
	h := newHouse(t, web.Config{})
	for host, status := range map[string]int{"127.0.0.1:80": 200, "localhost:8080": 200, "[::1]:1": 200, "rebind.evil.example": 403, "rebind.evil.example:8080": 403} {
		h.want(t, status, "GET", "/api/streams", "", "Host: "+host)
	}
	_, head, _ := h.req(t, "GET", "/", "")
	for k, want := range map[string]string{"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} {
		if !strings.Contains(head.Get(k), want) {
			t.Errorf("%s: %q", k, head.Get(k))
		}
	}
	for name, c := range map[string]web.Config{
		"off loopback":      {Listen: ":0"},
		"short token":       {Accounts: []web.Account{{Token: "123"}}},
		"clear password":    {Accounts: []web.Account{{User: "a", Hash: "password"}}},
		"neither":           {Accounts: []web.Account{{User: "a"}}},
		"origin with path":  {Origins: []string{"https://x/y"}},
		"no port":           {Listen: "localhost"},
		"certificate there": {Listen: "127.0.0.1:0", TLSCert: "/nowhere.pem"},
	} {
		if s, err := web.New(c, newBackend(event.NewBus(1)), event.NewBus(1)); err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
		}
	}
	s, err := web.New(web.Config{Listen: "0.0.0.0:0", Insecure: true}, newBackend(event.NewBus(1)), event.NewBus(1))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestSelfMadeCertificate(t *testing.T) {
	dir := t.TempDir()
	var seen []byte
	for range 2 { // kept across a restart
		h := newHouse(t, web.Config{TLSCert: "self", StateDir: dir})
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		res, err := c.Get(h.url + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		cert := res.TLS.PeerCertificates[0]
		if err := cert.VerifyHostname("localhost"); err != nil {
			t.Error(err)
		}
		if seen != nil && !bytes.Equal(seen, cert.Raw) {
			t.Error("another certificate after a restart")
		}
		seen = cert.Raw
		c.CloseIdleConnections()
		h.stop()
	}
	// The same as files of one's own.
	h := newHouse(t, web.Config{TLSCert: filepath.Join(dir, "web-cert.pem"), TLSKey: filepath.Join(dir, "web-key.pem")})
	conn, err := tls.Dial("tcp", strings.TrimPrefix(h.url, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, seen) {
		t.Error("another certificate than that of the file")
	}
	conn.Close()
	h.stop()
	if st, err := os.Stat(filepath.Join(dir, "web-key.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode: %v, %v", st.Mode(), err)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	h := newHouse(t, web.Config{SessionsPerMinute: 4, QuestionsPerMinute: 4})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	code := 0
	for range 4 {
		code, _, _ = h.req(t, "POST", "/whep/yard", "v=0", "Content-Type: application/sdp")
	}
	if code != 429 {
		t.Errorf("sessions: %d", code)
	}
	for range 4 {
		code, _, _ = h.req(t, "POST", "/api/streams/yard/ask", `{"question":"?"}`)
	}
	if code != 429 {
		t.Errorf("questions: %d", code)
	}
}

func TestClientPlays(t *testing.T) {
	h := newHouse(t, web.Config{Accounts: []web.Account{{Token: "0123456789"}}})
	h.play(t, "yard", fake.LoadH264, "../webrtc/testdata/yard.h264", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := webrtc.Subscribe(ctx, h.url+"/whep/yard", webrtc.SubscribeOptions{}); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a token: %v", err)
	}
	c, err := webrtc.Subscribe(ctx, h.url+"/whep/yard", webrtc.SubscribeOptions{Token: "0123456789"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(h.backend, "yard", "hello there")
	eventually(t, "pictures and words", func() bool { s := c.Stats(); return s.Pictures > 10 && s.Events == 1 && s.Deltas == 3 })
	if !strings.Contains(h.want(t, 200, "GET", "/metrics", "", "Authorization: Bearer 0123456789"), `lookout_web_viewers{stream="yard"} 1`) {
		t.Error("the viewer is not in the metrics")
	}
}
