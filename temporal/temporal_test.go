package temporal

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/internal/testmodel"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB) *Module {
	t.Helper()
	m, err := Open(testmodel.Bundle(t), testmodel.Env(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func stream(t testing.TB, m *Module) *Stream {
	t.Helper()
	s, err := m.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func tokens(m *Module, seed uint64) tensor.View[float32] {
	v, r := tensor.Make[float32](m.patches, m.dim), rand.New(rand.NewPCG(seed, 1))
	for i := range v.Data {
		v.Data[i] = float32(r.NormFloat64())
	}
	return v
}

// at is the time of sample n at the model's rate, a little off, as real frames are.
func (m *Module) at(n int) media.Timestamp {
	d := time.Duration(float64(n) / m.fps * float64(time.Second))
	return media.At(time.Time{}, d+time.Duration(n%3-1)*7*time.Millisecond)
}

func furthest(a, b []float32) float64 {
	d := 0.0
	for i := range a {
		d = max(d, math.Abs(float64(a[i]-b[i])))
	}
	return d
}

// rounding is how far 8 bits alone can move a frame, as a share of its size; a
// past frame too many or too few moves it by more than that.
const rounding = 0.03

// apart is the root mean square of the difference as a share of b's. Slots in
// another order sum in another order, and where that turns the rounding to 8
// bits of one value it moves the frame a little, and those that look back at it.
func apart(a, b []float32) float64 {
	var diff, size float64
	for i := range a {
		d := float64(a[i] - b[i])
		diff += d * d
		size += float64(b[i]) * float64(b[i])
	}
	return math.Sqrt(diff / size)
}

// plain is the module without a ring: it keeps all frames and lays out, for
// each step, those of the last window, oldest first.
type plain struct {
	m    *Module
	s    *Stream // lends its buffers and its binding
	past []past
}

type past struct {
	n    int
	k, v []float32
}

func (p *plain) step(t *testing.T, n int, x tensor.View[float32]) (visual, state []float32) {
	t.Helper()
	m, s, slot := p.m, p.s, 0
	clear(s.ringK)
	clear(s.ringV)
	clear(s.age)
	frame := m.patches * m.dim
	for _, f := range p.past {
		if n-f.n > m.window {
			continue
		}
		s.age[slot] = int64(n - f.n)
		for l := range m.layers {
			copy(s.ringK[(l*m.window+slot)*frame:], f.k[l*frame:(l+1)*frame])
			copy(s.ringV[(l*m.window+slot)*frame:], f.v[l*frame:(l+1)*frame])
		}
		slot++
	}
	copy(s.tokens, x.Data)
	if err := s.b.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.past = append(p.past, past{n, append([]float32(nil), s.newK...), append([]float32(nil), s.newV...)})
	return append([]float32(nil), s.visual...), append([]float32(nil), s.state...)
}

// The ring equals keeping everything: past a full window, over skipped frames
// and after a pause longer than the window.
func TestRingEqualsKeepingAllFrames(t *testing.T) {
	m := open(t)
	s, ref := stream(t, m), &plain{m: m, s: stream(t, m)}
	n, moved := 0, 0.0
	var fresh *Stream
	for i := range m.window + 12 {
		switch {
		case i == m.window+9:
			n += m.window + 5
		case i%5 == 4:
			n += 3
		default:
			n++
		}
		x := tokens(m, uint64(i))
		got, err := s.Step(t.Context(), m.at(n), x)
		if err != nil {
			t.Fatal(err)
		}
		visual, state := ref.step(t, n, x)
		if a, b := slices.Sorted(slices.Values(s.age)), slices.Sorted(slices.Values(ref.s.age)); !slices.Equal(a, b) {
			t.Errorf("frame %d looks back %v samples, want %v", i, a, b)
		}
		if d := apart(got.Visual.Data, visual); d > rounding {
			t.Errorf("frame %d: visual tokens differ by %g of their size", i, d)
		}
		if d := apart(got.State.Data, state); d > rounding {
			t.Errorf("frame %d: state differs by %g of its size", i, d)
		}
		if fresh == nil {
			fresh = stream(t, m)
		}
		fresh.Reset()
		alone, err := fresh.Step(t.Context(), m.at(0), x)
		if err != nil {
			t.Fatal(err)
		}
		d := furthest(alone.State.Data, got.State.Data)
		if i == 0 || i == m.window+9 {
			if d > 1e-3 {
				t.Errorf("frame %d has no past, but differs by %g from a first frame", i, d)
			}
		} else {
			moved = max(moved, d)
		}
	}
	if moved == 0 && testmodel.Bundle(t).Version != "untrained" {
		t.Error("the past changes nothing")
	}
}

// From pixels: encoder and temporal module against the goldens. The encoder's
// graph is run here by hand, since stages do not import each other.
func TestTemporalGoldens(t *testing.T) {
	b := testmodel.Bundle(t)
	g, env, im := testmodel.Golden(t, b), testmodel.Env(t), b.Manifest.Image
	m, err := Open(b, env)
	if err != nil {
		t.Fatal(err)
	}
	enc, err := env.Load(b, "encoder.onnx", ort.Options{Outputs: []string{"tokens"}})
	if err != nil {
		t.Fatal(err)
	}
	run, err := enc.NewBinding()
	if err != nil {
		t.Fatal(err)
	}
	x, s := tensor.Make[float32](1, m.patches, m.dim), stream(t, m)
	if err := ort.Bind(run, "tokens", x); err != nil {
		t.Fatal(err)
	}
	for n, want := range g.Temporal {
		pix := tensor.View[uint8]{Shape: tensor.Shape{1, im.Height, im.Width, 3}, Data: testmodel.Picture(n, im.Width, im.Height).Pix}
		if err := ort.Bind(run, "pixels", pix); err != nil {
			t.Fatal(err)
		}
		if err := run.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := s.Step(t.Context(), m.at(want.Tick), x.At(0))
		if err != nil {
			t.Fatal(err)
		}
		testmodel.Near(t, "first visual token", got.Visual.At(0).Data, want.Visual[0])
		testmodel.Near(t, "last visual token", got.Visual.At(m.tokens-1).Data, want.Visual[1])
		testmodel.Near(t, "state", got.State.At(g.Patches[1]).Data, want.State)
	}
}

func TestStreamsAreApart(t *testing.T) {
	m := open(t)
	var want [6][]float32
	s := stream(t, m)
	for i := range want {
		st, err := s.Step(t.Context(), m.at(i), tokens(m, uint64(i)))
		if err != nil {
			t.Fatal(err)
		}
		want[i] = append([]float32(nil), st.Visual.Data...)
	}
	var wg sync.WaitGroup
	for k := range 3 {
		s := stream(t, m)
		wg.Go(func() {
			for i := range want {
				seed := uint64(i)
				if k > 0 {
					seed += uint64(100 * k)
				}
				st, err := s.Step(t.Context(), m.at(i), tokens(m, seed))
				if err != nil {
					t.Error(err)
					return
				}
				if d := furthest(st.Visual.Data, want[i]); k == 0 && d > 1e-5 {
					t.Errorf("frame %d differs by %g beside other streams", i, d)
				}
			}
		})
	}
	wg.Wait()
}

func TestStepLeavesThePastWhenItFails(t *testing.T) {
	m := open(t)
	s := stream(t, m)
	if _, err := s.Step(t.Context(), m.at(0), tokens(m, 0)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Step(ctx, m.at(1), tokens(m, 1)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if s.tick != 1 {
		t.Errorf("tick %d after a failed step", s.tick)
	}
	if _, err := s.Step(t.Context(), m.at(1), tensor.Make[float32](2, 2)); err == nil {
		t.Error("tokens of the wrong shape were taken")
	}
	s.Close()
	if _, err := s.Step(t.Context(), m.at(2), tokens(m, 2)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPeriods(t *testing.T) {
	s := &Stream{m: &Module{fps: 4}, tick: 1, last: time.Second}
	for at, want := range map[time.Duration]int64{
		1250 * time.Millisecond: 1, 1230 * time.Millisecond: 1, 1280 * time.Millisecond: 1, 1500 * time.Millisecond: 2, 11 * time.Second: 40,
		time.Second: 1, 0: 1, // a clock that stands still or goes back
	} {
		if got := s.periods(at); got != want {
			t.Errorf("%v: %d periods, want %d", at, got, want)
		}
	}
}

func TestStepDoesNotAllocate(t *testing.T) {
	m := open(t)
	s, x, ctx, n := stream(t, m), tokens(m, 1), t.Context(), 0
	if a := testing.AllocsPerRun(m.window+4, func() {
		n++
		if _, err := s.Step(ctx, m.at(n), x); err != nil {
			t.Fatal(err)
		}
	}); a != 0 {
		t.Errorf("%v allocations a frame", a)
	}
}

func TestNovelty(t *testing.T) {
	const patches, dim = 32, 4
	x := make([]float32, patches*dim)
	put := func(p int, angle float64, length float32) {
		x[p*dim], x[p*dim+1] = length*float32(math.Cos(angle)), length*float32(math.Sin(angle))
	}
	for p := range patches {
		put(p, 0, 2)
	}
	n := newNovelty(patches, dim)
	if s, k := n.step(x); s != 1 || k != patches {
		t.Errorf("first frame: %v, kept %d", s, k)
	}
	if s, k := n.step(x); s > 1e-6 || k != 0 {
		t.Errorf("the same again: %v, kept %d", s, k)
	}
	put(5, math.Pi/2, 3) // one place of 32: half of the two that count
	if s, k := n.step(x); math.Abs(float64(s)-0.5) > 1e-5 || k != 1 {
		t.Errorf("one new place: %v, kept %d", s, k)
	}
	// A drift of 3 degrees a frame is invisible from frame to frame (novelty
	// 0.0007), but adds up against what was kept.
	n.reset()
	most, kept := float32(0), 0
	for i := range 20 {
		for p := range patches {
			put(p, float64(i)*3*math.Pi/180, 1)
		}
		s, k := n.step(x)
		if i > 0 {
			most, kept = max(most, s), kept+k
		}
	}
	if most < 0.09 || kept != 2*patches {
		t.Errorf("a slow drift: novelty at most %v, kept %d", most, kept)
	}
}

func TestMemoryIsFlat(t *testing.T) {
	m := open(t)
	x := tokens(m, 1)
	testmodel.Flat(t, 40, 24<<10, func() { // a ring is 5 MB: one or two may wait for the collector
		s, err := m.NewStream()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if _, err := s.Step(t.Context(), m.at(i), x); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
	})
}

func TestGraphThatDoesNotFitTheManifest(t *testing.T) {
	b, env := testmodel.Bundle(t), testmodel.Env(t)
	b.Manifest.Encoder.Dim++
	if _, err := Open(b, env); err == nil || !strings.Contains(err.Error(), "temporal.onnx") || !strings.Contains(err.Error(), "does not fit the manifest") {
		t.Error(err)
	}
}
