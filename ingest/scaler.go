package ingest

import (
	"fmt"
	"math"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

// scaler is one filter graph from the decoder's pictures to packed full-range
// RGB. It is built anew when the source changes its format.
type scaler struct {
	rotation int // clockwise degrees by which the picture is to be turned

	graph *astiav.FilterGraph
	src   *astiav.BuffersrcFilterContext
	sink  *astiav.BuffersinkFilterContext
	out   *astiav.Frame
	key   scalerKey
}

type scalerKey struct {
	w, h   int
	format astiav.PixelFormat
	space  astiav.ColorSpace
	rng    astiav.ColorRange
}

func (s *scaler) close() {
	if s.graph != nil {
		s.graph.Free()
		s.graph = nil
	}
	if s.out != nil {
		s.out.Free()
		s.out = nil
	}
}

// rotation reads the display matrix, as phones write it.
func rotation(par *astiav.CodecParameters) int {
	m, ok := par.SideData().DisplayMatrix().Get()
	if !ok || m == nil {
		return 0
	}
	a := m.Rotation()
	if math.IsNaN(a) {
		return 0
	}
	// FFmpeg's angle is counter-clockwise.
	return ((int(math.Round(-a/90))*90)%360 + 360) % 360
}

func (s *scaler) build(f *astiav.Frame, cfg *Config) error {
	s.close()
	s.key = scalerKey{f.Width(), f.Height(), f.PixelFormat(), f.ColorSpace(), f.ColorRange()}
	s.graph, s.out = astiav.AllocFilterGraph(), astiav.AllocFrame()
	s.graph.SetThreadCount(1)
	var err error
	if s.src, err = s.graph.NewBuffersrcFilterContext(astiav.FindFilterByName("buffer"), "in"); err != nil {
		return err
	}
	if s.sink, err = s.graph.NewBuffersinkFilterContext(astiav.FindFilterByName("buffersink"), "out"); err != nil {
		return err
	}
	p := astiav.AllocBuffersrcFilterContextParameters()
	defer p.Free()
	p.SetWidth(f.Width())
	p.SetHeight(f.Height())
	p.SetPixelFormat(f.PixelFormat())
	p.SetTimeBase(astiav.NewRational(1, 1000000))
	p.SetColorSpace(f.ColorSpace())
	p.SetColorRange(f.ColorRange())
	if err := s.src.SetParameters(p); err != nil {
		return err
	}
	if err := s.src.Initialize(nil); err != nil {
		return err
	}
	outputs, inputs := astiav.AllocFilterInOut(), astiav.AllocFilterInOut()
	defer outputs.Free()
	defer inputs.Free()
	outputs.SetName("in")
	outputs.SetFilterContext(s.src.FilterContext())
	outputs.SetPadIdx(0)
	outputs.SetNext(nil)
	inputs.SetName("out")
	inputs.SetFilterContext(s.sink.FilterContext())
	inputs.SetPadIdx(0)
	inputs.SetNext(nil)
	if err := s.graph.Parse(s.description(f, cfg), inputs, outputs); err != nil {
		return err
	}
	return s.graph.Configure()
}

// description writes the graph: turn, scale with the source's colours, pad.
func (s *scaler) description(f *astiav.Frame, cfg *Config) string {
	w, h := f.Width(), f.Height()
	d := ""
	switch s.rotation {
	case 90:
		d, w, h = "transpose=clock,", h, w
	case 180:
		d = "hflip,vflip,"
	case 270:
		d, w, h = "transpose=cclock,", h, w
	}
	W, H := cfg.Width, cfg.Height
	if W == 0 || H == 0 {
		W, H = w, h
	}
	// Sources that do not tell are, by custom, BT.709 from 720 lines on and BT.601 below.
	matrix := "bt601"
	if f.ColorSpace() == astiav.ColorSpaceBt709 || f.ColorSpace() == astiav.ColorSpaceUnspecified && min(w, h) >= 720 {
		matrix = "bt709"
	}
	in := "tv"
	if f.ColorRange() == astiav.ColorRangeJpeg || f.PixelFormat() == astiav.PixelFormatYuvj420P || f.PixelFormat() == astiav.PixelFormatYuvj422P || f.PixelFormat() == astiav.PixelFormatYuvj444P {
		in = "pc"
	}
	sw, sh := W, H
	pad := ""
	if fit := float64(w) * float64(H) / (float64(h) * float64(W)); fit > 1.02 || fit < 0.98 {
		if fit > 1 {
			sh = max(int(math.Round(float64(W)*float64(h)/float64(w))), 1)
		} else {
			sw = max(int(math.Round(float64(H)*float64(w)/float64(h))), 1)
		}
		pad = fmt.Sprintf(",pad=%d:%d:(ow-iw)/2:(oh-ih)/2", W, H)
	}
	return fmt.Sprintf("%sscale=%d:%d:flags=bilinear+accurate_rnd+full_chroma_int:in_color_matrix=%s:in_range=%s:out_range=pc,format=rgb24%s", d, sw, sh, matrix, in, pad)
}

func (s *scaler) scale(f *astiav.Frame, cfg *Config, dst *media.Frame) error {
	if s.graph == nil || s.key != (scalerKey{f.Width(), f.Height(), f.PixelFormat(), f.ColorSpace(), f.ColorRange()}) {
		if err := s.build(f, cfg); err != nil {
			return fmt.Errorf("build the filter graph: %w", err)
		}
	}
	if err := s.src.AddFrame(f, astiav.NewBuffersrcFlags(astiav.BuffersrcFlagKeepRef)); err != nil {
		return fmt.Errorf("feed the filter graph: %w", err)
	}
	if err := s.sink.GetFrame(s.out, astiav.NewBuffersinkFlags()); err != nil {
		return fmt.Errorf("read the filter graph: %w", err)
	}
	defer s.out.Unref()
	dst.Reset(s.out.Width(), s.out.Height())
	_, err := s.out.ImageCopyToBuffer(dst.Pix, 1)
	return err
}
