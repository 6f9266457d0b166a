package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/assets"
	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open loads the embedded model, with what the pipeline needs around it.
func open(t *testing.T) (*Engine, *pipeline.Deps) {
	t.Helper()
	c, err := configs.Load("")
	if err != nil {
		t.Fatal(err)
	}
	return openWith(t, c)
}

func openWith(t *testing.T, c configs.Config) (*Engine, *pipeline.Deps) {
	t.Helper()
	e, err := Open(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b := pipeline.NewBatcher(e.Models.Encoder, e.Models.Info, 4)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e, &pipeline.Deps{Models: e.Models, Batcher: b, Bus: event.NewBus(0), Log: slog.New(slog.DiscardHandler), Lossless: true}
}

// texts gathers what is said of each stream.
type texts struct {
	mu sync.Mutex
	m  map[string][]string
}

func (x *texts) Publish(_ context.Context, ev *event.Event) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	text := ev.Data.Text
	if ev.Data.Status != nil {
		text = ev.Data.Status.State
	}
	x.m[ev.Data.Stream] = append(x.m[ev.Data.Stream], string(ev.Data.Phase)+" "+text)
	return nil
}

func (x *texts) has(stream, what string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Contains(x.m[stream], what)
}

func demo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "demo.mp4")
	if err := os.WriteFile(path, assets.Demo, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A camera that vanishes and a file that is damaged leave a third stream's
// events as they are without them.
func TestOneStreamsFailureIsItsOwn(t *testing.T) {
	e, deps := open(t)
	good := demo(t)
	bad := filepath.Join(t.TempDir(), "bad.mp4")
	if err := os.WriteFile(bad, assets.Demo[:2_000], 0o600); err != nil {
		t.Fatal(err)
	}
	// A camera that sends a second of pictures and breaks off, every time.
	var picture bytes.Buffer
	if err := jpeg.Encode(&picture, image.NewGray(image.Rect(0, 0, 64, 64)), nil); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "multipart/x-mixed-replace; boundary=next")
		for range 25 {
			fmt.Fprintf(w, "--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n", picture.Len(), picture.Bytes())
		}
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()

	watch := func(urls map[string]string) map[string][]string {
		said := &texts{m: map[string][]string{}}
		seq, err := event.OpenSequencer("")
		if err != nil {
			t.Fatal(err)
		}
		d := *deps
		d.Emitter = event.NewEmitter(seq, d.Bus, said)
		supervised := e.Opener(d.Log)
		d.Open = func(c configs.Stream, i pipeline.ModelInfo, tap *media.Tap, on func(event.Status)) pipeline.Source {
			if c.Name != "good" {
				return supervised(c, i, tap, on)
			}
			src, err := e.OpenSource(t.Context(), c, tap) // not paced: the test must not last a minute
			if err != nil {
				t.Error(err)
			}
			return src
		}
		ctx, cancel := context.WithCancel(t.Context())
		var others, main sync.WaitGroup
		for name, url := range urls {
			c := configs.DefaultStream()
			c.Name, c.URL = name, url
			s := pipeline.NewStream(c, &d)
			run := func() {
				if err := s.Run(ctx); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if name == "good" {
				main.Go(run)
			} else {
				others.Go(run)
			}
		}
		main.Wait()
		for name := range urls {
			for deadline := time.Now().Add(30 * time.Second); name != "good" && !said.has(name, "point reconnecting"); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Errorf("%s did not say that it is away: %q", name, said.m[name])
					break
				}
			}
		}
		cancel()
		others.Wait()
		return said.m
	}
	alone := watch(map[string]string{"good": good})
	beside := watch(map[string]string{"good": good, "damaged": bad, "vanishing": srv.URL + "/camera"})
	if len(alone["good"]) < 10 || !slices.Equal(alone["good"], beside["good"]) {
		t.Errorf("alone %q\nbeside failing streams %q", alone["good"], beside["good"])
	}
}

func TestPublishing(t *testing.T) {
	e, _ := open(t)
	sink, err := e.Publish("camera", media.H264)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Publish("camera", media.H264); !errors.Is(err, pipeline.ErrExists) {
		t.Errorf("a second publisher: %v", err)
	}
	// What is published comes out of the stream's source as frames.
	packets := media.NewTap(0)
	sub := packets.Subscribe()
	c := configs.DefaultStream()
	c.Name, c.URL = "file", demo(t)
	src, err := e.OpenSource(t.Context(), c, packets)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	push := c
	push.Name, push.URL = "camera", configs.Push
	got := e.Opener(slog.New(slog.DiscardHandler))(push, e.Models.Info, media.NewTap(0), func(event.Status) {})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		var f media.Frame
		for range 8 {
			if err := src.ReadFrame(ctx, &f); err != nil {
				return
			}
			for {
				next, stop := context.WithTimeout(ctx, 10*time.Millisecond)
				p, err := sub.Next(next)
				stop()
				if err != nil {
					break
				}
				if err := sink.Write(p); err != nil {
					t.Error(err)
				}
			}
		}
	})
	var f media.Frame
	for i := range 4 {
		if err := got.ReadFrame(ctx, &f); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	if f.Width != e.Models.Info.Width || f.Height != e.Models.Info.Height {
		t.Errorf("a frame of %dx%d", f.Width, f.Height)
	}
	wg.Wait()
	if err := got.Close(); err != nil {
		t.Error(err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
	if again, err := e.Publish("camera", media.VP8); err != nil {
		t.Errorf("after the first publisher left: %v", err)
	} else {
		_ = again.Close()
	}
}

// A source's decoding threads are of the runtime's budget until it is closed.
func TestDecodersShareTheThreads(t *testing.T) {
	c, err := configs.Load("")
	if err != nil {
		t.Fatal(err)
	}
	c.Threads = 3
	e, _ := openWith(t, c)
	s := configs.DefaultStream()
	s.Name, s.URL, s.Threads = "demo", demo(t), 9
	src, err := e.OpenSource(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	live := e.Opener(slog.New(slog.DiscardHandler))(s, e.Models.Info, media.NewTap(0), func(event.Status) {})
	if n, back := e.Runtime.Lend(9); n != 1 {
		t.Errorf("%d threads left beside a decoder that takes all", n)
	} else {
		back()
	}
	for _, c := range []io.Closer{src, live} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	s.URL += ".gone"
	if _, err := e.OpenSource(t.Context(), s, nil); err == nil {
		t.Error("opened a file that is not there")
	}
	if n, back := e.Runtime.Lend(9); n != 3 {
		t.Errorf("%d of 3 threads came back", n)
	} else {
		back()
	}
}
