package vlm

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/lookout-video/lookout/internal/lane"
	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/llm"
	"github.com/lookout-video/lookout/tensor"
)

// maxLanes is how many answers are decoded in one run at most.
const maxLanes = 4

// together is how long a run waits for the lanes that have not asked for it
// yet. Those that were answered together ask again within microseconds.
const together = 500 * time.Microsecond

// lanes decode the answers of several sessions in one run, as package llm does
// for its models: the weights are read and unpacked once for all. A token of
// SmolLM2-135M in 4 bits behind 640 takes 19.3 ms of CPU alone, 12.1 ms each
// of two and 9.5 ms each of four. To enter a lane costs as much as a token or
// two.
type lanes struct {
	*lane.Set
	g *graphs

	room   int         // positions of each lane
	f32    [][]float32 // each cache tensor: [maxLanes, heads, room, headDim]
	f16    [][]uint16
	mask   []int64 // [maxLanes, room]
	ids    []int64
	at     []int64
	embeds []float32
	logits []float32
	plans  [maxLanes + 1]*lanePlan
	holes  [maxLanes]int // decoder.holes of each
}

// lanePlan is what a run of the first n lanes is bound to.
type lanePlan struct {
	c     *call
	embed *ort.Binding // nil where the graph embeds
}

// newLanes gives nil where a run takes one session only, or a device is fed from
// memory that is not its own.
func newLanes(g *graphs, device string) *lanes {
	if device != "cpu" || !g.inPlace || !g.ids && g.embed == nil {
		return nil
	}
	lists := [][]ort.Info{g.next.Inputs, g.next.Outputs}
	if !g.ids {
		lists = append(lists, g.embed.Inputs, g.embed.Outputs)
	}
	for _, i := range slices.Concat(lists...) {
		switch i.Name {
		case "num_logits_to_keep", "use_cache_branch":
			continue
		case "inputs_embeds", "logits":
			if i.Type != "float32" {
				return nil
			}
		}
		if dim(i, 0, -1) >= 0 {
			return nil
		}
	}
	l := &lanes{g: g}
	l.Set = lane.New(lane.Config{Most: maxLanes, Vocab: g.vocab, Wait: together, Begin: l.begin, Decode: l.decode, Closed: llm.ErrClosed})
	return l
}

// begin makes room, and tries whether the graph is fit.
func (l *lanes) begin(all []*lane.Lane) bool {
	l.f32, l.f16 = make([][]float32, 2*l.g.layers), make([][]uint16, 2*l.g.layers)
	l.ids, l.at = make([]int64, maxLanes), make([]int64, maxLanes)
	l.embeds, l.logits = make([]float32, maxLanes*l.g.width), make([]float32, maxLanes*l.g.vocab)
	l.widen(8)
	return l.trial(all) == nil
}

// trial decodes for two sessions of unlike length together and each by itself.
func (l *lanes) trial(all []*lane.Lane) error {
	ctx := context.Background()
	var alone [2]*decoder
	for i := range alone {
		d := l.g.newDecoder()
		defer d.close()
		alone[i] = d
		for k := range 1 + 3*i {
			if err := d.next1(ctx, nil, []int64{int64(1 + i + k)}, int64(k)); err != nil {
				return err
			}
		}
		all[i].ID = int64(3 + i)
		l.take(all[i], d)
		if err := d.next1(ctx, nil, []int64{all[i].ID}, int64(d.len)); err != nil {
			return err
		}
	}
	err := l.decode(all[:2])
	for i, d := range alone {
		all[i].Len = 0
		most, off := 0.0, 0.0
		for k, x := range d.logits {
			most, off = max(most, math.Abs(float64(x))), max(off, math.Abs(float64(x-all[i].Logits[k])))
		}
		if !(off <= 0.05*most) && err == nil { // int4 rounds otherwise for one row than for several
			err = errors.New("vlm: the decoder does not give for several sessions what it gives for one")
		}
	}
	return err
}

// enter gives a lane with the decoder's cache, or nil when it is to decode
// alone. leave must follow either.
func (l *lanes) enter(d *decoder) *lane.Lane {
	if l == nil {
		return nil
	}
	return l.Enter(func(a *lane.Lane) { l.take(a, d) })
}

func (l *lanes) leave(a *lane.Lane) {
	if l != nil {
		l.Leave(a)
	}
}

// take copies the decoder's cache into the lane.
func (l *lanes) take(a *lane.Lane, d *decoder) {
	l.widen(min(d.room[0], l.g.limit)) // which has room for the answer
	g := l.g
	from, to := d.room[0]*g.headDim, l.room*g.headDim
	for i := range 2 * g.layers {
		if g.half {
			paste(l.f16[i][a.N*g.heads*to:], d.f16[0][i], g.heads, to, from, d.len*g.headDim)
		} else {
			paste(l.f32[i][a.N*g.heads*to:], d.f32[0][i], g.heads, to, from, d.len*g.headDim)
		}
	}
	a.Len, l.holes[a.N] = d.len, d.holes
}

// widen makes each lane hold n positions.
func (l *lanes) widen(n int) {
	if l.room >= n && l.room > 0 {
		return
	}
	g, old := l.g, l.room
	l.room = max(n, min(2*old, g.limit))
	if g.room > 0 {
		l.room = g.room
	}
	for i := range 2 * g.layers {
		if g.half {
			l.f16[i] = spread(l.f16[i], maxLanes*g.heads, old*g.headDim, l.room*g.headDim, old*g.headDim)
		} else {
			l.f32[i] = spread(l.f32[i], maxLanes*g.heads, old*g.headDim, l.room*g.headDim, old*g.headDim)
		}
	}
	l.mask = make([]int64, maxLanes*l.room)
	for i, p := range l.plans { // bound to the old memory
		p.close()
		l.plans[i] = nil
	}
}

// decode takes one token into the cache of each lane that waits.
func (l *lanes) decode(waiting []*lane.Lane) error {
	l.Run.Lock()
	defer l.Run.Unlock()
	n, longest := 0, 0
	for _, a := range waiting {
		l.ids[a.N] = a.ID
		n, longest = max(n, a.N+1), max(longest, a.Len+1)
	}
	l.widen(longest)
	p, err := l.plan(n)
	if err != nil {
		return err
	}
	// A lane that takes no part is read too, and what is written lies behind the
	// end of its cache.
	for i := range n {
		row := l.mask[i*l.room : (i+1)*l.room]
		clear(row)
		for k := range min(l.All[i].Len+1, l.room) {
			row[k] = 1
		}
		l.at[i] = int64(min(l.All[i].Len, l.room-1) + l.holes[i])
	}
	ctx := context.Background()
	if p.embed != nil {
		if err := p.embed.Step(ctx); err != nil {
			return err
		}
	}
	if err := p.c.b.Step(ctx); err != nil {
		return err
	}
	for _, a := range waiting { // the next run may be of others
		a.Len++
		copy(a.Logits, l.logits[a.N*l.g.vocab:])
	}
	return nil
}

// plan gives the bindings of a run of the first n lanes.
func (l *lanes) plan(n int) (*lanePlan, error) {
	if l.plans[n] != nil {
		return l.plans[n], nil
	}
	g := l.g
	c := newCall(g.next)
	p := &lanePlan{c: c}
	cache := func(name string, i int) {
		if g.half {
			bind(c, name, l.f16[i], n, g.heads, l.room, g.headDim)
		} else {
			bind(c, name, l.f32[i], n, g.heads, l.room, g.headDim)
		}
	}
	for _, in := range g.next.Inputs {
		switch in.Name {
		case "inputs_embeds":
			bind(c, in.Name, l.embeds, n, 1, g.width)
		case "input_ids":
			bind(c, in.Name, l.ids, n, 1)
		case "attention_mask":
			bind(c, in.Name, l.mask, n, l.room)
		case "position_ids":
			bind(c, in.Name, l.at, n, 1)
		case "num_logits_to_keep":
			if len(in.Shape) == 0 {
				bind(c, in.Name, []int64{1})
			} else {
				bind(c, in.Name, []int64{1}, 1)
			}
		case "use_cache_branch":
			bind(c, in.Name, []byte{1}, 1)
		default:
			if i, ok := cacheIndex(in.Name, "past_key_values."); ok {
				cache(in.Name, i)
			}
		}
	}
	for _, out := range g.next.Outputs {
		if out.Name == "logits" {
			bind(c, out.Name, l.logits, n, 1, g.vocab)
		} else if i, ok := cacheIndex(out.Name, "present."); ok {
			cache(out.Name, i)
		}
	}
	err := c.err
	if err == nil && !g.ids {
		if p.embed, err = g.embed.NewBinding(); err == nil {
			err = errors.Join(
				ort.Bind(p.embed, "input_ids", tensor.View[int64]{Shape: tensor.Shape{n, 1}, Data: l.ids}),
				ort.Bind(p.embed, "inputs_embeds", tensor.View[float32]{Shape: tensor.Shape{n, 1, g.width}, Data: l.embeds}),
			)
		}
	}
	if err != nil {
		p.close()
		return nil, err
	}
	l.plans[n] = p
	return p, nil
}

func (p *lanePlan) close() {
	if p == nil {
		return
	}
	p.c.close()
	if p.embed != nil {
		p.embed.Close()
	}
}

// close waits for the end of a run; the sessions are closed.
func (l *lanes) close() {
	if l == nil || !l.Close() {
		return
	}
	for _, p := range l.plans {
		p.close()
	}
}
