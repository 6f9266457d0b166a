package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image"
	_ "image/jpeg"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/ingest"
	"github.com/lookout-video/lookout/media"
)

// always makes an alert of any answer at once.
func always(c *configs.Config) {
	alert := configs.DefaultAlert()
	alert.On, alert.Off, alert.For = 0.001, 0, 0
	c.Streams[0].Questions = []configs.Question{{ID: "person", Text: "is there a person?", Every: time.Second, Alert: &alert}}
}

// alertStart waits for the start of an alert.
func alertStart(t *testing.T, s *Server) *event.Event {
	t.Helper()
	sub := s.Bus().Subscribe(event.SubOptions{Queue: 1000, Replay: 1000})
	defer sub.Close()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case it := <-sub.C():
			if it.Event != nil && it.Event.Type == event.TypeAlert && it.Event.Data.Phase == event.Start {
				return it.Event
			}
		case <-timeout:
			t.Fatal("no alert")
		}
	}
}

// frames decodes a clip, with the time of each frame since the first.
func frames(t *testing.T, path string) (all []media.Frame) {
	t.Helper()
	r, err := ingest.Open(t.Context(), ingest.Config{URL: path, Width: 64, Height: 36})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		var f media.Frame
		err := r.ReadFrame(t.Context(), &f)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
}

// difference is the mean difference of a frame and a JPEG of the same picture.
func difference(t *testing.T, f media.Frame, img image.Image) float64 {
	t.Helper()
	sum, b := 0.0, img.Bounds()
	for y := range f.Height {
		for x := range f.Width {
			// The mean over the pixels of img that f's pixel stands for.
			var r, n float64
			for v := y * b.Dy() / f.Height; v < (y+1)*b.Dy()/f.Height; v++ {
				for u := x * b.Dx() / f.Width; u < (x+1)*b.Dx()/f.Width; u++ {
					cr, cg, cb, _ := img.At(u, v).RGBA()
					r, n = r+float64(cr>>8)+float64(cg>>8)+float64(cb>>8), n+1
				}
			}
			p := f.Pix[(y*f.Width+x)*3:]
			d := float64(p[0]) + float64(p[1]) + float64(p[2]) - r/n
			if d < 0 {
				d = -d
			}
			sum += d / 3
		}
	}
	return sum / float64(f.Width*f.Height)
}

// The clip of a real alert plays, covers the time around the alert's start, and
// its frame of that time is the picture that the alert rests on.
func TestTheClipOfAnAlertShowsIt(t *testing.T) {
	s, _, c, stop := start(t, func(c *configs.Config) {
		always(c)
		c.Evidence.Alerts, c.Evidence.Before, c.Evidence.After = configs.KeepBoth, 2*time.Second, time.Second
	})
	ev := alertStart(t, s)
	if ev.Data.Clip == "" {
		t.Fatal("the alert names no clip")
	}
	get := func() (*http.Response, []byte) {
		resp, err := http.Get(s.URL() + ev.Data.Clip)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, b
	}
	var resp *http.Response
	var video []byte
	waitFor(t, "the clip", func() bool { resp, video = get(); return resp.StatusCode == 200 })
	if resp.Header.Get("Content-Type") != "video/mp4" {
		t.Error(resp.Header)
	}
	began, err := time.Parse(time.RFC3339, resp.Header.Get("Lookout-Start"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "clip.mp4")
	if err := os.WriteFile(path, video, 0o600); err != nil {
		t.Fatal(err)
	}
	all := frames(t, path)
	seen := ev.Data.Evidence[len(ev.Data.Evidence)-1]
	at := seen.Capture.Sub(began) // of the alert within the clip
	last := all[len(all)-1].At.Media
	if at < 0 || last < at+900*time.Millisecond || last > at+1100*time.Millisecond {
		t.Errorf("the alert is at %v of a clip of %v, want 1 s before its end", at, last)
	}
	if min := min(2*time.Second, time.Duration(seen.MediaMS)*time.Millisecond); at < min-50*time.Millisecond {
		t.Errorf("the clip begins %v before the alert, want at least %v", at, min)
	}

	shots, err := filepath.Glob(filepath.Join(c.StateDir, "evidence", "yard", ev.Data.EventID, "*.jpg"))
	if err != nil || len(shots) == 0 {
		t.Fatalf("no snapshot beside the clip: %v", err)
	}
	b, err := os.ReadFile(shots[0])
	if err != nil {
		t.Fatal(err)
	}
	img, _, err := image.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	best, bestAt := 1e9, time.Duration(0)
	for _, f := range all {
		if d := difference(t, f, img); d < best {
			best, bestAt = d, f.At.Media
		}
	}
	if off := bestAt - at; best > 4 || off > 100*time.Millisecond || off < -100*time.Millisecond {
		t.Errorf("the snapshot is like the frame at %v (difference %.1f), want %v", bestAt, best, at)
	}
	stop()
	if jpgs, _ := filepath.Glob(filepath.Join(c.StateDir, "evidence", "yard", "*", "*.mp4")); len(jpgs) == 0 {
		t.Error("no clip is on disk")
	}
}

// What is kept of an alert is the user's choice: with clip there is no picture
// of it, and a stream that ends gives its clip what there is.
func TestClipsAlone(t *testing.T) {
	s, b, c, stop := start(t, func(c *configs.Config) {
		always(c)
		c.Evidence.Alerts, c.Evidence.After = configs.KeepClip, 50*time.Second
	})
	ev := alertStart(t, s)
	if _, err := b.Clip(t.Context(), "yard", ev.Data.EventID); err == nil {
		t.Error("a clip that is not complete is given")
	}
	stop()
	dir := filepath.Join(c.StateDir, "evidence", "yard", ev.Data.EventID)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || filepath.Ext(entries[0].Name()) != ".mp4" {
		t.Fatalf("%v, %v", entries, err)
	}
	if n := len(frames(t, filepath.Join(dir, entries[0].Name()))); n == 0 {
		t.Error("no frames")
	}
}

// A camera that sends VP8 (a browser's, over WHIP) has clips in WebM.
func TestTheClipOfAPublishedCamera(t *testing.T) {
	s, b, c, _ := start(t, func(c *configs.Config) {
		c.Evidence.Alerts, c.Evidence.Before, c.Evidence.After = configs.KeepClip, time.Second, 500*time.Millisecond
	})
	if _, err := b.AddStream(t.Context(), json.RawMessage(`{"name":"phone","url":"push:","questions":[{"id":"q","text":"is there a person?","alert":{"on":0.001,"off":0,"for":"0s"}}]}`)); err != nil {
		t.Fatal(err)
	}
	sink, err := b.Publish(t.Context(), "phone", media.VP8)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	// The yard's camera, as VP8: what a browser would send.
	ctx, cancel := context.WithCancel(t.Context())
	yard, err := s.manager.Get("yard")
	if err != nil {
		t.Fatal(err)
	}
	tap, run := s.o.Sources.Transcoder("yard", yard.Tap(), 0)
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	defer func() { cancel(); <-done; tap.Close() }()
	sub := tap.Subscribe()
	go func() {
		for {
			p, err := sub.Next(ctx)
			if err != nil {
				return
			}
			_ = sink.Write(p)
		}
	}()
	defer sub.Close()
	var paths []string
	waitFor(t, "a clip", func() bool {
		paths, _ = filepath.Glob(filepath.Join(c.StateDir, "evidence", "phone", "*", "*.webm"))
		return len(paths) > 0
	})
	if all := frames(t, paths[0]); len(all) < 5 {
		t.Errorf("%d frames", len(all))
	}
}
