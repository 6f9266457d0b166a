package pipeline

import "github.com/lookout-video/lookout/media"

// gate tells frames that show nothing new from the rest, before any model sees
// them. It compares with the last frame that passed, not with the previous one:
// a slow drift adds up until it passes.
type gate struct {
	threshold float64 // mean absolute change of a cell's brightest channel, 0..255
	last      []uint8
	cur       []uint8
	held      int // frames held back in a row
}

// The picture is compared in cells of cell x cell pixels: their mean hides
// sensor noise, and one changed cell is enough to pass.
const cell = 8

// pass reports whether f differs enough to be looked at.
func (g *gate) pass(f *media.Frame) bool {
	if g.threshold <= 0 {
		return true
	}
	w, h := f.Width/cell, f.Height/cell
	if n := w * h; cap(g.cur) < n {
		g.cur = make([]uint8, n)
	}
	g.cur = g.cur[:w*h]
	for y := range h {
		for x := range w {
			sum := 0
			for dy := range cell {
				row := f.Pix[((y*cell+dy)*f.Width+x*cell)*3:]
				for i := 0; i < cell*3; i += 3 {
					sum += int(row[i]) + 2*int(row[i+1]) + int(row[i+2])
				}
			}
			g.cur[y*w+x] = uint8(sum / (4 * cell * cell))
		}
	}
	if len(g.last) != len(g.cur) {
		g.accept()
		return true
	}
	total, peak := 0, 0
	for i, v := range g.cur {
		d := int(v) - int(g.last[i])
		if d < 0 {
			d = -d
		}
		total += d
		peak = max(peak, d)
	}
	// A small thing that moves changes few cells by much; light and noise
	// change many by little.
	if float64(total)/float64(len(g.cur)) < g.threshold && float64(peak) < 16*g.threshold {
		g.held++
		return false
	}
	g.accept()
	return true
}

// forget makes the next frame pass: the one that did was not looked at.
func (g *gate) forget() { g.last = g.last[:0] }

func (g *gate) accept() {
	g.held = 0
	g.last, g.cur = g.cur, g.last
	if g.cur == nil {
		g.cur = make([]uint8, len(g.last))
	}
}
