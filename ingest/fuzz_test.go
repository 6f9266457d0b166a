package ingest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
)

// FuzzFile opens damaged files: the demuxers, the filter into Annex B, the
// decoders and the scaler behind them must refuse or go on, never crash.
func FuzzFile(f *testing.F) {
	clips, err := filepath.Glob("testdata/*.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, clip := range clips {
		b, err := os.ReadFile(clip)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "clip")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(t.Context(), Config{URL: path, Width: 32, Height: 32, ReadTimeout: 5 * time.Second, Stills: 1})
		if err != nil {
			return
		}
		defer r.Close()
		var frame media.Frame
		last := time.Duration(-1)
		for range 30 {
			if err := r.ReadFrame(t.Context(), &frame); err != nil {
				return
			}
			if frame.At.Media <= last || len(frame.Pix) != 32*32*3 {
				t.Fatalf("%d bytes at %v after %v", len(frame.Pix), frame.At.Media, last)
			}
			last = frame.At.Media
		}
	})
}

// FuzzPackets decodes damaged packets of each codec, as a publisher could send
// them.
func FuzzPackets(f *testing.F) {
	names := []media.Codec{media.H264, media.HEVC, media.VP8, media.VP9, media.AV1, media.MJPEG, media.MPEG4, media.MPEG2}
	for i, codec := range names {
		r, err := Open(f.Context(), Config{URL: "testdata/" + clips[codec]})
		if err != nil {
			f.Fatal(err)
		}
		var frame media.Frame
		sub := r.Tap().Subscribe()
		for r.ReadFrame(f.Context(), &frame) == nil {
			continue
		}
		r.Close()
		p, err := sub.Next(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), p.Data, p.Data)
	}
	f.Fuzz(func(t *testing.T, codec uint8, first, second []byte) {
		tap := media.NewTap(0)
		for i, data := range [][]byte{first, second} {
			tap.Publish(&media.Packet{Codec: names[int(codec)%len(names)], Key: i == 0, Data: data, At: media.At(time.Now(), time.Duration(i)*time.Second/25)})
		}
		r, err := Open(t.Context(), Config{Packets: tap, Width: 32, Height: 32, ReadTimeout: 10 * time.Millisecond, Stills: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		tap.Close()
		var frame media.Frame
		for r.ReadFrame(t.Context(), &frame) == nil {
			continue
		}
	})
}
