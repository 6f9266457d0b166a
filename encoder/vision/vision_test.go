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
		_, _ = c.VideoFrame(m)
		_, _ = c.CenterCrop(m)
		_, _ = c.Square(m, Pillow)
		if c.CropSize.Height == 0 || c.CropSize.Height > 8 {
			_, _ = c.AnyRes(m)
		}
	})
}
