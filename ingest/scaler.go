package ingest

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

// scaler is one filter graph that turns, scales and converts the decoder's
// pictures. It is built anew when what goes in or what is wanted changes. For
// the encoder the graph's last step is a converter instead, which writes into
// the frame's own memory: a filter only gives memory of its own, to be copied.
type scaler struct {
	rotation int // clockwise degrees by which the picture is to be turned

	rgbOut converter
	graph  *astiav.FilterGraph // nil when the converter does it all
	src    *astiav.BuffersrcFilterContext
	sink   *astiav.BuffersinkFilterContext
	out    *astiav.Frame
	key    scalerKey
	at     layout
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
// tail of the filter graph, which RGB has none of.
type picture struct {
	w, h int
	// fit scales down into w by h and keeps the shape, instead of letterboxing.
	fit  bool
	form string
}

// The forms of pictures: for the encoder, for JPEG and for VP8.
const (
	formRGB  = "rgb24"
	formJPEG = "out_color_matrix=bt601:out_range=pc,format=yuvj420p"
	formVP8  = "out_color_matrix=bt601:out_range=tv,format=yuv420p"
)

// planar are the formats of nearly all video.
var planar = []astiav.PixelFormat{astiav.PixelFormatYuv420P, astiav.PixelFormatYuvj420P, astiav.PixelFormatYuv422P, astiav.PixelFormatYuvj422P, astiav.PixelFormatNv12}

func (s *scaler) close() {
	s.key = scalerKey{} // that of no picture
	s.rgbOut.close()
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
	if d := key.description(); d != "" {
		if err := s.buildGraph(f, d); err != nil {
			return err
		}
	}
	s.key, s.at = key, key.layout() // only now: a graph that failed is tried again
	return nil
}

func (s *scaler) buildGraph(f *astiav.Frame, description string) error {
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
	if err := s.graph.Parse(description, inputs, outputs); err != nil {
		return err
	}
	return s.graph.Configure()
}

// layout is where a picture lies in the one that is wanted.
type layout struct {
	turn       string // as filters; the sizes below are what is seen after it
	w, h       int    // of the source
	all        [2]int // width and height of what is wanted
	sw, sh     int    // of the source in it; the rest is black
	matrix, in string // the source's colours
	// first says that the planes are scaled before they become RGB: planes scale with
	// the CPU's vectors, RGB does not, which takes a third less than both at once.
	first bool
}

func (k *scalerKey) layout() layout {
	l := layout{w: k.w, h: k.h}
	switch k.rotation {
	case 90:
		l.turn, l.w, l.h = "transpose=clock", k.h, k.w
	case 180:
		l.turn = "hflip,vflip"
	case 270:
		l.turn, l.w, l.h = "transpose=cclock", k.h, k.w
	}
	W, H := k.want.w, k.want.h
	if W == 0 || H == 0 {
		W, H = l.w, l.h
	}
	l.sw, l.sh = W, H
	if shape := float64(l.w) * float64(H) / (float64(l.h) * float64(W)); k.want.fit || shape > 1.02 || shape < 0.98 {
		if shape > 1 {
			l.sh = max(int(math.Round(float64(W)*float64(l.h)/float64(l.w))), 1)
		} else {
			l.sw = max(int(math.Round(float64(H)*float64(l.w)/float64(l.h))), 1)
		}
		if k.want.fit {
			l.sw, l.sh = max(min(l.sw, l.w)&^1, 2), max(min(l.sh, l.h)&^1, 2) // 4:2:0 has no odd sizes
			W, H = l.sw, l.sh
		}
	}
	l.all = [2]int{W, H}
	// Sources that do not tell are, by custom, BT.709 from 720 lines on and BT.601 below.
	l.matrix = "bt601"
	if k.space == astiav.ColorSpaceBt709 || k.space == astiav.ColorSpaceUnspecified && min(l.w, l.h) >= 720 {
		l.matrix = "bt709"
	}
	l.in = "tv"
	switch {
	case k.rng == astiav.ColorRangeJpeg, k.format == astiav.PixelFormatYuvj420P, k.format == astiav.PixelFormatYuvj422P, k.format == astiav.PixelFormatYuvj444P:
		l.in = "pc"
	}
	l.first = k.want.form == formRGB && l.sw < l.w && l.sh < l.h && slices.Contains(planar, k.format)
	return l
}

// description writes the graph: turn, and scale with the source's colours. It is
// empty where the converter needs no graph in front of it.
func (k *scalerKey) description() string {
	l := k.layout()
	var steps []string
	if l.turn != "" {
		steps = append(steps, l.turn)
	}
	from := "in_color_matrix=" + l.matrix + ":in_range=" + l.in
	switch {
	case l.first:
		steps = append(steps, fmt.Sprintf("scale=%d:%d:flags=bilinear+accurate_rnd:%s:out_color_matrix=%s:out_range=%s,format=yuv444p", l.sw, l.sh, from, l.matrix, l.in))
	case k.want.form != formRGB:
		steps = append(steps, fmt.Sprintf("scale=%d:%d:flags=bilinear+accurate_rnd+full_chroma_int:%s:%s", l.sw, l.sh, from, k.want.form))
	}
	return strings.Join(steps, ",")
}

// prepare builds what turns f into what is wanted.
func (s *scaler) prepare(f *astiav.Frame, want picture) error {
	key := scalerKey{f.Width(), f.Height(), f.PixelFormat(), f.ColorSpace(), f.ColorRange(), s.rotation, want}
	if s.key == key {
		return nil
	}
	if err := s.build(f, key); err != nil {
		return fmt.Errorf("build the filter graph: %w", err)
	}
	return nil
}

// scale gives f in the form wanted. The result is valid until the next call and
// is to be unreferenced.
func (s *scaler) scale(f *astiav.Frame, want picture) (*astiav.Frame, error) {
	if err := s.prepare(f, want); err != nil {
		return nil, err
	}
	return s.filter(f)
}

func (s *scaler) filter(f *astiav.Frame) (*astiav.Frame, error) {
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
	if err := s.prepare(f, picture{w: cfg.Width, h: cfg.Height, form: formRGB}); err != nil {
		return err
	}
	if s.graph != nil {
		out, err := s.filter(f)
		if err != nil {
			return err
		}
		defer out.Unref()
		f = out
	}
	// The graph may give another format: some cannot be turned.
	todo := conversion{w: f.Width(), h: f.Height(), format: f.PixelFormat(), toW: s.at.sw, toH: s.at.sh, bt709: s.at.matrix == "bt709", full: s.at.in == "pc"}
	if s.rgbOut.conversion != todo {
		if err := s.rgbOut.open(todo); err != nil {
			return fmt.Errorf("convert %v to RGB: %w", todo.format, err)
		}
	}
	W, H := s.at.all[0], s.at.all[1]
	dst.Reset(W, H)
	x, y, row := (W-s.at.sw)/2, (H-s.at.sh)/2, W*3
	inside := dst.Pix[y*row+x*3:]
	if err := s.rgbOut.convert(f, inside, row); err != nil {
		return err
	}
	// What was in dst before shows in the borders no more.
	clear(dst.Pix[:y*row])
	clear(dst.Pix[(y+s.at.sh)*row:])
	for i := y; i < y+s.at.sh && s.at.sw < W; i++ {
		clear(dst.Pix[i*row : i*row+x*3])
		clear(dst.Pix[i*row+(x+s.at.sw)*3 : (i+1)*row])
	}
	return nil
}
