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
		want   [][]int // rows read
		done   Reduction
	}{
		{"the newest is whole, and older ones have what has changed since", []tensor.View[float32]{tokensOf(x, y, z), tokensOf(y, y, x), tokensOf(z, y, x)},
			[][]int{{0, 2}, {0}, {0, 1, 2}}, Reduction{Kept: 3, Merged: 3}},
		{"a slow change is seen against where it began", []tensor.View[float32]{tokensOf(x, y), tokensOf([]float32{1, .2, 0}, z), tokensOf([]float32{1, .4, 0}, y), tokensOf([]float32{1, .6, 0}, z), tokensOf([]float32{1, .8, 0}, y)},
			[][]int{{1}, {0, 1}, {1}, {1}, {0, 1}}, Reduction{Kept: 5, Merged: 3}},
		{"a frame is never left out whole", []tensor.View[float32]{tokensOf(x, y, z), tokensOf(x, []float32{0, 1, .01}, z), tokensOf(x, y, z)},
			[][]int{{1}, {1}, {0, 1, 2}}, Reduction{Kept: 2, Merged: 4}},
		{"what has another shape is no repetition", []tensor.View[float32]{tokensOf(x, y, z), tokensOf(x, y)},
			[][]int{{0, 1, 2}, {0, 1}}, Reduction{}},
	} {
		r, s := reducer{above: 0.95}, Session{}
		for i, f := range c.frames {
			if i > 0 {
				r.thin(s.frames, f)
			}
			s.frames = append(s.frames, s.newFrame(f, 0))
		}
		for i, f := range s.frames {
			if !slices.Equal(f.rows, c.want[i]) {
				t.Errorf("%s: of frame %d rows %v are read, want %v", c.what, i, f.rows, c.want[i])
			}
		}
		if r.done != c.done {
			t.Errorf("%s: counted %+v, want %+v", c.what, r.done, c.done)
		}
	}
}

// What is left out keeps its place, where the graph is told of places.
func TestPlacesAreThoseOfWholeFrames(t *testing.T) {
	whole := tokensOf([]float32{1}, []float32{2}, []float32{3})
	for _, c := range []struct {
		rows [][]int
		want []int64
	}{
		{[][]int{{0, 1, 2}, {0, 1, 2}, {0, 1, 2}}, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
		{[][]int{{0, 2}, {1}, {0, 1, 2}}, []int64{0, 1, 3, 4, 6, 8, 9, 10, 11, 12}},
		{[][]int{{2}, {0}, {0, 1, 2}}, []int64{0, 3, 4, 5, 8, 9, 10, 11, 12}},
	} {
		s := Session{m: &Model{g: &graphs{placed: true}}}
		names := []int64{7} // a token of text
		for _, rows := range c.rows {
			f := s.newFrame(whole, 0)
			f.rows = rows
			s.frames = append(s.frames, f)
			for name := range f.visual {
				names = append(names, name)
			}
			names = append(names, 7)
		}
		if got := s.places(names); !slices.Equal(got, c.want) {
			t.Errorf("rows %v: places %v, want %v", c.rows, got, c.want)
		}
		s.m.g.placed = false
		if got := s.places(names); got[len(got)-1] != int64(len(names)-1) {
			t.Errorf("rows %v: places %v of a graph that is told of none", c.rows, got)
		}
	}
}

// What is left out makes no room for more frames than a model would be shown otherwise.
func TestTheWindowIsAsLongWithReduce(t *testing.T) {
	s := Session{m: &Model{g: &graphs{limit: 160}}}
	whole := tensor.View[float32]{Shape: tensor.Shape{10, 1}, Data: make([]float32, 10)}
	s.frames = []frame{s.newFrame(whole, 0)}
	if !s.fits(10) {
		t.Fatal("no room for a second frame")
	}
	s.frames = append(s.frames, s.newFrame(whole, 0))
	for _, rows := range [][]int{s.all, {3}} {
		s.frames[0].rows, s.frames[1].rows = rows, rows
		if s.fits(10) {
			t.Errorf("room for a third frame while of the others %d tokens are read", len(rows))
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
			if above < 0.9 && done != (Reduction{}) || above == 0.9 && (done.Kept == 0 || done.Merged == 0) {
				t.Errorf("%s: above %v counted %+v", name, above, done)
			}
		}
		if !slices.Equal(said[0], said[1]) {
			t.Errorf("%s: said %q, and %q with nothing left out", name, said[0], said[1])
		}
	}
}
