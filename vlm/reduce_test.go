package vlm

import (
	"slices"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

func tokensOf(rows ...[]float32) tensor.View[float32] {
	return tensor.View[float32]{Shape: tensor.Shape{len(rows), len(rows[0])}, Data: slices.Concat(rows...)}
}

func TestReducer(t *testing.T) {
	x, y, z := []float32{1, 0, 0}, []float32{0, 1, 0}, []float32{0, 0, 1}
	for _, c := range []struct {
		what   string
		frames []tensor.View[float32]
		oldest []int64
		want   []tensor.View[float32]
		done   Reduction
	}{
		{"what stands is not read again, and never nothing at all", []tensor.View[float32]{tokensOf(x, y, z), tokensOf(x, y, x), tokensOf(x, y, x)}, []int64{0, 0, 0},
			[]tensor.View[float32]{tokensOf(x, y, z), tokensOf(x), tokensOf(x)}, Reduction{Read: 5, Reused: 4}},
		{"what has left the window is read anew", []tensor.View[float32]{tokensOf(x, y, z), tokensOf(x, z, z), tokensOf(x, z, z)}, []int64{0, 0, 1},
			[]tensor.View[float32]{tokensOf(x, y, z), tokensOf(z), tokensOf(x, z)}, Reduction{Read: 6, Reused: 3}},
		{"neighbours that are alike become one", []tensor.View[float32]{tokensOf(x, []float32{2, 0, 0}, y, z)}, []int64{0},
			[]tensor.View[float32]{tokensOf([]float32{1.5, 0, 0}, y, z)}, Reduction{Read: 3, Merged: 1}},
	} {
		r := reducer{above: 0.95}
		for i, f := range c.frames {
			got := r.take(f, c.oldest[i], int64(i))
			if !got.Shape.Equal(c.want[i].Shape) || !slices.Equal(got.Data, c.want[i].Data) {
				t.Errorf("%s: frame %d gives %v, want %v", c.what, i, got.Data, c.want[i].Data)
			}
		}
		if r.done != c.done {
			t.Errorf("%s: counted %+v, want %+v", c.what, r.done, c.done)
		}
	}
}

// A stream of which fewer tokens are read goes on sliding, and with a threshold
// that nothing passes it says what it says without.
func TestReduceInAStream(t *testing.T) {
	env := environment(t)
	for _, name := range []string{"smolvlm-a", "llava_next-a"} {
		dir := unpack(t, "testdata/"+name+".tar.gz").dir
		said := map[float64][]string{}
		for _, above := range []float64{0, 1, 0.9} {
			m, err := Open(dir, env, Options{Frames: 3, Slide: CanSlide(dir), Reduce: min(above, 0.9)})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			s, err := m.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if above == 1 { // a session's own
				s.Reduce(1)
			}
			for i := range 6 {
				f := picture(50, 38, i/3, 0) // two scenes, each seen thrice
				v, err := m.EncodeFrame(t.Context(), f)
				if err == nil {
					err = s.AppendFrame(t.Context(), v, media.At(time.Time{}, time.Duration(i)*time.Second))
				}
				if err != nil {
					t.Fatal(err)
				}
				said[above] = append(said[above], say(t, s, "What happens?", 6))
			}
			done := s.Reduced()
			if above < 0.9 && done != (Reduction{}) || above == 0.9 && (done.Read == 0 || done.Reused == 0) {
				t.Errorf("%s: above %v counted %+v", name, above, done)
			}
		}
		if !slices.Equal(said[0], said[1]) {
			t.Errorf("%s: said %q, and %q with nothing left out", name, said[0], said[1])
		}
	}
}
