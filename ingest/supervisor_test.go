package ingest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
)

func TestSupervisedWaitsForASourceThatIsNotThereYet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "late.mp4")
	var states []State
	s := Supervise(Config{Name: "yard", URL: path, MinWait: time.Millisecond, MaxWait: 20 * time.Millisecond, OnStatus: func(st Status) {
		states = append(states, st.State)
		if st.State == Reconnecting && !errors.Is(st.Err, ErrNotFound) {
			t.Errorf("reconnecting because of %v, want ErrNotFound", st.Err)
		}
		if len(states) == 4 { // connecting and three tries
			b, err := os.ReadFile("testdata/counting.mp4")
			if err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Error(err)
			}
		}
	}})
	defer s.Close()
	var f media.Frame
	n := 0
	for {
		err := s.ReadFrame(t.Context(), &f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	want := []State{Connecting, Reconnecting, Reconnecting, Reconnecting, Live, Ended}
	if n != 20 || !slices.Equal(states, want) {
		t.Errorf("%d frames, states %v, want 20, %v", n, states, want)
	}
}

func TestMediaTimeGrowsAcrossReconnects(t *testing.T) {
	s := Supervise(Config{URL: "testdata/counting.mp4"})
	defer s.Close()
	var f media.Frame
	if err := s.ReadFrame(t.Context(), &f); err != nil || f.At.Media != 0 {
		t.Fatalf("first frame at %v, %v", f.At.Media, err)
	}
	first := f.Seq
	if now := uint64(time.Now().UnixMilli()); first > now+1 || first < now-60_000 {
		t.Errorf("the first frame has the number %d, want the time of day: those of an earlier run are below", first)
	}
	s.lose(io.EOF) // as ReadFrame does when the source fails
	s.r.began = s.r.began.Add(-time.Minute)
	if err := s.ReadFrame(t.Context(), &f); err != nil || f.At.Media < time.Minute || f.Seq != first+1 {
		t.Fatalf("after a minute's gap the media time is %v, the number %d, %v", f.At.Media, f.Seq, err)
	}
}

func TestSupervisedEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := Supervise(Config{URL: "testdata/missing.mp4", MinWait: time.Hour, MaxWait: time.Hour, OnStatus: func(st Status) {
		if st.State == Reconnecting {
			cancel()
		}
	}})
	defer s.Close()
	if err := s.ReadFrame(ctx, &media.Frame{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
}

func TestBackOffGrowsToItsBound(t *testing.T) {
	s := Supervise(Config{MinWait: 100 * time.Millisecond, MaxWait: time.Second})
	defer s.Close()
	for i, ms := range []int{100, 200, 400, 800, 1000, 1000} {
		full := time.Duration(ms) * time.Millisecond
		if d := s.backOff(); d < full/2 || d > full {
			t.Errorf("wait %d is %v, want between %v and %v", i, d, full/2, full)
		}
	}
}

func TestSupervisedComesBackToACameraAtTheSameAddress(t *testing.T) {
	addr, stop := startCamera(t, "")
	var states []State
	s := Supervise(Config{Name: "yard", URL: "rtsp://user:secret@" + addr + "/cam", ReadTimeout: 2 * time.Second, MinWait: time.Millisecond, MaxWait: 50 * time.Millisecond,
		OnStatus: func(st Status) {
			states = append(states, st.State)
			if n := len(states); n > 2 && states[n-1] == Reconnecting && states[n-2] == Reconnecting && stop != nil {
				startCamera(t, addr) // it has tried again and failed; now the camera is back
				stop = nil
			}
		}})
	defer s.Close()
	sub := s.Tap().Subscribe()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var f media.Frame
	if err := s.ReadFrame(ctx, &f); err != nil {
		t.Fatal(err)
	}
	stop()
	last := f.At
	for after := 0; after < 5; {
		seq := f.Seq
		if err := s.ReadFrame(ctx, &f); err != nil {
			t.Fatalf("states %v: %v", states, err)
		}
		if f.At.Media <= last.Media || f.Seq <= seq {
			t.Fatalf("frame %d at %v follows frame %d at %v", f.Seq, f.At.Media, seq, last.Media)
		}
		last = f.At
		if stop == nil {
			after++
		}
	}
	want := []State{Connecting, Live, Reconnecting}
	if len(states) < 5 || !slices.Equal(states[:3], want) || states[len(states)-1] != Live {
		t.Errorf("states %v, want %v, more tries, live", states, want)
	}
	if st := s.Stats(); st.Reconnects != 1 || st.Decoded < 6 {
		t.Errorf("stats %+v", st)
	}
	// Who watches keeps watching: the same subscription, from a key frame on.
	var at time.Duration
	for seen := 0; at < last.Media; seen++ {
		p, err := sub.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if p.At.Media < at || seen == 0 && !p.Key {
			t.Fatalf("packet at %v (key %v) follows one at %v", p.At.Media, p.Key, at)
		}
		at = p.At.Media
	}
}
