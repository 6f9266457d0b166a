package ingest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
)

// TestAheadGivesTheSame compares all that is given with what one thread gives.
func TestAheadGivesTheSame(t *testing.T) {
	for name, cfg := range map[string]Config{
		"file":      {URL: "testdata/counting.mp4"},
		"B-frames":  {URL: "testdata/counting-bframes.mp4"},
		"sampled":   {URL: "testdata/counting.mp4", SampleRate: 4, Width: 64, Height: 64},
		"loop":      {URL: "testdata/counting.mp4", Loop: true},
		"list":      {URLs: []string{"testdata/counting-mjpeg.avi", "testdata/bt709-full.mp4", "testdata/counting.mp4"}},
		"every one": {URL: "testdata/counting.mp4", SampleRate: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Stills = -1
			one := open(t, cfg)
			cfg.Threads = 3
			many := open(t, cfg)
			var a, b media.Frame
			n := 0
			for ; n < 200; n++ {
				errA, errB := one.ReadFrame(t.Context(), &a), many.ReadFrame(t.Context(), &b)
				if errors.Is(errA, io.EOF) && errors.Is(errB, io.EOF) {
					break
				}
				if errA != nil || errB != nil {
					t.Fatalf("frame %d: %v and %v", n, errA, errB)
				}
				if a.Seq != b.Seq || a.At.Media != b.At.Media || !bytes.Equal(a.Pix, b.Pix) {
					t.Fatalf("frame %d: number %d at %v and number %d at %v, or other pixels", n, a.Seq, a.At.Media, b.Seq, b.At.Media)
				}
			}
			if n < 2 {
				t.Errorf("%d frames are no comparison", n)
			}
			if s := many.Stats(); n < 200 && s.Decoded != one.Stats().Decoded {
				t.Errorf("%d frames decoded, want %d", s.Decoded, one.Stats().Decoded)
			}
		})
	}
}

// TestAheadOfTheAsking sees pictures being decoded that nobody has asked for, and only
// so many.
func TestAheadOfTheAsking(t *testing.T) {
	r := open(t, Config{URL: "testdata/counting.mp4", Threads: 2, Loop: true})
	var f media.Frame
	if err := r.ReadFrame(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	const most = 1 + lead + 1 // given, waiting, and one for which there is no frame
	for r.Stats().Decoded < most {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if n := r.Stats().Decoded; n != most {
		t.Errorf("%d pictures decoded, want %d", n, most)
	}
}

// TestAheadStops ends a Reader while pictures wait; TestMain sees that nothing is left.
func TestAheadStops(t *testing.T) {
	r := open(t, Config{URL: "testdata/counting.mp4", Threads: 2, Loop: true})
	var f media.Frame
	if err := r.ReadFrame(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for err := error(nil); !errors.Is(err, context.Canceled); { // a picture that waits may come first
		if err = r.ReadFrame(ended, &f); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	seq := f.Seq
	if err := r.ReadFrame(t.Context(), &f); err != nil || f.Seq != seq+1 {
		t.Errorf("after an asking that was given up: number %d, %v; want number %d", f.Seq, err, seq+1)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAheadToTheEnd(t *testing.T) {
	s := Supervise(Config{URL: "testdata/counting.mp4", Threads: 2})
	defer s.Close()
	var f media.Frame
	n := 0
	for ; ; n++ {
		if err := s.ReadFrame(t.Context(), &f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if one, _ := readAll(t, open(t, Config{URL: "testdata/counting.mp4"}), 1000); n != len(one) {
		t.Errorf("%d frames, want %d", n, len(one))
	}
	if err := s.ReadFrame(t.Context(), &f); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}
