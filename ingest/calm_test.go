package ingest

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
)

// apart is how far two pictures are from each other where they differ most, in
// means of 8x8 pixels: key frames renew the texture of what stands still.
func apart(a, b *media.Frame) (most int) {
	for y := 0; y < a.Height; y += 8 {
		for x := 0; x < a.Width; x += 8 {
			sum := 0
			for i := range 64 {
				at := ((y+i/8)*a.Width + x + i%8) * 3
				sum += int(a.Pix[at]) - int(b.Pix[at])
			}
			most = max(most, sum/64, -sum/64)
		}
	}
	return most
}

// both reads the next frame of either; it tells whether there was one.
func both(t *testing.T, as *Reader, want *media.Frame, calm *Reader, got *media.Frame) bool {
	t.Helper()
	err := as.ReadFrame(t.Context(), want)
	if again := calm.ReadFrame(t.Context(), got); !errors.Is(again, err) {
		t.Fatalf("got %v, want %v", again, err)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return err == nil
}

// TestCalm reads a scene that stands still until something crosses it, once as
// it is and once telling that it is still: what is given is the same.
func TestCalm(t *testing.T) {
	for name, threads := range map[string]int{"as asked for": 1, "ahead": 2} {
		t.Run(name, func(t *testing.T) { readCalm(t, threads) })
	}
}

func readCalm(t *testing.T, threads int) {
	cfg := Config{URL: "testdata/calm.mp4", SampleRate: 5}
	as := open(t, cfg)
	cfg.Threads = threads
	calm := open(t, cfg)
	var want, got, stood media.Frame
	frames, moved := 0, time.Duration(0)
	for both(t, as, &want, calm, &got) {
		if got.At.Media != want.At.Media || got.Seq != want.Seq || got.Width != want.Width {
			t.Fatalf("frame %d at %v is %dx%d, want %d at %v", got.Seq, got.At.Media, got.Width, got.Height, want.Seq, want.At.Media)
		}
		if d := apart(&got, &want); d > 6 {
			t.Errorf("the picture at %v is %d away from what was there", got.At.Media, d)
		}
		if frames++; frames == 1 {
			stood.Reset(got.Width, got.Height)
		}
		still := frames > 1 && apart(&got, &stood) <= 6
		if copy(stood.Pix, got.Pix); !still && frames > 1 && moved == 0 {
			moved = got.At.Media
		}
		calm.Calm(still)
	}
	a, b := as.Stats(), calm.Stats()
	if a.Undecoded != 0 || b.Undecoded+b.Decoded < 220 || b.Undecoded < 150 || b.Sampled != a.Sampled || b.DecodeErrors != 0 {
		t.Errorf("told that it is still, it did %+v, else %+v", b, a)
	}
	if moved != 13400*time.Millisecond {
		t.Errorf("what moves from 13.3 s on is seen at %v", moved)
	}
}

// TestCalmDoubts lets a check find what the sizes did not tell.
func TestCalmDoubts(t *testing.T) {
	r := open(t, Config{URL: "testdata/calm.mp4"})
	var f media.Frame
	for !r.calm.checking.Load() {
		if err := r.ReadFrame(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		r.Calm(true)
	}
	if f.At.Media > 8*time.Second || r.Stats().Undecoded < 40 {
		t.Errorf("the first check came at %v, after %+v", f.At.Media, r.Stats())
	}
	r.Calm(false)
	was := r.Stats().Undecoded
	for r.ReadFrame(t.Context(), &f) == nil {
		r.Calm(true)
	}
	if s := r.Stats(); s.Undecoded > was+1 {
		t.Errorf("%d more pictures stayed undecoded although the sizes had hidden a change", s.Undecoded-was)
	}
}

// TestCalmNeedsOnePictureAPacket: where pictures leave the decoder late, all are
// decoded.
func TestCalmNeedsOnePictureAPacket(t *testing.T) {
	for _, cfg := range []Config{{URL: "testdata/calm.mp4", Threads: 3}, {URL: "testdata/counting-bframes.mp4"}, {URL: "testdata/counting-mjpeg.avi"}} {
		r := open(t, cfg)
		var f media.Frame
		for r.ReadFrame(t.Context(), &f) == nil {
			r.Calm(true)
		}
		if s := r.Stats(); s.Undecoded != 0 || s.Decoded == 0 {
			t.Errorf("%s: %+v", cfg.URL, s)
		}
	}
}

// TestCalmSeesWhoComesInSlowly: a ball that rolls into the picture makes each
// packet only a little larger than the last.
func TestCalmSeesWhoComesInSlowly(t *testing.T) {
	cfg := Config{URL: "../assets/demo.mp4"}
	as, calm := open(t, cfg), open(t, cfg)
	var want, got, stood media.Frame
	held := 0 // frames that show nothing new
	var late, longest time.Duration
	for both(t, as, &want, calm, &got) {
		if apart(&got, &want) <= 12 {
			late = got.At.Media
		}
		longest = max(longest, got.At.Media-late)
		if len(stood.Pix) > 0 && apart(&got, &stood) <= 6 {
			held++
		} else {
			held = 0
		}
		stood.Reset(got.Width, got.Height)
		copy(stood.Pix, got.Pix)
		calm.Calm(held > 4)
	}
	if s := calm.Stats(); longest > 500*time.Millisecond || s.Undecoded < 20 {
		t.Errorf("for %v what is there was not shown; %+v", longest, s)
	}
}
