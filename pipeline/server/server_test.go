package server

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
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/assets"
	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/output/webrtc"
	"github.com/lookout-video/lookout/pipeline/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// start runs a Server on the bundled video with a real Redis and a webhook.
func start(t *testing.T, change func(*configs.Config)) (*Server, *backend, configs.Config, func()) {
	t.Helper()
	dir := t.TempDir()
	video := filepath.Join(dir, "demo.mp4")
	if err := os.WriteFile(video, assets.Demo, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := configs.Load("")
	if err != nil {
		t.Fatal(err)
	}
	c.StateDir, c.Web.Listen = filepath.Join(dir, "state"), "127.0.0.1:0"
	s := configs.DefaultStream()
	s.Name, s.URL, s.Loop = "yard", video, true
	c.Streams = []configs.Stream{s}
	if change != nil {
		change(&c)
	}
	log := slog.New(slog.DiscardHandler)
	e, err := engine.Open(c, log)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := New(Options{Config: c, Models: e.Models, Open: e.Opener(log), Sources: e, Load: e.Load, Log: log})
	if err != nil {
		t.Fatal(errors.Join(err, e.Close()))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	waitFor(t, "the streams", func() bool { return len(srv.manager.All()) == len(c.Streams) })
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-done, srv.Close(), e.Close()); err != nil {
				t.Error(err)
			}
			http.DefaultClient.CloseIdleConnections()
		})
	}
	t.Cleanup(stop)
	return srv, &backend{s: srv, transcod: map[string]*transcode{}}, c, stop
}

func eventSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(event.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(event.SchemaID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(event.SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEverythingSaidReachesEverySink(t *testing.T) {
	r, err := redis.StartPrivate(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var mu sync.Mutex
	posted := map[string]bool{}
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		var ev event.Event
		b, _ := io.ReadAll(req.Body)
		if json.Unmarshal(b, &ev) == nil {
			mu.Lock()
			posted[ev.ID] = true
			mu.Unlock()
		}
	}))
	defer hook.Close()
	s, b, c, stop := start(t, func(c *configs.Config) {
		c.Redis.URL, c.Webhook.URL = r.URL(), hook.URL
		c.Streams[0].Labels = []string{"a person", "a dog"}
		c.Streams[0].Questions = []configs.Question{
			{ID: "plain", Text: "is there a person?", Every: time.Second},
			{ID: "person", Text: "is there a person?", Every: time.Second, Alert: &configs.Alert{On: 0.01}},
			{ID: "shape", Text: "a person", ZeroShot: true, Every: time.Second, Alert: &configs.Alert{On: 0.01}},
		}
		c.Evidence.Alerts = configs.KeepBoth
	})
	sub := s.Bus().Subscribe(event.SubOptions{Queue: 1000, Replay: 1000})
	waitFor(t, "some events", func() bool { sn := s.manager.All()[0].Snapshot(); return sn.Events >= 6 && sn.Words > 0 })

	hits, err := b.Search(t.Context(), "person", "yard", 5)
	if err != nil {
		t.Error(err)
	}
	waitFor(t, "a search that finds something", func() bool {
		hits, err = b.Search(t.Context(), "person", "yard", 5)
		return err == nil && len(hits) > 0
	})
	s.Manager().Stop()
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sub.Close()
	said, kinds := map[string]bool{}, map[string]bool{}
	schema := eventSchema(t)
	var last uint64
	for it := range sub.C() {
		if it.Event != nil {
			said[it.Event.ID] = true
			kinds[event.Kind(it.Event.Type)] = true
			js, _ := json.Marshal(it.Event)
			v, _ := jsonschema.UnmarshalJSON(bytes.NewReader(js))
			if err := schema.Validate(v); err != nil {
				t.Errorf("against its schema: %s: %v", js, err)
			}
			if it.Event.Data.Seq <= last {
				t.Errorf("seq %d after %d", it.Event.Data.Seq, last)
			}
			last = it.Event.Data.Seq
		}
	}
	for _, k := range []string{"description", "answer", "alert", "label", "status"} {
		if !kinds[k] {
			t.Errorf("no %s among %v", k, kinds)
		}
	}
	rc := RedisConfig(c.Redis)
	client, err := redis.Open(rc)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	inRedis := 0
	for e, err := range client.Replay(t.Context(), redis.ReplayOptions{Stream: "yard"}) {
		if err != nil {
			t.Fatal(err)
		}
		inRedis++
		if !said[e.Event.ID] {
			t.Errorf("Redis has %s, which was not said", e.Event.ID)
		}
	}
	mu.Lock()
	if len(said) == 0 || inRedis != len(said) || len(posted) != len(said) {
		t.Errorf("said %d, in Redis %d, posted %d", len(said), inRedis, len(posted))
	}
	mu.Unlock()
	stop()
	pictures, _ := filepath.Glob(filepath.Join(c.StateDir, "evidence", "yard", "*", "*.jpg"))
	if len(pictures) == 0 {
		t.Error("no evidence was kept")
	}
}

// Which sinks a stream's events go to is its own choice, also of one that was
// added at run time.
// TestACrashLeavesNoAlertOn: the next run ends it, before anything else is said.
func TestACrashLeavesNoAlertOn(t *testing.T) {
	r, err := redis.StartPrivate(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := 0.9
	left := event.New(event.TypeAlert, time.Now().UTC(), event.Data{Stream: "door", Seq: 7, EventID: "0left", Revision: 2, Phase: event.Update, Text: "yes", Probability: &p, Prompt: &event.Prompt{ID: "open", Text: "is it open?"}})
	s, _, _, stop := start(t, func(c *configs.Config) {
		c.Redis.URL = r.URL()
		if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(map[string]*event.Event{"0left": left})
		if err := os.WriteFile(filepath.Join(c.StateDir, "alerts.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	waitFor(t, "the alert's end in Redis", func() bool {
		st, err := s.redis.State(t.Context(), "door")
		return err == nil && st["alert:open"] == "off"
	})
	stop()
}

func TestAStreamChoosesItsSinks(t *testing.T) {
	r, err := redis.StartPrivate(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var mu sync.Mutex
	posted := map[string]int{}
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		var ev event.Event
		if json.NewDecoder(req.Body).Decode(&ev) == nil {
			mu.Lock()
			posted[ev.Data.Stream]++
			mu.Unlock()
		}
	}))
	defer hook.Close()
	s, b, c, _ := start(t, func(c *configs.Config) {
		c.Redis.URL, c.Webhook.URL = r.URL(), hook.URL
		c.Streams[0].Sinks = []string{"redis"}
	})
	if _, err := b.AddStream(t.Context(), json.RawMessage(`{"name":"added","url":`+quote(c.Streams[0].URL)+`,"loop":true,"sinks":["webhook"]}`)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "words of both", func() bool {
		all := s.manager.All()
		return len(all) == 2 && all[0].Snapshot().Events > 3 && all[1].Snapshot().Events > 3
	})
	s.Manager().Stop()
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	rc := RedisConfig(c.Redis)
	client, err := redis.Open(rc)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for name, want := range map[string]bool{"yard": true, "added": false} {
		n, err := client.Redis().XLen(t.Context(), rc.EventsKey(name)).Result()
		mu.Lock()
		if err != nil || (n > 0) != want || (posted[name] > 0) == want {
			t.Errorf("%s: %d in Redis, %d posted, %v", name, n, posted[name], err)
		}
		mu.Unlock()
	}
}

func TestBackend(t *testing.T) {
	s, b, c, _ := start(t, nil)
	ctx := t.Context()
	waitFor(t, "the first frames", func() bool { return s.manager.All()[0].Snapshot().Looked > 2 })
	if err := b.Ready(); err != nil {
		t.Error(err)
	}
	tap, release, err := b.Browser(ctx, "yard")
	if err != nil || tap.Codec() != media.H264 {
		t.Fatalf("%v, %v", tap, err)
	}
	release()
	ev, err := b.Ask(ctx, webrtc.Question{ID: "q1", Stream: "yard", Text: "is there a person?", Viewer: "me"})
	if err != nil || ev.Data.Prompt.ID != "q1" || ev.Data.Viewer != "me" || ev.Data.Text == "" {
		t.Errorf("asked: %+v, %v", ev, err)
	}
	if jpeg, err := b.Still(ctx, "yard", 0, 160); err != nil || len(jpeg) < 500 || !strings.HasPrefix(string(jpeg), "\xff\xd8") {
		t.Errorf("still: %d bytes, %v", len(jpeg), err)
	}
	if _, err := b.AddStream(ctx, json.RawMessage(`{"name":"second","url":`+quote(c.Streams[0].URL)+`,"loop":true}`)); err != nil {
		t.Error(err)
	}
	if i, err := b.ChangeStream(ctx, "second", json.RawMessage(`{"rate":1}`)); err != nil || i.Name != "second" {
		t.Errorf("changed: %+v, %v", i, err)
	}
	if st := b.Streams(); len(st) != 2 || st[0].Name != "yard" || st[0].State != "live" || st[0].Width == 0 || st[0].Codec != "h264" {
		t.Errorf("streams %+v", st)
	}
	for name, got := range map[string]struct{ err, want error }{
		"ask a stream that is not": {second(b.Ask(ctx, webrtc.Question{Stream: "none"})), webrtc.ErrNotFound},
		"add one twice":            {second(b.AddStream(ctx, json.RawMessage(`{"name":"yard","url":"x"}`))), webrtc.ErrExists},
		"add with an unknown key":  {second(b.AddStream(ctx, json.RawMessage(`{"name":"a","url":"x","rat":1}`))), webrtc.ErrInvalid},
		"add without an address":   {second(b.AddStream(ctx, json.RawMessage(`{"name":"a"}`))), webrtc.ErrInvalid},
		"rename":                   {second(b.ChangeStream(ctx, "yard", json.RawMessage(`{"name":"garden"}`))), webrtc.ErrInvalid},
		"remove one that is not":   {b.RemoveStream(ctx, "none"), webrtc.ErrNotFound},
		"publish over a camera":    {second(b.Publish(ctx, "yard", media.H264)), webrtc.ErrExists},
		"publish under a bad name": {second(b.Publish(ctx, "a/b", media.H264)), webrtc.ErrInvalid},
		"a still of long ago":      {second(b.Still(ctx, "yard", 1<<40, 0)), webrtc.ErrNotFound},
		"the prompt of none":       {b.SetPrompt(ctx, "none", "v", "x"), webrtc.ErrNotFound},
		"the labels of none":       {b.SetLabels(ctx, "none", nil), webrtc.ErrNotFound},
		"remove":                   {b.RemoveStream(ctx, "second"), nil},
		"labels":                   {b.SetLabels(ctx, "yard", []string{"a red van"}), nil},
		"a prompt, and its end":    {errors.Join(b.SetPrompt(ctx, "yard", "v", "is there a dog?"), b.SetPrompt(ctx, "yard", "v", "")), nil},
	} {
		if !errors.Is(got.err, got.want) || got.want == nil && got.err != nil {
			t.Errorf("%s: %v, want %v", name, got.err, got.want)
		}
	}
	sink, err := b.Publish(ctx, "mine", media.VP8)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
}

// What browsers do not play is transcoded once for all who watch, and only while
// somebody does.
func TestTranscodingIsShared(t *testing.T) {
	_, b, _, _ := start(t, func(c *configs.Config) {
		hevc := c.Streams[0]
		hevc.Name, hevc.URL = "hevc", "../../ingest/testdata/counting-hevc.mp4"
		c.Streams = append(c.Streams, hevc)
	})
	running := func() int { b.mu.Lock(); defer b.mu.Unlock(); return len(b.transcod) }
	camera, done, err := b.Browser(t.Context(), "yard")
	if err != nil || camera.Codec() != media.H264 || running() != 0 {
		t.Errorf("%d transcodes of what browsers play, %v", running(), err)
	}
	done()
	watch := func() (*media.Tap, func()) {
		t.Helper()
		tap, release, err := b.Browser(t.Context(), "hevc")
		if err != nil {
			t.Fatal(err)
		}
		sub := tap.Subscribe()
		defer sub.Close()
		if p, err := sub.Next(t.Context()); err != nil || p.Codec != media.VP8 || !p.Key {
			t.Fatalf("%+v, %v", p, err)
		}
		return tap, release
	}
	first, leaveFirst := watch()
	second, leaveSecond := watch()
	if first != second || running() != 1 {
		t.Errorf("%d transcodes for two who watch", running())
	}
	leaveFirst()
	if running() != 1 {
		t.Error("it ended under the other one")
	}
	leaveSecond()
	waitFor(t, "the transcode to end", func() bool { return running() == 0 })
	third, leaveThird := watch()
	if third == first {
		t.Error("who comes later gets what has ended")
	}
	leaveThird()
}

// The ways to the server are those of the configuration.
func TestWaysAreAsConfigured(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s, _, _, _ := start(t, func(c *configs.Config) {
		c.Web.WebRTC.Addresses, c.Web.WebRTC.NATAddresses = []string{"127.0.0.1"}, []string{"203.0.113.7"}
		c.Web.WebRTC.UDPPort, c.Web.WebRTC.TCPPort = port, port
		c.Web.WebRTC.ICEServers = []string{"stun:127.0.0.1:9", "turn:me:a:b@c@127.0.0.1:9?transport=udp"}
	})
	offer, err := os.ReadFile("../../output/webrtc/testdata/chromium.sdp")
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(s.URL()+"/whep/yard", "application/sdp", strings.NewReader(string(offer)))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("%s %v: %s", res.Status, err, answer)
	}
	if got := fmt.Sprint(res.Header.Values("Link")); got != `[<stun:127.0.0.1:9>; rel="ice-server" <turn:127.0.0.1:9?transport=udp>; rel="ice-server"; username="me"; credential="a:b@c"; credential-type="password"]` {
		t.Errorf("Link: %s", got)
	}
	for _, way := range []string{"udp %s 127.0.0.1 %d typ host", "udp %s 203.0.113.7 %d typ host", "tcp %s 127.0.0.1 %d typ host tcptype passive"} {
		re := regexp.MustCompile(fmt.Sprintf(strings.ReplaceAll(regexp.QuoteMeta(way), "%s", `\d+`), port))
		if !re.Match(answer) {
			t.Errorf("no candidate %s in\n%s", re, answer)
		}
	}
}

// A stream may name a model of its own; one that cannot be loaded costs that
// stream alone.
func TestAModelForOneStream(t *testing.T) {
	own := os.Getenv("LOOKOUT_MODEL")
	if own == "" {
		own = "../../model/default"
	}
	s, b, _, _ := start(t, func(c *configs.Config) {
		second, third := c.Streams[0], c.Streams[0]
		second.Name, second.Model = "second", own
		third.Name, third.Model = "third", t.TempDir()
		c.Streams = append(c.Streams, second, third)
	})
	waitFor(t, "two streams that look and one that failed", func() bool {
		st := b.Streams()
		return len(st) == 3 && s.manager.All()[0].Snapshot().Looked > 1 && s.manager.All()[1].Snapshot().Looked > 1 && st[2].State == "failed"
	})
}

func TestAddressInUseIsSaid(t *testing.T) {
	s, _, _, _ := start(t, nil)
	_, err := New(Options{Config: func() configs.Config {
		c := configs.Default()
		c.StateDir, c.Web.Listen = t.TempDir(), strings.TrimPrefix(s.URL(), "http://")
		return c
	}(), Models: s.o.Models, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}
