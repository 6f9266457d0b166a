package vlm

import (
	"context"
	"errors"
)

// single reads one token by what stays bound, and so allocates nothing. A cache in one
// buffer is bound once. One that grows has another shape with each token: it is bound
// once for each length, which the next answers pass again.
type single struct {
	ids, at        []int64
	embeds, logits *port
	lookup         *call // writes embeds; nil where the graph embeds
	runs           map[run]*call
}

// run is what a bound run reads: a buffer of the cache, and how much of it; of one that
// stays, whether there is any.
type run struct{ cur, len int }

// mostRuns bounds those of a decoder: they take some kilobytes for each layer.
const mostRuns = 256

// next1 reads a token. Without embeds it looks them up.
func (d *decoder) next1(ctx context.Context, embeds []float32, ids []int64, at int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	to, total := 0, d.len+1
	which := run{0, min(d.len, 1)}
	if d.fixed {
		d.widen(total)
		d.fill(total)
	} else {
		to, which = 1-d.cur, run{d.cur, d.len}
		d.grow(to, total)
		d.ones(total)
	}
	o := &d.one
	c := o.runs[which]
	if c == nil {
		var err error
		if c, err = d.bindOne(which, to); err != nil {
			return err
		}
	}
	copy(o.ids, ids)
	o.at[0] = at
	switch {
	case embeds != nil:
		copy(o.embeds.data, embeds)
		o.embeds.load()
	case o.lookup != nil:
		if err := o.lookup.step(ctx); err != nil {
			return err
		}
		o.embeds.load()
	}
	if err := c.step(ctx); err != nil {
		return err
	}
	o.logits.store()
	d.logits = o.logits.data
	d.cur, d.len = to, total
	return nil
}

func (d *decoder) bindOne(which run, to int) (*call, error) {
	o, s := &d.one, d.g.next
	if o.runs == nil {
		if err := d.beginOne(); err != nil {
			return nil, err
		}
	}
	if len(o.runs) == mostRuns {
		o.drop()
	}
	size := d.len + 1
	if d.fixed {
		size = d.room[0]
	}
	c := newCall(s)
	d.bindInputs(c, s, o.embeds, o.ids, o.at)
	for _, out := range s.Outputs {
		if out.Name == "logits" {
			c.bindPort(out.Name, o.logits, 1, 1, d.g.vocab)
		} else if i, ok := cacheIndex(out.Name, "present."); ok {
			d.bindCache(c, out.Name, to, i, size)
		}
	}
	if err := c.err; err != nil {
		c.close()
		return nil, err
	}
	o.runs[which] = c
	return c, nil
}

// beginOne makes what all runs of one token share.
func (d *decoder) beginOne() error {
	o, g := &d.one, d.g
	in, _ := has(g.next.Inputs, "inputs_embeds")
	out, _ := has(g.next.Outputs, "logits")
	o.ids, o.at = make([]int64, 1), make([]int64, 1)
	o.embeds, o.logits = portOf(in, make([]float32, g.width)), portOf(out, make([]float32, g.vocab))
	if g.embed != nil {
		lookup := newCall(g.embed)
		bind(lookup, "input_ids", o.ids, 1, 1)
		lookup.floats("inputs_embeds", o.embeds.data, 1, 1, g.width)
		if err := lookup.err; err != nil {
			lookup.close()
			return err
		}
		o.lookup = lookup
	}
	o.runs = map[run]*call{}
	return nil
}

// drop lets go of what is bound to buffers that are no more.
func (o *single) drop() {
	for which, c := range o.runs {
		c.close()
		delete(o.runs, which)
	}
}

func (o *single) close() error {
	var errs []error
	for _, c := range o.runs {
		errs = append(errs, c.b.Close())
	}
	if o.lookup != nil {
		errs = append(errs, o.lookup.b.Close())
	}
	*o = single{}
	return errors.Join(errs...)
}
