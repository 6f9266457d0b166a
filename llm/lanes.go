package llm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/tensor"
)

// maxLanes is how many answers are decoded in one run at most.
const maxLanes = 8

// gather is how long a run waits for the lanes that have not asked for it yet.
// Those that were answered together ask again within microseconds.
const gather = 200 * time.Microsecond

// lanes decode the answers of several sessions together. A run reads the weights
// once and starts its operators once, for however many tokens: one token of the
// embedded model takes 0.41 ms of CPU, four in a run 0.12 ms each, eight 0.10.
// A session that speaks alone does so by itself, as there is nobody to wait for.
// One that begins while another speaks copies its cache into a lane, 200 kB, and
// nothing back: what an answer leaves in the cache is not kept.
type lanes struct {
	m        *Model
	speaking atomic.Int32 // sessions, alone or in lanes
	active   atomic.Int32 // lanes in use
	asks     chan *lane
	stop     chan struct{}
	ended    chan struct{}

	mu    sync.Mutex // guards the lanes' use and whether run has begun
	begun bool
	all   [maxLanes]*lane

	// run holds what the runs read and write: it is locked while one lasts and
	// while a session copies its cache.
	run          sync.Mutex
	keys, values [][]float32 // a layer each: [maxLanes, kvHeads, maxContext, headDim]
	mask         []int64     // [maxLanes, maxContext]
	ids          []int64
	x, logits    []float32
	plans        [maxLanes + 1]*plan
}

// lane is the place of one session's answer.
type lane struct {
	l    *lanes
	at   int // its number
	used bool
	len  int // tokens in its cache
	id   int64
	out  []float32 // logits of the next token
	done chan error
}

// newLanes gives nil where a run takes one session only, or a device is fed
// from memory that is not its own.
func newLanes(m *Model, device string) *lanes {
	if device != "cpu" {
		return nil
	}
	for _, list := range [][]ort.Info{m.decoder.Inputs, m.decoder.Outputs, m.embed.Inputs} {
		for _, i := range list {
			if len(i.Shape) == 0 || i.Shape[0] >= 0 {
				return nil
			}
		}
	}
	return &lanes{m: m, asks: make(chan *lane), stop: make(chan struct{}), ended: make(chan struct{})}
}

// begin makes room at the first use.
func (l *lanes) begin() {
	d := l.m.dec
	for range d.Layers {
		l.keys = append(l.keys, make([]float32, maxLanes*d.KVHeads*d.MaxContext*d.HeadDim))
		l.values = append(l.values, make([]float32, maxLanes*d.KVHeads*d.MaxContext*d.HeadDim))
	}
	l.mask, l.ids = make([]int64, maxLanes*d.MaxContext), make([]int64, maxLanes)
	l.x, l.logits = make([]float32, maxLanes*d.Width), make([]float32, maxLanes*d.Vocab)
	for i := range l.all {
		l.all[i] = &lane{l: l, at: i, out: make([]float32, d.Vocab), done: make(chan error, 1)}
	}
	l.begun = true
	go l.serve()
}

// enter gives a lane with the session's cache, or nil when it is to decode
// alone. leave must follow either.
func (l *lanes) enter(s *Session) *lane {
	if l == nil || l.speaking.Add(1) == 1 {
		return nil
	}
	l.mu.Lock()
	if !l.begun {
		l.begin()
	}
	var a *lane
	for _, a = range l.all { // the lowest: a run takes all lanes up to the highest
		if !a.used {
			break
		}
	}
	if a.used {
		l.mu.Unlock()
		return nil
	}
	a.used = true
	l.mu.Unlock()
	d := l.m.dec
	l.run.Lock()
	defer l.run.Unlock()
	for i := range d.Layers {
		for h := range d.KVHeads {
			from, size := h*d.MaxContext*d.HeadDim, s.len*d.HeadDim
			to := a.at*d.KVHeads*d.MaxContext*d.HeadDim + from
			copy(l.keys[i][to:to+size], s.keys[i][from:])
			copy(l.values[i][to:to+size], s.values[i][from:])
		}
	}
	a.len = s.len
	l.active.Add(1)
	return a
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
		return nil, ErrClosed
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
		late.Reset(gather)
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
	n := 0
	for _, a := range waiting {
		l.ids[a.at] = a.id
		n = max(n, a.at+1)
	}
	p, err := l.plan(n)
	if err != nil {
		return err
	}
	// A lane that takes no part is read too, and what is written lies behind the
	// end of its cache.
	d := l.m.dec
	for i := range n {
		row := l.mask[i*d.MaxContext : (i+1)*d.MaxContext]
		clear(row)
		for k := range min(l.all[i].len+1, len(row)) {
			row[k] = 1
		}
	}
	if err := p.embed.Step(context.Background()); err != nil {
		return err
	}
	if err := p.run.Step(context.Background()); err != nil {
		return err
	}
	for _, a := range waiting { // the next run may be of others
		a.len++
		copy(a.out, l.logits[a.at*d.Vocab:])
	}
	return nil
}

// plan gives the bindings of a run of the first n lanes.
func (l *lanes) plan(n int) (*plan, error) {
	if l.plans[n] != nil {
		return l.plans[n], nil
	}
	d := l.m.dec
	p := &plan{}
	var err error
	if p.embed, err = l.m.embed.NewBinding(); err != nil {
		return nil, err
	}
	if p.run, err = l.m.decoder.NewBinding(); err != nil {
		p.close()
		return nil, err
	}
	x := tensor.View[float32]{Shape: tensor.Shape{n, 1, d.Width}, Data: l.x}
	errs := []error{
		ort.Bind(p.embed, "input_ids", tensor.View[int64]{Shape: tensor.Shape{n, 1}, Data: l.ids}),
		ort.Bind(p.embed, "inputs_embeds", x),
		ort.Bind(p.run, "inputs_embeds", x),
		ort.Bind(p.run, "attention_mask", tensor.View[int64]{Shape: tensor.Shape{n, d.MaxContext}, Data: l.mask}),
		ort.Bind(p.run, "logits", tensor.View[float32]{Shape: tensor.Shape{n, 1, d.Vocab}, Data: l.logits}),
	}
	for i := range d.Layers {
		errs = append(errs, bindCache(p.run, i, "key", tensor.View[float32]{Shape: tensor.Shape{n, d.KVHeads, d.MaxContext, d.HeadDim}, Data: l.keys[i]}),
			bindCache(p.run, i, "value", tensor.View[float32]{Shape: tensor.Shape{n, d.KVHeads, d.MaxContext, d.HeadDim}, Data: l.values[i]}))
	}
	if err := errors.Join(errs...); err != nil {
		p.close()
		return nil, err
	}
	l.plans[n] = p
	return p, nil
}

// bindCache binds a layer's keys or values as past and present at once.
func bindCache(b *ort.Binding, layer int, what string, v tensor.View[float32]) error {
	var errs []error
	for _, name := range []string{"past_key_values.%d.%s", "present.%d.%s"} {
		errs = append(errs, ort.Bind(b, fmt.Sprintf(name, layer, what), v))
	}
	return errors.Join(errs...)
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
		if p != nil {
			p.close()
		}
	}
}
