package vlm

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
// of two and 9.5 ms each of four. A session that speaks alone does so by
// itself. One that begins while another speaks copies its cache into a lane, as
// much as a token or two cost, and nothing back.
type lanes struct {
	g        *graphs
	speaking atomic.Int32 // sessions, alone or in lanes
	active   atomic.Int32 // lanes in use
	asks     chan *lane
	stop     chan struct{}
	ended    chan struct{}

	mu    sync.Mutex // guards the lanes' use and what follows
	begun bool
	unfit bool // the graph does not give for several what it gives for one
	all   [maxLanes]*lane

	// run holds what the runs read and write: it is locked while one lasts and
	// while a session copies its cache.
	run    sync.Mutex
	room   int         // positions of each lane
	f32    [][]float32 // each cache tensor: [maxLanes, heads, room, headDim]
	f16    [][]uint16
	mask   []int64 // [maxLanes, room]
	ids    []int64
	at     []int64
	embeds []float32
	logits []float32
	plans  [maxLanes + 1]*lanePlan
}

// lanePlan is what a run of the first n lanes is bound to.
type lanePlan struct {
	c     *call
	embed *ort.Binding // nil where the graph embeds
}

// lane is the place of one session's answer.
type lane struct {
	l    *lanes
	n    int // its number
	used bool
	len  int // tokens in its cache
	id   int64
	out  []float32 // logits of the next token
	done chan error
}

// newLanes gives nil where a run takes one session only, or a device is fed from
// memory that is not its own.
func newLanes(g *graphs, device string) *lanes {
	if device != "cpu" || !g.inPlace || !(&decoder{g: g, fixed: true}).alone() {
		return nil
	}
	lists := [][]ort.Info{g.next.Inputs, g.next.Outputs}
	if !g.ids {
		lists = append(lists, g.embed.Inputs)
	}
	for _, i := range slices.Concat(lists...) {
		if one := i.Name == "num_logits_to_keep" || i.Name == "use_cache_branch"; !one && dim(i, 0, -1) >= 0 {
			return nil
		}
	}
	return &lanes{g: g, asks: make(chan *lane), stop: make(chan struct{}), ended: make(chan struct{})}
}

// begin makes room at the first use, and tries whether the graph is fit.
func (l *lanes) begin() {
	l.begun = true
	l.f32, l.f16 = make([][]float32, 2*l.g.layers), make([][]uint16, 2*l.g.layers)
	l.ids, l.at = make([]int64, maxLanes), make([]int64, maxLanes)
	l.embeds, l.logits = make([]float32, maxLanes*l.g.width), make([]float32, maxLanes*l.g.vocab)
	for i := range l.all {
		l.all[i] = &lane{l: l, n: i, out: make([]float32, l.g.vocab), done: make(chan error, 1)}
	}
	l.widen(8)
	l.unfit = l.trial() != nil
	go l.serve()
}

// trial decodes for two sessions of unlike length together and each by itself.
func (l *lanes) trial() error {
	ctx := context.Background()
	var alone [2]*decoder
	for i := range alone {
		d := l.g.newDecoder()
		defer d.close()
		alone[i] = d
		for k := range 1 + 3*i {
			if err := d.next1(ctx, nil, []int64{int64(1 + i + k)}); err != nil {
				return err
			}
		}
		l.all[i].id = int64(3 + i)
		l.take(l.all[i], d)
		if err := d.next1(ctx, nil, []int64{l.all[i].id}); err != nil {
			return err
		}
	}
	err := l.decode(l.all[:2])
	for i, d := range alone {
		l.all[i].len = 0
		most, off := 0.0, 0.0
		for k, x := range d.logits {
			most, off = max(most, math.Abs(float64(x))), max(off, math.Abs(float64(x-l.all[i].out[k])))
		}
		if !(off <= 0.05*most) && err == nil { // int4 rounds otherwise for one row than for several
			err = errors.New("vlm: the decoder does not give for several sessions what it gives for one")
		}
	}
	return err
}

// enter gives a lane with the decoder's cache, or nil when it is to decode
// alone. leave must follow either.
func (l *lanes) enter(d *decoder) *lane {
	if l == nil || l.speaking.Add(1) == 1 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.begun {
		l.begin()
	}
	if l.unfit {
		return nil
	}
	for _, a := range l.all { // the lowest: a run takes all lanes up to the highest
		if !a.used {
			a.used = true
			l.take(a, d)
			l.active.Add(1)
			return a
		}
	}
	return nil
}

// take copies the decoder's cache into the lane.
func (l *lanes) take(a *lane, d *decoder) {
	l.run.Lock()
	defer l.run.Unlock()
	l.widen(min(d.room[0], l.g.limit)) // which has room for the answer
	g := l.g
	from, to := d.room[0]*g.headDim, l.room*g.headDim
	for i := range 2 * g.layers {
		if g.half {
			paste(l.f16[i][a.n*g.heads*to:], d.f16[0][i], g.heads, to, from, d.len*g.headDim)
		} else {
			paste(l.f32[i][a.n*g.heads*to:], d.f32[0][i], g.heads, to, from, d.len*g.headDim)
		}
	}
	a.len = d.len
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

// leave ends an answer; a is what enter gave.
func (l *lanes) leave(a *lane) {
	if l == nil {
		return
	}
	if a != nil {
		l.run.Lock()
		a.len = 0
		l.run.Unlock()
		l.active.Add(-1)
		l.mu.Lock()
		a.used = false
		l.mu.Unlock()
	}
	l.speaking.Add(-1)
}

// step takes one token into the lane's cache and gives the logits of the next,
// which hold until then. Once its run has begun it waits for the end.
func (a *lane) step(ctx context.Context, id int) ([]float32, error) {
	a.id = int64(id)
	select {
	case a.l.asks <- a:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-a.l.ended:
		return nil, llm.ErrClosed
	}
	return a.out, <-a.done
}

// serve runs the lanes until close.
func (l *lanes) serve() {
	defer close(l.ended)
	late := time.NewTimer(0)
	defer late.Stop()
	waiting := make([]*lane, 0, maxLanes)
	for {
		select {
		case <-l.stop:
			return
		case a := <-l.asks:
			waiting = append(waiting[:0], a)
		}
		late.Reset(together)
		for open := true; open && len(waiting) < int(l.active.Load()); {
			select {
			case a := <-l.asks:
				waiting = append(waiting, a)
			case <-late.C:
				open = false
			}
		}
		err := l.decode(waiting)
		for _, a := range waiting {
			a.done <- err
		}
	}
}

// decode takes one token into the cache of each lane that waits.
func (l *lanes) decode(waiting []*lane) error {
	l.run.Lock()
	defer l.run.Unlock()
	n, longest := 0, 0
	for _, a := range waiting {
		l.ids[a.n] = a.id
		n, longest = max(n, a.n+1), max(longest, a.len+1)
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
		for k := range min(l.all[i].len+1, l.room) {
			row[k] = 1
		}
		l.at[i] = int64(min(l.all[i].len, l.room-1))
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
		a.len++
		copy(a.out, l.logits[a.n*l.g.vocab:])
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

// close ends serve; the sessions are closed.
func (l *lanes) close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.stop:
		return
	default:
	}
	close(l.stop)
	if l.begun {
		<-l.ended
	}
	for _, p := range l.plans {
		p.close()
	}
}
