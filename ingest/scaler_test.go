package ingest

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

// grain is a picture of noise.
func grain(t testing.TB, w, h int, format astiav.PixelFormat) *astiav.Frame {
	t.Helper()
	f := astiav.AllocFrame()
	t.Cleanup(f.Free)
	f.SetWidth(w)
	f.SetHeight(h)
	f.SetPixelFormat(format)
	if err := f.AllocBuffer(0); err != nil {
		t.Fatal(err)
	}
	n, err := f.ImageBufferSize(1)
	if err != nil {
		t.Fatal(err)
	}
	b, seed := make([]byte, n), uint32(w*h)
	for i := range b {
		seed = seed*1664525 + 1013904223
		b[i] = byte(seed >> 24)
		if format == astiav.PixelFormatYuv420P10Le && i%2 == 1 {
			b[i] &= 3
		}
	}
	if err := f.Data().SetBytes(b, 1); err != nil {
		t.Fatal(err)
	}
	return f
}

// The converter gives to the bit what FFmpeg's filters give, writes nothing
// beside the picture, and leaves nothing of what was there before.
func TestConverterIsTheFilter(t *testing.T) {
	formats := append([]astiav.PixelFormat{astiav.PixelFormatYuv444P, astiav.PixelFormatYuvj444P, astiav.PixelFormatYuv410P, astiav.PixelFormatYuv420P10Le, astiav.PixelFormatGray8,
		astiav.PixelFormatRgb24, astiav.PixelFormatBgr24, astiav.PixelFormatRgba, astiav.PixelFormatBgr0, astiav.PixelFormatGbrp, astiav.PixelFormatYuyv422}, planar...)
	for _, format := range formats {
		for _, c := range []struct {
			w, h, rotation int
			cfg            Config
		}{
			{160, 90, 0, Config{Width: 64, Height: 36}},
			{160, 90, 90, Config{Width: 64, Height: 36}},
			{98, 102, 180, Config{Width: 66, Height: 30}},
			{98, 102, 270, Config{Width: 30, Height: 66}},
			{66, 38, 0, Config{Width: 130, Height: 101}},
			{66, 38, 0, Config{}},
			{67, 39, 90, Config{}},
		} {
			t.Run(fmt.Sprintf("%v/%dx%d@%d to %dx%d", format, c.w, c.h, c.rotation, c.cfg.Width, c.cfg.Height), func(t *testing.T) {
				in := grain(t, c.w, c.h, format)
				var s, reference scaler
				defer s.close()
				defer reference.close()
				s.rotation = c.rotation
				var f media.Frame
				f.Reset(150, 150)
				whole := f.Pix[:cap(f.Pix)]
				for i := range whole {
					whole[i] = 0xA5
				}
				if err := s.rgb(in, &c.cfg, &f); err != nil {
					t.Fatal(err)
				}
				s.close() // and it goes on after that
				if err := s.rgb(in, &c.cfg, &f); err != nil {
					t.Fatal(err)
				}
				if rest := whole[len(f.Pix):]; !bytes.Equal(rest, bytes.Repeat([]byte{0xA5}, len(rest))) {
					t.Error("wrote behind the picture")
				}
				// The same as filters: what was done before, then scale, and pad.
				l, graph := s.at, ""
				if d := s.key.description(); d != "" {
					graph = d + ","
				}
				graph += fmt.Sprintf("scale=%d:%d:flags=bilinear+accurate_rnd+full_chroma_int:in_color_matrix=%s:in_range=%s:out_range=pc,format=rgb24,pad=%d:%d:(ow-iw)/2:(oh-ih)/2",
					l.sw, l.sh, l.matrix, l.in, l.all[0], l.all[1])
				if err := reference.buildGraph(in, graph); err != nil {
					t.Fatal(err)
				}
				out, err := reference.filter(in)
				if err != nil {
					t.Fatal(err)
				}
				defer out.Unref()
				want, err := out.Data().Bytes(1)
				if err != nil {
					t.Fatal(err)
				}
				if out.Width() != f.Width || out.Height() != f.Height || !bytes.Equal(want, f.Pix) {
					t.Errorf("%dx%d, the filters give %dx%d, or other pixels", f.Width, f.Height, out.Width(), out.Height())
				}
			})
		}
	}
}
