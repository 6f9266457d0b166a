package bench

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strings"
)

// The plots are drawn here: two kinds, some rectangles and lines each, are less
// than a library and its fonts.
const (
	plotW, plotH = 640, 320
	left, right  = 150, 24
	top, bottom  = 44, 44
)

var ink = []string{"#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626"}

// plot draws the scenario: its curves when values are named name@x, else a bar
// for the first value that all sides have. It is nil when there is nothing to draw.
func (s *ScenarioResult) plot() []byte {
	type line struct {
		name string
		x    []float64
		y    []Spread
	}
	var curves []line
	for _, side := range s.Sides {
		for _, name := range valueNames(side.Values) {
			curve, x, ok := point(name)
			if !ok {
				continue
			}
			label := side.Name + " " + curve
			if len(curves) == 0 || curves[len(curves)-1].name != label {
				curves = append(curves, line{name: label})
			}
			c := &curves[len(curves)-1]
			c.x, c.y = append(c.x, x), append(c.y, side.Values[name])
		}
	}
	var b bytes.Buffer
	if len(curves) > 0 {
		high, x0, x1 := 0.0, math.Inf(1), math.Inf(-1)
		for _, c := range curves {
			for i, y := range c.y {
				high, x0, x1 = max(high, y.Max), min(x0, c.x[i]), max(x1, c.x[i])
			}
		}
		high, x1 = nice(high), max(x1, x0+1e-9)
		px := func(x float64) float64 { return left + (x-x0)/(x1-x0)*(plotW-left-right) }
		py := func(y float64) float64 { return plotH - bottom - y/high*(plotH-top-bottom) }
		begin(&b, s.Text)
		for i := range 5 {
			y := high * float64(i) / 4
			fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#8884"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
				left, plotW-right, py(y), py(y), left-8, py(y)+4, figure(y))
		}
		for _, x := range []float64{x0, x1} {
			fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", px(x), plotH-bottom+18, trim(x))
		}
		for i, c := range curves {
			color := ink[i%len(ink)]
			var way strings.Builder
			for k, x := range c.x {
				fmt.Fprintf(&way, "%.1f,%.1f ", px(x), py(c.y[k].Median))
				fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-opacity=".5"/><circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n",
					px(x), px(x), py(c.y[k].Min), py(c.y[k].Max), color, px(x), py(c.y[k].Median), color)
			}
			fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%d" y="%d" fill="%s">%s</text>`+"\n",
				strings.TrimSpace(way.String()), color, left+8+i%3*160, plotH-8+(-14)*(i/3), color, html.EscapeString(c.name))
		}
		b.WriteString("</svg>\n")
		return b.Bytes()
	}
	name := ""
	if len(s.Sides) > 0 {
		for _, n := range valueNames(s.Sides[0].Values) {
			shared := true
			for _, side := range s.Sides {
				_, ok := side.Values[n]
				shared = shared && (ok || side.Missing != "")
			}
			if shared {
				name = n
				break
			}
		}
	}
	if name == "" {
		return nil
	}
	high := 0.0
	for _, side := range s.Sides {
		high = max(high, side.Values[name].Max)
	}
	if high = nice(high); high == 0 {
		return nil
	}
	begin(&b, s.Text)
	step := float64(plotH-top-bottom) / float64(len(s.Sides))
	px := func(v float64) float64 { return left + v/high*(plotW-left-right-60) }
	for i, side := range s.Sides {
		y := top + step*float64(i)
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`, left-8, y+step/2+4, html.EscapeString(side.Name))
		v, ok := side.Values[name]
		if !ok {
			fmt.Fprintf(&b, `<text x="%d" y="%.1f" fill="#888">missing</text>`+"\n", left+4, y+step/2+4)
			continue
		}
		fmt.Fprintf(&b, `<rect x="%d" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, left, y+step*0.2, px(v.Median)-left, step*0.6, ink[i%len(ink)])
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#888" stroke-width="2"/>`, px(v.Min), px(v.Max), y+step/2, y+step/2)
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f">%s</text>`+"\n", px(v.Max)+6, y+step/2+4, figure(v.Median))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d">%s: median, least and largest run</text></svg>`+"\n", left, plotH-16, html.EscapeString(name))
	return b.Bytes()
}

func begin(b *bytes.Buffer, title string) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="#666">`+"\n", plotW, plotH)
	fmt.Fprintf(b, `<title>%s</title><text x="16" y="24" font-size="14">%s</text>`+"\n", html.EscapeString(title), html.EscapeString(title))
}

// nice rounds an axis's end up to 1, 2, 2.5 or 5 times a power of ten.
func nice(v float64) float64 {
	if v <= 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, k := range []float64{1, 2, 2.5, 5} {
		if v <= k*p {
			return k * p
		}
	}
	return 10 * p
}

func trim(x float64) string {
	s := fmt.Sprintf("%.2f", x)
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}
