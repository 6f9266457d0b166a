// Package vision turns pictures into the pixels that public vision models were
// trained on: resized, cropped, tiled and normalised as the reference library
// does it, bit for bit where that is defined.
package vision

import (
	"fmt"
	"math"
)

// Image is packed RGB, 8 bits a sample, row after row without padding.
type Image struct {
	W, H int
	Pix  []byte
}

// Filter is a resampling filter, numbered as image processors' files do.
type Filter int

// The filters of Pillow, but for the nearest neighbour.
const (
	Lanczos  Filter = 1
	Bilinear Filter = 2
	Bicubic  Filter = 3
	Box      Filter = 4
	Hamming  Filter = 5
)

// Arithmetic is whose fixed-point numbers a resize follows. They differ by one
// level at most.
type Arithmetic int

// Who resizes: still pictures go through Pillow, videos through PyTorch.
const (
	Pillow Arithmetic = iota
	PyTorch
)

func (f Filter) kernel() (support float64, at func(float64) float64, err error) {
	sinc := func(x float64) float64 {
		if x == 0 {
			return 1
		}
		x *= math.Pi
		return math.Sin(x) / x
	}
	switch f {
	case Lanczos:
		return 3, func(x float64) float64 {
			if -3 <= x && x < 3 {
				return sinc(x) * sinc(x/3)
			}
			return 0
		}, nil
	case Bilinear:
		return 1, func(x float64) float64 { return max(0, 1-math.Abs(x)) }, nil
	case Bicubic:
		const a = -0.5
		return 2, func(x float64) float64 {
			switch x = math.Abs(x); {
			case x < 1:
				return ((a+2)*x-(a+3))*x*x + 1
			case x < 2:
				return (((x-5)*x+8)*x - 4) * a
			}
			return 0
		}, nil
	case Box:
		return 0.5, func(x float64) float64 {
			if x > -0.5 && x <= 0.5 {
				return 1
			}
			return 0
		}, nil
	case Hamming:
		return 1, func(x float64) float64 {
			x = math.Abs(x)
			if x >= 1 {
				return 0
			}
			return sinc(x) * (0.54 + 0.46*math.Cos(math.Pi*x))
		}, nil
	}
	return 0, nil, fmt.Errorf("vision: resampling filter %d is not supported", f)
}

// taps are the weights that make one output sample from input samples.
type taps struct {
	from   int
	weight []int32
}

// plan makes the taps for in samples resized to out, and their scale in bits.
func plan(in, out int, f Filter, a Arithmetic) ([]taps, uint, error) {
	support, at, err := f.kernel()
	if err != nil {
		return nil, 0, err
	}
	scale := float64(in) / float64(out)
	wide := max(scale, 1) // shrinking widens the filter: no aliasing
	support *= wide
	list := make([]taps, out)
	weights := make([][]float64, out)
	most := 0.0
	for i := range list {
		center := scale * (float64(i) + 0.5)
		from := max(0, int(center-support+0.5))
		n := min(in, int(center+support+0.5)) - from
		w := make([]float64, n)
		sum := 0.0
		for k := range w {
			w[k] = at((float64(k+from) - center + 0.5) / wide)
			sum += w[k]
		}
		for k := range w {
			if sum != 0 {
				w[k] /= sum
			}
			most = max(most, w[k])
		}
		list[i].from, weights[i] = from, w
	}
	bits := uint(22) // Pillow's: 32 less 8 for the sample and 2 for overshoot
	if a == PyTorch {
		for bits = 0; bits < 22 && int(0.5+most*float64(int(1)<<(bits+1))) < 1<<15; bits++ {
		}
	}
	for i, w := range weights {
		list[i].weight = make([]int32, len(w))
		for k, x := range w {
			list[i].weight[k] = int32(math.Round(x * float64(int(1)<<bits)))
		}
	}
	return list, bits, nil
}

// Resize scales m to w by h.
func Resize(m Image, w, h int, f Filter, a Arithmetic) (Image, error) {
	return (*Work)(nil).Resize(m, w, h, f, a)
}

// Resize scales m to w by h.
func (k *Work) Resize(m Image, w, h int, f Filter, a Arithmetic) (Image, error) {
	if w <= 0 || h <= 0 || m.W <= 0 || m.H <= 0 || len(m.Pix) < 3*m.W*m.H {
		return Image{}, fmt.Errorf("vision: cannot resize %dx%d to %dx%d", m.W, m.H, w, h)
	}
	// Between the passes samples are clipped, so their order can be seen.
	// Pillow since 13.0 goes down first when that saves it much.
	if a == Pillow && m.H > h && m.H-h > 2*(m.W-w) {
		m, err := k.vertical(m, h, f, a)
		if err != nil {
			return m, err
		}
		return k.horizontal(m, w, f, a)
	}
	m, err := k.horizontal(m, w, f, a)
	if err != nil {
		return m, err
	}
	return k.vertical(m, h, f, a)
}

func (k *Work) horizontal(m Image, w int, f Filter, a Arithmetic) (Image, error) {
	t, bits, err := k.plan(m.W, w, f, a)
	if err != nil || w == m.W {
		return m, err
	}
	out := Image{w, m.H, k.bytes(3 * w * m.H)}
	for y := range m.H {
		row, to := m.Pix[3*y*m.W:3*(y+1)*m.W], out.Pix[3*y*w:]
		for x := range t {
			r, g, b := int32(1)<<(bits-1), int32(1)<<(bits-1), int32(1)<<(bits-1)
			for i, c := range t[x].weight {
				p := row[3*(t[x].from+i):]
				r, g, b = r+c*int32(p[0]), g+c*int32(p[1]), b+c*int32(p[2])
			}
			to[3*x], to[3*x+1], to[3*x+2] = clip(r>>bits), clip(g>>bits), clip(b>>bits)
		}
	}
	return out, nil
}

func (k *Work) vertical(m Image, h int, f Filter, a Arithmetic) (Image, error) {
	t, bits, err := k.plan(m.H, h, f, a)
	if err != nil || h == m.H {
		return m, err
	}
	n := 3 * m.W
	out := Image{m.W, h, k.bytes(n * h)}
	sum := k.row(n)
	for y := range t {
		for i := range sum {
			sum[i] = 1 << (bits - 1)
		}
		for j, c := range t[y].weight {
			row := m.Pix[n*(t[y].from+j):][:n]
			for i, p := range row {
				sum[i] += c * int32(p)
			}
		}
		to := out.Pix[n*y:]
		for i, s := range sum {
			to[i] = clip(s >> bits)
		}
	}
	return out, nil
}

func clip(x int32) byte { return byte(min(max(x, 0), 255)) }

// Crop cuts the w by h picture at x, y out of m; what lies outside is black.
func Crop(m Image, x, y, w, h int) Image { return (*Work)(nil).crop(m, x, y, w, h) }

func (k *Work) crop(m Image, x, y, w, h int) Image {
	out := Image{w, h, k.bytes(3 * w * h)}
	if x < 0 || y < 0 || x+w > m.W || y+h > m.H {
		clear(out.Pix)
	}
	for row := max(0, -y); row < h && y+row < m.H; row++ {
		from, to := max(0, x), min(m.W, x+w)
		if from < to {
			copy(out.Pix[3*(row*w+from-x):], m.Pix[3*((y+row)*m.W+from):3*((y+row)*m.W+to)])
		}
	}
	return out
}
