package vlm

import (
	"slices"
	"sync"
	"testing"

	"github.com/lookout-video/lookout/internal/lane"
	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/internal/testmodel"
)

// several is a small decoder that writes its cache in place.
func several(t testing.TB) *graphs {
	t.Helper()
	env := environment(t)
	load := func(name string) *ort.Session {
		s, err := env.NewSession(ort.Source{Path: "../llm/testdata/half/" + name}, ort.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	g, err := newGraphs(nil, load("decoder.onnx"), text{Hidden: 32, Vocab: 269, KVHeads: 2, HeadDim: 16, Positions: 64})
	if err != nil {
		t.Fatal(err)
	}
	g.embed = load("embed.onnx")
	return g
}

// prompted has read n tokens, from the first on.
func prompted(t testing.TB, g *graphs, first, n int) *decoder {
	t.Helper()
	d := g.newDecoder()
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	for i := range n {
		if err := d.next1(t.Context(), nil, []int64{int64(first + 7*i)}, int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// goOn gives the likeliest tokens that follow, in a lane where there is one.
func goOn(t *testing.T, l *lanes, d *decoder, n int) (ids []int) {
	start := d.len
	defer d.cut(start)
	a := l.enter(d)
	defer l.leave(a)
	for range n {
		id, err := d.greedy()
		if err != nil {
			t.Error(err)
			return ids
		}
		ids = append(ids, id)
		if a == nil {
			err = d.next1(t.Context(), nil, []int64{int64(id)}, int64(d.len))
		} else {
			d.logits, err = a.Step(t.Context(), id)
		}
		if err != nil {
			t.Error(err)
			return ids
		}
	}
	return ids
}

// Sessions that speak at once say what each says alone, and are left as they
// were.
func TestLanesSayTheSame(t *testing.T) {
	g := several(t)
	l := newLanes(g, "cpu")
	if l == nil {
		t.Fatal("the decoder takes one session a run only")
	}
	defer l.close()
	const sessions = maxLanes + 2
	var alone [sessions][]int
	for i := range sessions {
		alone[i] = goOn(t, l, prompted(t, g, 3+i, 2+5*i), 20)
	}
	if begun, _, _, _ := l.State(); begun {
		t.Error("a session that spoke alone took a lane")
	}
	defer l.Speak()() // somebody speaks all the time
	var all [sessions]*decoder
	for i := range all {
		all[i] = prompted(t, g, 3+i, 2+5*i)
	}
	// Where the machine is busy it takes some rounds until all lanes meet in one run.
	for round := 0; round < 3 || round < 200 && l.plans[maxLanes] == nil; round++ {
		var wg sync.WaitGroup
		for i, d := range all {
			start := slices.Clone(d.logits)
			wg.Go(func() {
				if got := goOn(t, l, d, 20); !slices.Equal(got, alone[i]) {
					t.Errorf("session %d says %v among others, %v alone", i, got, alone[i])
				}
				d.logits = start
			})
		}
		wg.Wait()
	}
	if _, fit, active, speaking := l.State(); !fit || l.plans[maxLanes] == nil || active != 0 || speaking != 1 {
		t.Errorf("not all lanes were used, or not given back: %d active, %d speak", active, speaking)
	}
}

// What a step in a lane takes it took before.
func TestLanesDoNotAllocate(t *testing.T) {
	g := several(t)
	l := newLanes(g, "cpu")
	defer l.close()
	defer l.Speak()()
	a := l.enter(prompted(t, g, 1, 4))
	defer l.leave(a)
	ctx, n := t.Context(), a.Len
	if got := testing.AllocsPerRun(100, func() {
		if _, err := a.Step(ctx, 40); err != nil {
			t.Fatal(err)
		}
		a.Len = n
	}); got != 0 {
		t.Errorf("%v allocations a token", got)
	}
}

// BenchmarkLanes decodes a token for each of four sessions with real weights in
// 4 bits, together and one after the other.
func BenchmarkLanes(b *testing.B) {
	env, err := ort.Open(ort.Config{Device: "cpu", Threads: 1, CacheDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer env.Close()
	m, err := Open(testmodel.SmolLM2(b), env, Options{Precision: "q4"})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	ids := make([]int64, 256)
	for i := range ids {
		ids[i] = int64(100 + 17*i)
	}
	embeds, err := m.embeddings(b.Context(), ids)
	if err != nil {
		b.Fatal(err)
	}
	defer m.lanes.Speak()()
	var all []*lane.Lane
	for range maxLanes {
		d := m.g.newDecoder()
		defer d.close()
		if err := d.read(b.Context(), embeds, nil, len(ids)); err != nil {
			b.Fatal(err)
		}
		all = append(all, m.lanes.enter(d))
	}
	if _, fit, _, _ := m.lanes.State(); !fit {
		b.Fatal("several sessions get something else than one")
	}
	for _, c := range []struct {
		name   string
		groups [][]*lane.Lane
	}{{"together", [][]*lane.Lane{all}}, {"in turn", [][]*lane.Lane{all[:1], all[:1], all[:1], all[:1]}}} {
		b.Run(c.name, func(b *testing.B) {
			before := cpuTime(b)
			for b.Loop() {
				for _, g := range c.groups {
					if err := m.lanes.decode(g); err != nil {
						b.Fatal(err)
					}
					for _, a := range g {
						a.Len = len(ids)
					}
				}
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N*maxLanes), "cpu-ms/token")
		})
	}
	for _, a := range all {
		m.lanes.leave(a)
	}
}
