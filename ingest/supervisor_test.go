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
	s := &Supervised{Config: Config{Name: "yard", URL: path}, MinWait: time.Millisecond, MaxWait: 20 * time.Millisecond}
	s.OnStatus = func(st Status) {
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
	}
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
	s := &Supervised{Config: Config{URL: "testdata/counting.mp4"}}
	defer s.Close()
	var f media.Frame
	if err := s.ReadFrame(t.Context(), &f); err != nil || f.At.Media != 0 {
		t.Fatalf("first frame at %v, %v", f.At.Media, err)
	}
	s.Close() // as ReadFrame does when the source fails
	s.began = s.began.Add(-time.Minute)
	if err := s.ReadFrame(t.Context(), &f); err != nil || f.At.Media < time.Minute {
		t.Fatalf("after a minute's gap the media time is %v, %v", f.At.Media, err)
	}
}

func TestSupervisedEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &Supervised{Config: Config{URL: "testdata/missing.mp4"}, MinWait: time.Hour, MaxWait: time.Hour}
	s.OnStatus = func(st Status) {
		if st.State == Reconnecting {
			cancel()
		}
	}
	if err := s.ReadFrame(ctx, &media.Frame{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
}

func TestBackOffGrowsToItsBound(t *testing.T) {
	s := &Supervised{MinWait: 100 * time.Millisecond, MaxWait: time.Second}
	for i, full := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		full *= time.Millisecond
		if d := s.backOff(); d < full/2 || d > full {
			t.Errorf("wait %d is %v, want between %v and %v", i, d, full/2, full)
		}
	}
}

func TestSupervisedComesBackToACameraThatVanished(t *testing.T) {
	addr, stop := startCamera(t)
	var states []State
	s := &Supervised{Config: Config{Name: "yard", URL: "rtsp://user:secret@" + addr + "/cam", ReadTimeout: 2 * time.Second}, MinWait: time.Millisecond, MaxWait: 50 * time.Millisecond}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s.OnStatus = func(st Status) {
		states = append(states, st.State)
		if n := len(states); n > 2 && states[n-1] == Reconnecting && states[n-2] == Reconnecting {
			cancel() // it has tried again after the loss: that is what is asked here
		}
	}
	defer s.Close()
	var f media.Frame
	if err := s.ReadFrame(ctx, &f); err != nil {
		t.Fatal(err)
	}
	stop()
	for {
		if err := s.ReadFrame(ctx, &f); err != nil {
			break
		}
	}
	if want := []State{Connecting, Live, Reconnecting, Reconnecting}; !slices.Equal(states, want) {
		t.Errorf("states %v, want %v", states, want)
	}
}
