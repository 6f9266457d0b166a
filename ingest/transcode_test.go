package ingest

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
)

func TestTranscodeToVP8(t *testing.T) {
	for _, clip := range []string{"counting-hevc.mp4", "counting-mpeg4.mp4", "counting-mjpeg.avi", "counting-mpeg2.ts", "counting-av1.mp4", "counting-vp9.webm", "counting.mp4"} {
		t.Run(clip, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			all := packetsOf(t, clip)
			in := media.NewTap(0)
			tc := NewTranscoder(TranscodeConfig{Name: "yard", KeyInterval: time.Second / 3}, in)
			sub := tc.Tap().Subscribe()
			done := make(chan error, 1)
			go func() { done <- tc.Run(ctx) }()
			browser := media.NewTap(0) // plays what comes out
			r := Supervise(Config{Packets: browser})
			defer r.Close()
			keys := 0
			var f media.Frame
			for i, p := range all {
				in.Publish(p)
				v, err := sub.Next(ctx)
				if err != nil {
					t.Fatalf("packet %d: %v", i, err)
				}
				if v.Codec != media.VP8 || v.At.RTP != p.At.RTP || v.At.Media != p.At.Media || v.At.Capture.Sub(p.At.Capture).Abs() > time.Millisecond {
					t.Fatalf("a %s packet at %+v for one at %+v", v.Codec, v.At, p.At)
				}
				if v.Key {
					keys++
				}
				browser.Publish(v)
				if err := r.ReadFrame(ctx, &f); err != nil {
					t.Fatal(err)
				}
				if counted(&f) != i {
					t.Fatalf("frame %d shows number %d", i, counted(&f))
				}
			}
			if keys < 2 {
				t.Errorf("%d key frames in 20 frames, want one each 10", keys)
			}
			in.Close()
			if err := <-done; err != nil {
				t.Fatalf("Run after the stream's end: %v, want nil", err)
			}
			browser.Close()
			if err := r.ReadFrame(ctx, &f); !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		})
	}
}

func TestTranscoderScalesAndTurns(t *testing.T) {
	in, done := media.NewTap(0), make(chan error, 1)
	tc := NewTranscoder(TranscodeConfig{Width: 32, Height: 32, Rotation: 90}, in)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { done <- tc.Run(ctx) }()
	in.Publish(packetsOf(t, "bt709-limited.mp4")[0])
	r := open(t, Config{Packets: tc.Tap()})
	var f media.Frame
	if err := r.ReadFrame(ctx, &f); err != nil {
		t.Fatal(err)
	}
	if f.Width != 16 || f.Height != 32 {
		t.Errorf("frame is %dx%d, want 16x32", f.Width, f.Height)
	}
	// The first patch, white, is at the top right when turned clockwise.
	if p := f.Pix[(4*16+12)*3:][:3]; !near([3]int{255, 255, 255}, int(p[0]), int(p[1]), int(p[2]), 30) {
		t.Errorf("top right is %v, want white", p)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run after its context's end: %v", err)
	}
}

// Viewers come and go: the tap outlives each Run.
func TestTranscoderRunsAgain(t *testing.T) {
	in := media.NewTap(0)
	tc := NewTranscoder(TranscodeConfig{}, in)
	sub := tc.Tap().Subscribe()
	all := packetsOf(t, "counting.mp4")
	for round := range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		done := make(chan error, 1)
		go func() { done <- tc.Run(ctx) }()
		in.Publish(all[10*round])
		p, err := sub.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Key {
			t.Errorf("round %d begins without a key frame", round)
		}
		cancel()
		<-done
	}
}

func TestTranscoderWaitsForAPublisher(t *testing.T) {
	in := media.NewTap(0)
	in.Close()
	if err := NewTranscoder(TranscodeConfig{}, in).Run(t.Context()); err != nil {
		t.Errorf("Run on a closed tap: %v, want nil", err)
	}
}

// A camera that is set to another size goes on; so does the transcoder.
func TestSizeMayChange(t *testing.T) {
	all := packetsOf(t, "counting.mp4")
	mixed := media.NewTap(0)
	r := Supervise(Config{Packets: mixed, Tap: media.NewTap(0)})
	defer r.Close()
	again := NewTranscoder(TranscodeConfig{}, mixed)
	sub, done := again.Tap().Subscribe(), make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { done <- again.Run(ctx) }()
	var f media.Frame
	for i, width := range []int{64, 128, 32} {
		in, one := media.NewTap(0), make(chan error, 1)
		tc := NewTranscoder(TranscodeConfig{Width: width, Height: width}, in)
		small := tc.Tap().Subscribe()
		go func() { one <- tc.Run(ctx) }()
		in.Publish(all[0])
		p, err := small.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		in.Close()
		if err := <-one; err != nil {
			t.Fatal(err)
		}
		q := *p
		q.At = media.At(p.At.Capture, time.Duration(i)*time.Second/10)
		mixed.Publish(&q)
		if err := r.ReadFrame(ctx, &f); err != nil {
			t.Fatal(err)
		}
		if f.Width != width || f.Height != width/2 || r.Info().Width != width {
			t.Errorf("frame is %dx%d, want a width of %d; info %+v", f.Width, f.Height, width, r.Info())
		}
		if _, err := sub.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	mixed.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
