package vlm

import (
	"math"

	"github.com/lookout-video/lookout/tensor"
)

// grid is features laid out as a picture: [h, w, c].
type grid struct {
	h, w, c int
	data    []float32
}

// arrange puts the features of tiles, [rows*cols, side*side, c], where they
// are in the picture.
func arrange(f []float32, rows, cols, side, c int) grid {
	g := grid{rows * side, cols * side, c, make([]float32, rows*cols*side*side*c)}
	for t := range rows * cols {
		for y := range side {
			from := (t*side + y) * side * c
			to := ((t/cols*side+y)*g.w + t%cols*side) * c
			copy(g.data[to:to+side*c], f[from:])
		}
	}
	return g
}

// unpad cuts off what shows the border around a picture of w by h pixels.
func (g grid) unpad(w, h int) grid {
	round := func(x float64) int { return int(math.Round(x*1e7) / 1e7) }
	if float64(w)/float64(h) > float64(g.w)/float64(g.h) {
		pad := (g.h - round(float64(h)*(float64(g.w)/float64(w)))) / 2
		return grid{g.h - 2*pad, g.w, g.c, g.data[pad*g.w*g.c : (g.h-pad)*g.w*g.c]}
	}
	pad := (g.w - round(float64(w)*(float64(g.h)/float64(h)))) / 2
	out := grid{g.h, g.w - 2*pad, g.c, make([]float32, 0, g.h*(g.w-2*pad)*g.c)}
	for y := range g.h {
		out.data = append(out.data, g.data[(y*g.w+pad)*g.c:(y*g.w+g.w-pad)*g.c]...)
	}
	return out
}

// resize interpolates bilinearly, without a wider filter for shrinking, as
// PyTorch's interpolate does.
func (g grid) resize(h, w int) grid { return g.resizeInto(make([]float32, h*w*g.c), h, w) }

func (g grid) resizeInto(dst []float32, h, w int) grid {
	out := grid{h, w, g.c, dst[:h*w*g.c]}
	place := func(i, in, n int) (int, int, float32) {
		x := max(0, (float32(i)+0.5)*(float32(in)/float32(n))-0.5)
		lo := min(int(x), in-1)
		return lo, min(lo+1, in-1), x - float32(lo)
	}
	for y := range h {
		y0, y1, fy := place(y, g.h, h)
		for x := range w {
			x0, x1, fx := place(x, g.w, w)
			to := out.data[(y*w+x)*g.c:][:g.c]
			a, b := g.data[(y0*g.w+x0)*g.c:], g.data[(y0*g.w+x1)*g.c:]
			c, d := g.data[(y1*g.w+x0)*g.c:], g.data[(y1*g.w+x1)*g.c:]
			for k := range to {
				to[k] = (1-fy)*((1-fx)*a[k]+fx*b[k]) + fy*((1-fx)*c[k]+fx*d[k])
			}
		}
	}
	return out
}

// withNewline ends each row with the newline's embedding, if there is one.
func (g grid) withNewline(newline []float32) []float32 {
	out := make([]float32, 0, g.h*(g.w+1)*g.c)
	for y := range g.h {
		out = append(out, g.data[y*g.w*g.c:(y+1)*g.w*g.c]...)
		out = append(out, newline...)
	}
	return out
}

// pack joins the features of a picture and its tiles: the whole first, then
// the tiles as one picture, unpadded, each row ended by a newline; shrunk when
// there are more than mostTiles tiles' worth.
func pack(f tensor.View[float32], rows, cols, side, w, h, mostTiles int, newline []float32) []float32 {
	n, c := f.Shape[1]*f.Shape[2], f.Shape[2]
	g := arrange(f.Data[n:], rows, cols, side, c).unpad(w, h)
	if mostTiles > 0 {
		ratio := math.Sqrt(float64(g.h*g.w) / (float64(mostTiles) * float64(side*side)))
		if ratio > 1.1 {
			g = g.resize(int(math.Floor(float64(g.h)/ratio)), int(math.Floor(float64(g.w)/ratio)))
		}
	}
	return append(append([]float32(nil), f.Data[:n]...), g.withNewline(newline)...)
}
