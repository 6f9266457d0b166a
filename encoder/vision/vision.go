package vision

import (
	"encoding/json"
	"fmt"
	"math"
)

// Config is what preprocessor_config.json says.
type Config struct {
	Size           Size      `json:"size"`
	CropSize       Size      `json:"crop_size"`
	MaxImageSize   Size      `json:"max_image_size"`
	Resample       Filter    `json:"resample"`
	Rescale        float64   `json:"rescale_factor"`
	Mean           []float64 `json:"image_mean"`
	Std            []float64 `json:"image_std"`
	GridPinpoints  [][2]int  `json:"image_grid_pinpoints"` // height, width
	DoResize       *bool     `json:"do_resize"`
	DoCenterCrop   *bool     `json:"do_center_crop"`
	DoNormalize    *bool     `json:"do_normalize"`
	DoImageSplit   *bool     `json:"do_image_splitting"`
	ProcessorType  string    `json:"image_processor_type"`
	VideoProcessor string    `json:"video_processor_type"`
}

// Size is a size as these files write it: an edge, or height and width, or
// just a number.
type Size struct {
	Height       int `json:"height"`
	Width        int `json:"width"`
	ShortestEdge int `json:"shortest_edge"`
	LongestEdge  int `json:"longest_edge"`
}

// UnmarshalJSON reads either form.
func (s *Size) UnmarshalJSON(b []byte) error {
	var n int
	if json.Unmarshal(b, &n) == nil {
		*s = Size{Height: n, Width: n, ShortestEdge: n}
		return nil
	}
	type plain Size
	return json.Unmarshal(b, (*plain)(s))
}

// ParseConfig reads a preprocessor_config.json and checks what it must have.
func ParseConfig(data []byte) (Config, error) {
	c := Config{Resample: Bicubic, Rescale: 1.0 / 255}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("vision: preprocessor config: %w", err)
	}
	if !is(c.DoNormalize) {
		c.Mean, c.Std = []float64{0, 0, 0}, []float64{1, 1, 1}
	}
	if len(c.Mean) != 3 || len(c.Std) != 3 || c.Std[0] == 0 || c.Std[1] == 0 || c.Std[2] == 0 {
		return c, fmt.Errorf("vision: preprocessor config: image_mean %v and image_std %v are not three numbers each", c.Mean, c.Std)
	}
	if _, _, err := c.Resample.kernel(); err != nil {
		return c, err
	}
	for _, s := range []Size{c.Size, c.CropSize, c.MaxImageSize} {
		for _, n := range []int{s.Height, s.Width, s.ShortestEdge, s.LongestEdge} {
			if n < 0 || n > maxSide {
				return c, fmt.Errorf("vision: preprocessor config: size %+v", s)
			}
		}
	}
	for _, g := range c.GridPinpoints {
		if g[0] <= 0 || g[1] <= 0 || g[0] > maxSide || g[1] > maxSide {
			return c, fmt.Errorf("vision: preprocessor config: image_grid_pinpoints %v", g)
		}
	}
	return c, nil
}

const maxSide = 4096 // the reference's own bound

// is reads an option that is on unless it is said to be off.
func is(b *bool) bool { return b == nil || *b }

// Pixels writes m's samples as [3, H, W], normalised, and returns dst grown by them.
func (c *Config) Pixels(dst []float32, m Image) []float32 {
	n := m.W * m.H
	for ch := range 3 {
		mean, std := c.Mean[ch], c.Std[ch]
		var level [256]float32
		for i := range level {
			level[i] = float32((float64(i)*c.Rescale - mean) / std)
		}
		for i := range n {
			dst = append(dst, level[m.Pix[3*i+ch]])
		}
	}
	return dst
}

// Square resizes to the configured height and width (SigLIP).
func (c *Config) Square(k *Work, m Image, a Arithmetic) (Image, error) {
	h, w := c.Size.Height, c.Size.Width
	if h == 0 || w == 0 {
		return Image{}, fmt.Errorf("vision: preprocessor config: size has no height and width")
	}
	return k.Resize(m, w, h, c.Resample, a)
}

// CenterCrop resizes the shortest edge and cuts the middle out (CLIP).
func (c *Config) CenterCrop(k *Work, m Image) (Image, error) {
	var err error
	if is(c.DoResize) {
		switch s := c.Size; {
		case s.ShortestEdge > 0:
			w, h := s.ShortestEdge, s.ShortestEdge
			if m.W <= m.H {
				h = s.ShortestEdge * m.H / m.W
			} else {
				w = s.ShortestEdge * m.W / m.H
			}
			m, err = k.Resize(m, w, h, c.Resample, Pillow)
		case s.Height > 0 && s.Width > 0:
			m, err = k.Resize(m, s.Width, s.Height, c.Resample, Pillow)
		default:
			err = fmt.Errorf("vision: preprocessor config: size has no shortest_edge")
		}
		if err != nil {
			return Image{}, err
		}
	}
	if is(c.DoCenterCrop) && c.CropSize.Height > 0 && c.CropSize.Width > 0 {
		w, h := c.CropSize.Width, c.CropSize.Height
		x, y := (m.W-w)/2, (m.H-h)/2
		if w > m.W || h > m.H { // the reference pads, half a pixel the other way
			x, y = -((w - m.W + 1) / 2), -((h - m.H + 1) / 2)
		}
		m = k.crop(m, x, y, w, h)
	}
	return m, nil
}

// longest scales the longest edge to side; the other stays even.
func longest(w, h, side int) (int, int) {
	ratio := float64(w) / float64(h)
	if w >= h {
		w = side
		if h = int(float64(w) / ratio); h%2 != 0 {
			h++
		}
	} else {
		h = side
		if w = int(float64(h) * ratio); w%2 != 0 {
			w++
		}
	}
	return max(w, 1), max(h, 1)
}

// Split prepares a still for the SmolVLM and Idefics3 family: tiles row by
// row, then the whole picture; rows and cols are 0 when it is not split.
func (c *Config) Split(m Image) (tiles []Image, rows, cols int, err error) {
	side := c.MaxImageSize.LongestEdge
	if !is(c.DoImageSplit) {
		whole, err := c.Whole(nil, m)
		return []Image{whole}, 0, 0, err
	}
	if m, err = c.fit(nil, m); err != nil {
		return nil, 0, 0, err
	}
	up := func(n int) int { return (n + side - 1) / side * side }
	w, h := m.W, m.H
	ratio := float64(w) / float64(h)
	if w >= h {
		w = up(w)
		h = up(int(float64(w) / ratio))
	} else {
		h = up(h)
		w = up(int(float64(h) * ratio))
	}
	if m, err = Resize(m, max(w, side), max(h, side), c.Resample, Pillow); err != nil {
		return nil, 0, 0, err
	}
	if m.W > side || m.H > side {
		rows, cols = m.H/side, m.W/side
		for r := range rows {
			for k := range cols {
				tiles = append(tiles, Crop(m, k*side, r*side, side, side))
			}
		}
		if m, err = Resize(m, side, side, c.Resample, Pillow); err != nil {
			return nil, 0, 0, err
		}
	}
	return append(tiles, m), rows, cols, nil
}

// Whole prepares a picture for that family as one tile.
func (c *Config) Whole(k *Work, m Image) (Image, error) {
	m, err := c.fit(k, m)
	if err != nil {
		return m, err
	}
	return k.Resize(m, c.MaxImageSize.LongestEdge, c.MaxImageSize.LongestEdge, c.Resample, Pillow)
}

// fit resizes a picture to the size at which it is split.
func (c *Config) fit(k *Work, m Image) (Image, error) {
	if c.MaxImageSize.LongestEdge == 0 || c.Size.LongestEdge == 0 && c.Size.Height == 0 {
		return m, fmt.Errorf("vision: preprocessor config: max_image_size or size is missing")
	}
	if !is(c.DoResize) {
		return m, nil
	}
	w, h := c.Size.Width, c.Size.Height
	if c.Size.LongestEdge > 0 {
		w, h = longest(m.W, m.H, c.Size.LongestEdge)
		w, h = below(w, h)
	}
	return k.Resize(m, w, h, c.Resample, Pillow)
}

// below keeps a size within the reference's bound.
func below(w, h int) (int, int) {
	ratio := float64(w) / float64(h)
	if w >= h && w > maxSide {
		return maxSide, max(1, int(maxSide/ratio))
	}
	if h > w && h > maxSide {
		return max(1, int(maxSide*ratio)), maxSide
	}
	return w, h
}

// VideoFrame prepares one frame of a video for the SmolVLM family: never
// split, resized twice as the reference does it.
func (c *Config) VideoFrame(k *Work, m Image) (Image, error) {
	side := c.MaxImageSize.LongestEdge
	f := c.Resample
	if f == Lanczos {
		f = Bicubic // the reference's videos know no Lanczos
	}
	w, h := c.Size.Width, c.Size.Height
	if c.Size.LongestEdge > 0 {
		w, h = longest(m.W, m.H, min(maxSide, c.Size.LongestEdge))
	}
	m, err := k.Resize(m, w, h, f, PyTorch)
	if err != nil || side == 0 {
		return m, err
	}
	return k.Resize(m, side, side, f, PyTorch)
}

// Best is the grid (height, width) that shows most of a w by h picture and
// wastes least.
func (c *Config) Best(w, h int) (gh, gw int) {
	most, least := 0, math.MaxInt
	for _, g := range c.GridPinpoints {
		scale := min(float64(g[1])/float64(w), float64(g[0])/float64(h))
		shown := min(int(float64(w)*scale)*int(float64(h)*scale), w*h)
		wasted := g[0]*g[1] - shown
		if shown > most || shown == most && wasted < least {
			most, least, gh, gw = shown, wasted, g[0], g[1]
		}
	}
	return gh, gw
}

// AnyRes prepares a picture for the LLaVA-NeXT and LLaVA-OneVision family: the
// whole picture, then tiles of the best grid, row by row, with black borders.
func (c *Config) AnyRes(m Image) ([]Image, error) {
	sw, sh, tile := c.Size.Width, c.Size.Height, c.CropSize.Height
	if c.Size.ShortestEdge > 0 {
		sw, sh = c.Size.ShortestEdge, c.Size.ShortestEdge
	}
	if tile == 0 {
		tile = sh
	}
	gh, gw := c.Best(m.W, m.H)
	if sw == 0 || sh == 0 || gh == 0 {
		return nil, fmt.Errorf("vision: preprocessor config: size or image_grid_pinpoints is missing")
	}
	whole, err := Resize(m, sw, sh, c.Resample, Pillow)
	if err != nil {
		return nil, err
	}
	w, h := gw, gh
	if sx, sy := float64(gw)/float64(m.W), float64(gh)/float64(m.H); sx < sy {
		h = min(int(math.Ceil(float64(m.H)*sx)), gh)
	} else {
		w = min(int(math.Ceil(float64(m.W)*sy)), gw)
	}
	fit, err := Resize(m, w, h, c.Resample, Pillow)
	if err != nil {
		return nil, err
	}
	x, y := (gw-w)/2, (gh-h)/2
	tiles := []Image{whole}
	for ty := 0; ty < gh; ty += tile {
		for tx := 0; tx < gw; tx += tile {
			tiles = append(tiles, Crop(fit, tx-x, ty-y, tile, tile))
		}
	}
	return tiles, nil
}
