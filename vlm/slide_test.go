package vlm

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/internal/ort/kernels"
	"github.com/lookout-video/lookout/media"
)

// A cache that is written in place, bit by bit, gives what one reading gives.
func TestInPlace(t *testing.T) {
	env := environment(t)
	s, err := env.NewSession(ort.Source{Path: "../llm/testdata/half/decoder.onnx"}, ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	g, err := newGraphs(nil, s, text{Hidden: 32, Vocab: 269, KVHeads: 2, HeadDim: 16, Positions: 64})
	if err != nil {
		t.Fatal(err)
	}
	if !g.inPlace {
		t.Fatal("a decoder with GroupQueryAttention does not write its cache in place")
	}
	d := g.newDecoder()
	defer d.close()
	embeds := make([]float32, 40*g.width)
	for i := range embeds {
		embeds[i] = float32(i*7919%101)/50 - 1
	}
	for _, n := range []int{5, 1, 1, 12, -9, 1, 3, 1, 1} {
		if n < 0 { // a rewind
			d.cut(d.len + n)
			continue
		}
		if err := d.read(t.Context(), embeds[d.len*g.width:(d.len+n)*g.width], nil, n); err != nil {
			t.Fatal(err)
		}
		whole := g.newDecoder()
		defer whole.close()
		if err := whole.read(t.Context(), embeds[:d.len*g.width], nil, d.len); err != nil {
			t.Fatal(err)
		}
		closeTo(t, "logits", d.logits, whole.logits, 1e-4)
	}
}

// A graph in float32 whose cache is kept in 16 bits, where this CPU gains by it, gives
// bit by bit what it gives at once, and nearly what it gives with a cache in float32.
func TestHalfCache(t *testing.T) {
	env, err := ort.Open(ort.Config{Device: "cpu", Threads: 2, CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer env.Close()
	load := func(opt ort.Options) *graphs {
		s, err := env.NewSession(ort.Source{Path: "../model/default/decoder.onnx"}, opt)
		if err != nil {
			t.Fatal(err)
		}
		g, err := newGraphs(nil, s, text{Hidden: 192, Vocab: 640, KVHeads: 2, HeadDim: 32, Positions: 512})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	full, halved := load(ort.Options{}), load(ort.Options{HalfCache: true})
	if full.half || halved.half != kernels.Supported() || !halved.inPlace {
		t.Fatalf("in 16 bits: %v and %v, in place: %v", full.half, halved.half, halved.inPlace)
	}
	embeds := make([]float32, 40*full.width)
	for i := range embeds {
		embeds[i] = float32(i*7919%101)/50 - 1
	}
	read := func(g *graphs, parts ...int) []float32 {
		d := g.newDecoder()
		defer d.close()
		for _, n := range parts {
			if err := d.read(t.Context(), embeds[d.len*g.width:(d.len+n)*g.width], nil, n); err != nil {
				t.Fatal(err)
			}
		}
		return append([]float32(nil), d.logits...)
	}
	once := read(halved, 40)
	closeTo(t, "bit by bit", read(halved, 5, 1, 1, 12, 20, 1), once, 1e-4)
	var off, all float64
	for i, want := range read(full, 40) {
		off, all = off+math.Pow(float64(once[i]-want), 2), all+math.Pow(float64(want), 2)
	}
	if r := math.Sqrt(off / all); !(r < 0.02) { // products make their rows into 8 bits, some of them into the next number
		t.Errorf("logits are off by %v of their length", r)
	}
}

// A decoded token allocates nothing in Go where the cache is written in place.
func TestDecodingDoesNotAllocate(t *testing.T) {
	env := environment(t)
	s, err := env.NewSession(ort.Source{Path: "../llm/testdata/half/decoder.onnx"}, ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	embed, err := env.NewSession(ort.Source{Path: "../llm/testdata/half/embed.onnx"}, ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer embed.Close()
	g, err := newGraphs(nil, s, text{Hidden: 32, Vocab: 269, KVHeads: 2, HeadDim: 16, Positions: 64})
	if err != nil {
		t.Fatal(err)
	}
	g.embed = embed
	x := Session{m: &Model{g: g, embed: embed}, d: g.newDecoder()}
	defer x.d.close()
	ids := []int64{3, 1, 4, 1, 5, 9, 2, 6}
	looked, err := x.m.embeddings(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	whole := g.newDecoder()
	defer whole.close()
	if err := whole.read(t.Context(), looked, nil, len(ids)); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if err := x.next(t.Context(), int(id)); err != nil {
			t.Fatal(err)
		}
	}
	closeTo(t, "logits", x.d.logits, whole.logits, 1e-4)
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		if err := x.next(ctx, 7); err != nil {
			t.Fatal(err)
		}
		if _, err := x.d.greedy(); err != nil {
			t.Fatal(err)
		}
		x.d.cut(len(ids))
	}); n != 0 {
		t.Errorf("%v allocations a token", n)
	}
}

func closeTo(t *testing.T, what string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d and %d", what, len(got), len(want))
	}
	for i := range got {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= tolerance*(1+math.Abs(float64(want[i])))) {
			t.Fatalf("%s: %d is %v, want %v", what, i, got[i], want[i])
		}
	}
}

// The first layer's keys and values depend on a token and its place only: after
// the window has slid many times they are those of the same prompt read from
// scratch, and the prompt has not grown. So too where older frames lose tokens.
func TestSlide(t *testing.T) {
	env := environment(t)
	for _, c := range []struct {
		name   string
		reduce float64
	}{{"smolvlm-a", 0}, {"smolvlm-b", 0}, {"smolvlm-a", 0.9}, {"smolvlm-b", 0.7}} {
		name := fmt.Sprintf("%s, reduce %v", c.name, c.reduce)
		g := unpack(t, "testdata/"+c.name+".tar.gz")
		m, err := Open(g.dir, env, Options{Frames: 3, Slide: true, Reduce: c.reduce})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		anew, err := Open(g.dir, env, Options{Frames: 3})
		if err != nil {
			t.Fatal(err)
		}
		defer anew.Close()
		s, err := m.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		fresh, err := anew.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		defer fresh.Close()
		rows := map[int64][]float32{}
		length := 0
		for i := range 9 {
			f := picture(50, 38, i+3, time.Duration(i)*time.Second)
			v, err := m.EncodeFrame(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.AppendFrame(t.Context(), v, f.At); err != nil {
				t.Fatal(err)
			}
			last := s.frames[len(s.frames)-1]
			for r := range v.Shape[0] {
				rows[-2-last.name-int64(r)] = v.At(r).Data
			}
			if err := fresh.AppendFrame(t.Context(), v, f.At); err != nil {
				t.Fatal(err)
			}
			got, want := say(t, s, "What happens?", 8), say(t, fresh, "What happens?", 8)
			if i < 3 && got != want && c.reduce == 0 {
				t.Errorf("%s: before it slides it says %q, not %q", name, got, want)
			}
			if i == 2 {
				length = s.Len()
			}
		}
		var shown, read []int64
		thinned := false
		for _, f := range s.frames {
			for name := range f.visual {
				shown = append(shown, name)
			}
			thinned = thinned || len(f.rows) > 1 && len(f.rows) < f.tokens.Shape[0]
		}
		for _, id := range s.read {
			if id <= -2 {
				read = append(read, id)
			}
		}
		if !slices.Equal(read, shown) {
			t.Errorf("%s: the cache holds %v of the frames' %v", name, read, shown)
		}
		if thinned != (c.reduce > 0) {
			t.Errorf("%s: lost tokens: %v, counted %+v", name, thinned, s.Reduced())
		}
		if s.Len() != length && c.reduce == 0 {
			t.Errorf("%s: a prompt of %d tokens has become %d", name, length, s.Len())
		}
		if again := say(t, s, "What happens?", 8); again != say(t, s, "What happens?", 8) {
			t.Errorf("%s: a question changes the next answer", name)
		}
		d := m.g.newDecoder()
		defer d.close()
		embeds := make([]float32, 0, len(s.read)*m.Width())
		for _, id := range s.read {
			row := rows[id]
			if row == nil {
				if row, err = m.embeddings(t.Context(), []int64{id}); err != nil {
					t.Fatal(err)
				}
			}
			embeds = append(embeds, row...)
		}
		if err := d.readAt(t.Context(), embeds, nil, s.places(s.read)); err != nil {
			t.Fatal(err)
		}
		for i, what := range []string{"keys", "values"} {
			n := d.len * m.g.headDim
			for h := range m.g.heads {
				closeTo(t, name+": "+what, s.d.f32[s.d.cur][i][h*n:(h+1)*n], d.f32[d.cur][i][h*n:(h+1)*n], 1e-4)
			}
		}
	}
}

// What an update costs does not grow: after a day of stream the prompt has as
// many tokens as when the window was full first, but for the digits of the time.
func TestADayCostsNoMoreThanAMinute(t *testing.T) {
	m, err := Open(unpack(t, "testdata/smolvlm-a.tar.gz").dir, environment(t), Options{Frames: 3, Slide: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s, err := m.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := picture(50, 38, 1, 0)
	v, err := m.EncodeFrame(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	update := func(at time.Duration) int {
		if err := s.AppendFrame(t.Context(), v, media.At(time.Time{}, at)); err != nil {
			t.Fatal(err)
		}
		if err := s.prompt(t.Context(), Request{Question: "What happens?"}); err != nil {
			t.Fatal(err)
		}
		return s.d.len
	}
	length := 0
	for i := range 200 {
		at := time.Duration(i) * time.Second
		if i >= 10 {
			at = time.Duration(i) * 24 * time.Hour / 200
		}
		n := update(at)
		if i == 5 {
			length = n
		}
		if i > 5 && (n < length || n > length+3*8) {
			t.Fatalf("after %v the prompt has %d tokens, after 5 s it had %d", at, n, length)
		}
	}
}

func TestCanSlide(t *testing.T) {
	for name, want := range map[string]bool{"smolvlm-a": true, "smolvlm-b": true, "idefics3-a": false, "llava_next-a": false, "llama-a": false} {
		if got := CanSlide(unpack(t, "testdata/"+name+".tar.gz").dir); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestSlideIsRefused(t *testing.T) {
	env := environment(t)
	if _, err := Open(unpack(t, "testdata/llava_next-a.tar.gz").dir, env, Options{Slide: true}); err == nil {
		t.Error("a layout that cannot slide was opened to")
	}
	for _, c := range []text{{ModelType: "llama", RopeScaling: []byte(`{"rope_type":"yarn","factor":4}`)}, {ModelType: "phi", RopeTheta: 1}, {ModelType: "llama", Partial: 0.5}} {
		if _, err := newRope(c, 16); err == nil {
			t.Errorf("%+v passed", c)
		}
	}
	if _, err := newRope(text{ModelType: "llama", RopeScaling: []byte(`null`)}, 16); err != nil {
		t.Error(err)
	}
}
