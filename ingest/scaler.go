package ingest

import (
	"fmt"
	"math"
	"slices"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

// scaler is one filter graph that turns, scales and converts the decoder's
// pictures. It is built anew when what goes in or what is wanted changes.
type scaler struct {
	rotation int // clockwise degrees by which the picture is to be turned

	graph *astiav.FilterGraph
	src   *astiav.BuffersrcFilterContext
	sink  *astiav.BuffersinkFilterContext
	out   *astiav.Frame
	key   scalerKey
}

// scalerKey is all that a graph depends on.
type scalerKey struct {
	w, h     int
	format   astiav.PixelFormat
	space    astiav.ColorSpace
	rng      astiav.ColorRange
	rotation int
	want     picture
}

// picture is a form of picture to make: its size (0: the source's), and the
// tail of the filter graph.
type picture struct {
	w, h int
	// fit scales down into w by h and keeps the shape, instead of letterboxing.
	fit  bool
	form string
}

// The forms of pictures: for the encoder, for JPEG and for VP8.
const (
	formRGB  = "out_range=pc,format=rgb24"
	formJPEG = "out_color_matrix=bt601:out_range=pc,format=yuvj420p"
	formVP8  = "out_color_matrix=bt601:out_range=tv,format=yuv420p"
)

// planar are the formats of nearly all video.
var planar = []astiav.PixelFormat{astiav.PixelFormatYuv420P, astiav.PixelFormatYuvj420P, astiav.PixelFormatYuv422P, astiav.PixelFormatYuvj422P, astiav.PixelFormatNv12}

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
	a := m.Rotation() // clockwise
	if math.IsNaN(a) {
		return 0
	}
	return ((int(math.Round(a/90))*90)%360 + 360) % 360
}

func (s *scaler) build(f *astiav.Frame, key scalerKey) error {
	s.close()
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
	if err := s.graph.Parse(key.description(), inputs, outputs); err != nil {
		return err
	}
	if err := s.graph.Configure(); err != nil {
		return err
	}
	s.key = key // only now: a graph that failed is tried again
	return nil
}

// description writes the graph: turn, scale with the source's colours, pad.
func (k *scalerKey) description() string {
	w, h, turn := k.w, k.h, ""
	switch k.rotation {
	case 90:
		turn, w, h = "transpose=clock,", h, w
	case 180:
		turn = "hflip,vflip,"
	case 270:
		turn, w, h = "transpose=cclock,", h, w
	}
	W, H := k.want.w, k.want.h
	if W == 0 || H == 0 {
		W, H = w, h
	}
	sw, sh, pad := W, H, ""
	if shape := float64(w) * float64(H) / (float64(h) * float64(W)); k.want.fit || shape > 1.02 || shape < 0.98 {
		if shape > 1 {
			sh = max(int(math.Round(float64(W)*float64(h)/float64(w))), 1)
		} else {
			sw = max(int(math.Round(float64(H)*float64(w)/float64(h))), 1)
		}
		if k.want.fit {
			sw, sh = max(min(sw, w)&^1, 2), max(min(sh, h)&^1, 2) // 4:2:0 has no odd sizes
		} else {
			pad = fmt.Sprintf(",pad=%d:%d:(ow-iw)/2:(oh-ih)/2", W, H)
		}
	}
	// Sources that do not tell are, by custom, BT.709 from 720 lines on and BT.601 below.
	matrix := "bt601"
	if k.space == astiav.ColorSpaceBt709 || k.space == astiav.ColorSpaceUnspecified && min(w, h) >= 720 {
		matrix = "bt709"
	}
	in := "tv"
	switch {
	case k.rng == astiav.ColorRangeJpeg, k.format == astiav.PixelFormatYuvj420P, k.format == astiav.PixelFormatYuvj422P, k.format == astiav.PixelFormatYuvj444P:
		in = "pc"
	}
	from := "in_color_matrix=" + matrix + ":in_range=" + in
	if k.want.form == formRGB && sw < w && sh < h && slices.Contains(planar, k.format) {
		// Planes scale with the CPU's vectors, RGB does not: smaller first, then RGB, takes a third less than both at once.
		turn += fmt.Sprintf("scale=%d:%d:flags=bilinear+accurate_rnd:%s:out_color_matrix=%s:out_range=%s,format=yuv444p,", sw, sh, from, matrix, in)
	}
	return fmt.Sprintf("%sscale=%d:%d:flags=bilinear+accurate_rnd+full_chroma_int:%s:%s%s", turn, sw, sh, from, k.want.form, pad)
}

// scale gives f in the form wanted. The result is valid until the next call and
// is to be unreferenced.
func (s *scaler) scale(f *astiav.Frame, want picture) (*astiav.Frame, error) {
	key := scalerKey{f.Width(), f.Height(), f.PixelFormat(), f.ColorSpace(), f.ColorRange(), s.rotation, want}
	if s.graph == nil || s.key != key {
		s.key = scalerKey{}
		if err := s.build(f, key); err != nil {
			return nil, fmt.Errorf("build the filter graph: %w", err)
		}
	}
	if err := s.src.AddFrame(f, keepRef); err != nil {
		return nil, fmt.Errorf("feed the filter graph: %w", err)
	}
	if err := s.sink.GetFrame(s.out, noFlags); err != nil {
		return nil, fmt.Errorf("read the filter graph: %w", err)
	}
	return s.out, nil
}

var (
	keepRef = astiav.NewBuffersrcFlags(astiav.BuffersrcFlagKeepRef)
	noFlags = astiav.NewBuffersinkFlags()
)

// rgb puts f into dst as Config wants it.
func (s *scaler) rgb(f *astiav.Frame, cfg *Config, dst *media.Frame) error {
	out, err := s.scale(f, picture{w: cfg.Width, h: cfg.Height, form: formRGB})
	if err != nil {
		return err
	}
	defer out.Unref()
	dst.Reset(out.Width(), out.Height())
	copyRGB(dst.Pix, out)
	return nil
}
