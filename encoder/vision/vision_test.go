package vision

import (
	"bytes"
	"testing"
)

// Stage by stage parity with the reference is tested in vlm, on its goldens.

func gradient(w, h int) Image {
	m := Image{w, h, make([]byte, 3*w*h)}
	for i := range m.Pix {
		m.Pix[i] = byte(i * 7)
	}
	return m
}

func TestResizeKeepsAPlainPicture(t *testing.T) {
	for f := Lanczos; f <= Hamming; f++ {
		for _, a := range []Arithmetic{Pillow, PyTorch} {
			m := Image{17, 9, bytes.Repeat([]byte{200}, 3*17*9)}
			for _, size := range [][2]int{{5, 4}, {40, 31}, {17, 3}, {1, 1}} {
				out, err := Resize(m, size[0], size[1], f, a)
				if err != nil {
					t.Fatal(err)
				}
				if len(out.Pix) != 3*size[0]*size[1] {
					t.Fatalf("%d bytes", len(out.Pix))
				}
				for _, p := range out.Pix {
					if p < 199 || p > 201 {
						t.Fatalf("filter %d, %v: 200 became %d", f, size, p)
					}
				}
			}
		}
	}
}

func TestResizeRefuses(t *testing.T) {
	for _, c := range []struct {
		m    Image
		w, h int
		f    Filter
	}{{gradient(4, 4), 0, 4, Bicubic}, {gradient(4, 4), 2, 2, 0}, {gradient(4, 4), 2, 2, 9}, {Image{4, 4, nil}, 2, 2, Bicubic}} {
		if _, err := Resize(c.m, c.w, c.h, c.f, Pillow); err == nil {
			t.Errorf("%dx%d filter %d was done", c.w, c.h, c.f)
		}
	}
}

func TestCropPadsWithBlack(t *testing.T) {
	m := gradient(3, 2)
	out := Crop(m, -1, -1, 5, 4)
	if !bytes.Equal(out.Pix[3*(5+1):3*(5+4)], m.Pix[:9]) || !bytes.Equal(out.Pix[:15], make([]byte, 15)) {
		t.Errorf("%v", out.Pix)
	}
	if out := Crop(m, 10, 10, 2, 2); !bytes.Equal(out.Pix, make([]byte, 12)) {
		t.Errorf("outside: %v", out.Pix)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for _, bad := range []string{`{`, `{}`, `{"image_mean":[0,0,0],"image_std":[1,0,1]}`, `{"image_mean":[0,0,0],"image_std":[1,1,1],"resample":0}`,
		`{"image_mean":[0,0,0],"image_std":[1,1,1],"size":{"height":-1}}`, `{"image_mean":[0,0,0],"image_std":[1,1,1],"image_grid_pinpoints":[[0,5]]}`} {
		if _, err := ParseConfig([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	c, err := ParseConfig([]byte(`{"image_mean":[0,0,0],"image_std":[1,1,1],"size":224}`))
	if err != nil || c.Size.ShortestEdge != 224 || c.Resample != Bicubic {
		t.Errorf("%+v %v", c, err)
	}
}

// A Work gives what is made anew, whatever it prepared before, and allocates for
// the first picture only.
func TestWorkIsUsedAgain(t *testing.T) {
	yes := true
	c := Config{Size: Size{ShortestEdge: 20, LongestEdge: 40, Height: 20, Width: 24}, CropSize: Size{Height: 28, Width: 16}, MaxImageSize: Size{LongestEdge: 16}, Resample: Lanczos, DoResize: &yes}
	var k Work
	for name, prepare := range map[string]func(*Work, Image) (Image, error){
		"whole": c.Whole, "video": c.VideoFrame, "crop": c.CenterCrop,
		"square": func(k *Work, m Image) (Image, error) { return c.Square(k, m, PyTorch) },
	} {
		for i, size := range [][2]int{{64, 36}, {30, 90}, {64, 36}, {20, 20}, {300, 40}} {
			m := gradient(size[0], size[1])
			for j := range m.Pix {
				m.Pix[j] += byte(31 * i)
			}
			want, err := prepare(nil, m)
			if err != nil {
				t.Fatal(err)
			}
			k.Reset()
			got, err := prepare(&k, m)
			if err != nil || got.W != want.W || got.H != want.H || !bytes.Equal(got.Pix, want.Pix) {
				t.Errorf("%s of picture %d: %dx%d, made anew %dx%d, or other pixels: %v", name, i, got.W, got.H, want.W, want.H, err)
			}
			if n := testing.AllocsPerRun(5, func() {
				k.Reset()
				_, _ = prepare(&k, m)
			}); n > 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	}
	for i := range 3 * mostPlans {
		k.Reset()
		if _, err := k.Resize(gradient(5, 4), i+1, 3, Bicubic, Pillow); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.plans) > mostPlans {
		t.Errorf("%d plans are kept", len(k.plans))
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"image_mean":[0.5,0.5,0.5],"image_std":[0.5,0.5,0.5],"size":{"longest_edge":64},"max_image_size":{"longest_edge":32},"image_grid_pinpoints":[[32,64]]}`), uint8(9), uint8(7))
	f.Fuzz(func(t *testing.T, data []byte, w, h uint8) {
		c, err := ParseConfig(data)
		if err != nil || c.Size.LongestEdge > 64 || c.Size.Height > 64 || c.Size.Width > 64 || c.Size.ShortestEdge > 64 || c.MaxImageSize.LongestEdge > 64 || len(c.GridPinpoints) > 4 {
			return
		}
		for _, g := range c.GridPinpoints {
			if g[0] > 64 || g[1] > 64 {
				return
			}
		}
		m := gradient(int(w)+1, int(h)+1)
		_, _, _, _ = c.Split(m)
		var k Work
		_, _ = c.VideoFrame(&k, m)
		_, _ = c.CenterCrop(&k, m)
		_, _ = c.Square(nil, m, Pillow)
		if c.CropSize.Height == 0 || c.CropSize.Height > 8 {
			_, _ = c.AnyRes(m)
		}
	})
}
