package vlm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/lookout-video/lookout/internal/ort"
)

// ErrFull is returned when a prompt and its answer do not fit the context.
var ErrFull = errors.New("vlm: the context is full")

// ErrNaN is returned when the model computes no numbers.
var ErrNaN = errors.New("vlm: the model gave no numbers (NaN): the files may be broken or the precision too low")

// chunk is how many tokens are read in one run, so that the logits of a long
// prompt (tokens x vocabulary) stay small.
const chunk = 128

// graphs are the language model's: one graph for everything, or one for an
// empty past and one for the rest.
type graphs struct {
	first, next            *ort.Session // first may be nil
	layers, heads, headDim int
	width, vocab, limit    int
	half                   bool         // the cache is float16
	inPlace                bool         // past and present may be one buffer
	room                   int          // positions that it always has; 0: any number
	ids                    bool         // takes ids: the embedding is in the graph
	placed                 bool         // is told each token's place
	embed                  *ort.Session // where the graph does not embed
}

func newGraphs(first, next *ort.Session, t text) (*graphs, error) {
	g := &graphs{first: first, next: next, limit: t.Positions, width: t.Hidden}
	names := []string{"inputs_embeds", "input_ids", "attention_mask", "position_ids", "num_logits_to_keep", "use_cache_branch"}
	for {
		in, ok := has(next.Inputs, fmt.Sprintf("past_key_values.%d.key", g.layers))
		if !ok {
			break
		}
		g.heads, g.headDim, g.half = dim(in, 1, t.KVHeads), dim(in, 3, t.HeadDim), in.Type == "float16"
		if !g.half && in.Type != "float32" {
			return nil, fmt.Errorf("vlm: %s: the cache is %s: only float32 and float16 are supported", next.Name(), in.Type)
		}
		names = append(names, fmt.Sprintf("past_key_values.%d.key", g.layers), fmt.Sprintf("past_key_values.%d.value", g.layers))
		g.layers++
	}
	if g.layers == 0 || g.heads == 0 || g.headDim == 0 {
		return nil, fmt.Errorf("vlm: %s has no past_key_values: export it with a cache", next.Name())
	}
	for _, s := range []*ort.Session{first, next} {
		if s == nil {
			continue
		}
		if err := known(s, names...); err != nil {
			return nil, err
		}
	}
	if in, ok := has(next.Inputs, "inputs_embeds"); ok {
		g.width = dim(in, 2, t.Hidden)
	} else {
		g.ids = true
	}
	out, ok := has(next.Outputs, "logits")
	if !ok {
		return nil, fmt.Errorf("vlm: %s has no logits", next.Name())
	}
	g.vocab = dim(out, 2, t.Vocab)
	if g.limit <= 0 {
		g.limit = 2048
	}
	if in, _ := has(next.Inputs, "past_key_values.0.key"); dim(in, 2, 0) > 0 {
		g.room = dim(in, 2, 0)
		g.limit = min(g.limit, g.room)
	}
	_, g.placed = has(next.Inputs, "position_ids")
	g.inPlace = g.trial()
	return g, nil
}

// decoder is one KV cache and what runs over it. Where the graph allows there
// is one fixed buffer that runs read and write (see trial). Other graphs give
// past and present as separate tensors that grow by what was read, so there are
// two buffers: a run reads one and writes the other, and nothing is copied.
type decoder struct {
	g     *graphs
	fixed bool // one buffer, the first
	one   single
	calls [2]*call // of g.first, and of g.next
	f32   [2][][]float32
	f16   [2][][]uint16
	room  [2]int // positions that fit
	cur   int
	len   int
	holes int // places before what is read next that nothing in the cache has: see Session.places

	mask, at []int64
	all      []float32 // logits of a run
	logits   []float32 // of its last token
}

func (g *graphs) newDecoder() *decoder {
	d := &decoder{g: g, fixed: g.inPlace}
	for k := range 2 {
		d.f32[k], d.f16[k] = make([][]float32, 2*g.layers), make([][]uint16, 2*g.layers)
		if !d.fixed {
			d.grow(k, 1)
		}
	}
	return d
}

func (d *decoder) grow(k, n int) {
	if d.room[k] >= n {
		return
	}
	d.room[k] = min(max(n, 2*d.room[k], 256), max(n, d.g.limit))
	d.one.drop()
	for i := range 2 * d.g.layers {
		if size := d.g.heads * d.room[k] * d.g.headDim; d.g.half {
			d.f16[k][i] = make([]uint16, size)
		} else {
			d.f32[k][i] = make([]float32, size)
		}
	}
}

// read reads n tokens: their embeddings, or their ids where the graph embeds.
// The logits of the last are in d.logits.
func (d *decoder) read(ctx context.Context, embeds []float32, ids []int64, n int) error {
	d.at = d.at[:0]
	for p := d.len; p < d.len+n; p++ {
		d.at = append(d.at, int64(p+d.holes))
	}
	return d.readAt(ctx, embeds, ids, d.at)
}

// readAt reads a token for each of the places at, which graphs have as position_ids.
func (d *decoder) readAt(ctx context.Context, embeds []float32, ids, at []int64) error {
	n := len(at)
	if d.len+n > d.g.limit {
		return fmt.Errorf("%w: %d tokens, and %d more than the %d it holds", ErrFull, d.len, n, d.g.limit)
	}
	for from := 0; from < n; {
		s := d.g.next
		if d.len == 0 && d.g.first != nil {
			s = d.g.first
		}
		step := min(chunk, n-from)
		in, ok := has(s.Inputs, "inputs_embeds")
		if !ok {
			in, _ = has(s.Inputs, "input_ids")
		}
		if dim(in, 1, step) == 1 {
			step = 1 // some exports read one token at a time after the first run
		}
		var e []float32
		if embeds != nil {
			e = embeds[from*d.g.width : (from+step)*d.g.width]
		}
		var i []int64
		if ids != nil {
			i = ids[from : from+step]
		}
		if err := d.step(ctx, s, e, i, at[from:from+step]); err != nil {
			return err
		}
		from += step
	}
	return nil
}

func (d *decoder) step(ctx context.Context, s *ort.Session, embeds []float32, ids, at []int64) error {
	n := len(at)
	if n == 1 && s == d.g.next {
		return d.next1(ctx, embeds, ids, at[0])
	}
	slot := &d.calls[1]
	if s == d.g.first {
		slot = &d.calls[0]
	}
	if *slot == nil {
		*slot = newCall(s)
	}
	c := *slot
	total, to, size := d.len+n, 1-d.cur, d.len+n
	if d.fixed {
		d.widen(total)
		d.fill(total)
		to, size = 0, d.room[0]
	} else {
		d.grow(to, total)
		d.ones(total)
	}
	var e *port
	if in, ok := has(s.Inputs, "inputs_embeds"); ok {
		e = portOf(in, embeds)
		e.load()
	}
	rows := d.bindInputs(c, s, e, ids, at)
	for _, out := range s.Outputs {
		if out.Name == "logits" {
			if dim(out, 1, rows) == 1 {
				rows = 1
			}
			if cap(d.all) < rows*d.g.vocab {
				d.all = make([]float32, rows*d.g.vocab)
			}
			d.logits = d.all[:rows*d.g.vocab]
			c.floats(out.Name, d.logits, 1, rows, d.g.vocab)
		} else if i, ok := cacheIndex(out.Name, "present."); ok {
			d.bindCache(c, out.Name, to, i, size)
		} else if c.err == nil {
			c.err = fmt.Errorf("vlm: %s gives %q, which is not known", s.Name(), out.Name)
		}
	}
	if err := c.run(ctx); err != nil {
		c.renew()
		return err
	}
	d.logits = d.logits[(rows-1)*d.g.vocab:]
	d.cur, d.len = to, total
	return nil
}

// ones makes the mask of a cache that grows: nothing in it is left out.
func (d *decoder) ones(n int) {
	for len(d.mask) < n {
		d.mask = append(d.mask, 1)
	}
}

// bindInputs binds what a run of a token for each of at reads, and tells for how many
// of them there will be logits.
func (d *decoder) bindInputs(c *call, s *ort.Session, embeds *port, ids, at []int64) (rows int) {
	n := len(at)
	rows = n
	past, total := d.len, d.len+n
	if d.fixed {
		past, total = d.room[0], d.room[0]
	}
	for _, in := range s.Inputs {
		switch in.Name {
		case "inputs_embeds":
			c.bindPort(in.Name, embeds, 1, n, d.g.width)
		case "input_ids":
			bind(c, in.Name, ids, 1, n)
		case "attention_mask":
			bind(c, in.Name, d.mask, 1, total)
		case "position_ids":
			bind(c, in.Name, at, 1, n)
		case "num_logits_to_keep":
			rows = 1
			if len(in.Shape) == 0 {
				bind(c, in.Name, []int64{1})
			} else {
				bind(c, in.Name, []int64{1}, 1)
			}
		case "use_cache_branch":
			branch := byte(0)
			if d.len > 0 {
				branch = 1
			}
			bind(c, in.Name, []byte{branch}, 1)
		default:
			if i, ok := cacheIndex(in.Name, "past_key_values."); ok { // newGraphs knows all others
				d.bindCache(c, in.Name, d.cur, i, past)
			}
		}
	}
	return rows
}

// cacheIndex reads "present.3.value": tensor 7.
func cacheIndex(name, prefix string) (int, bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	layer, value := 0, ""
	if !ok {
		return 0, false
	}
	if n, err := fmt.Sscanf(strings.Replace(rest, ".", " ", 1), "%d %s", &layer, &value); err != nil || n != 2 {
		return 0, false
	}
	if value == "value" {
		return 2*layer + 1, true
	}
	return 2 * layer, value == "key"
}

func (d *decoder) bindCache(c *call, name string, k, i, n int) {
	if i >= 2*d.g.layers {
		if c.err == nil {
			c.err = fmt.Errorf("vlm: %s has %q but %d layers", c.s.Name(), name, d.g.layers)
		}
		return
	}
	if d.g.half {
		bind(c, name, d.f16[k][i], 1, d.g.heads, n, d.g.headDim)
	} else {
		bind(c, name, d.f32[k][i], 1, d.g.heads, n, d.g.headDim)
	}
}

// cut forgets all but the first n positions.
func (d *decoder) cut(n int) {
	if n >= d.len {
		return
	}
	if d.fixed { // what is behind the end is never read
		d.len = n
		return
	}
	to := 1 - d.cur
	d.grow(to, max(n, 1))
	for i := range 2 * d.g.layers {
		for h := range d.g.heads {
			from, into, size := h*d.len*d.g.headDim, h*n*d.g.headDim, n*d.g.headDim
			if d.g.half {
				copy(d.f16[to][i][into:into+size], d.f16[d.cur][i][from:])
			} else {
				copy(d.f32[to][i][into:into+size], d.f32[d.cur][i][from:])
			}
		}
	}
	d.cur, d.len = to, n
}

func (d *decoder) close() error {
	var err error
	for i, c := range d.calls {
		if c == nil {
			continue
		}
		c.err = nil
		c.close()
		err = errors.Join(err, c.err)
		d.calls[i] = nil
	}
	return errors.Join(err, d.one.close())
}

// greedy is the likeliest token.
func (d *decoder) greedy() (int, error) {
	best, most := 0, float32(math.Inf(-1))
	for i, x := range d.logits {
		if !(x <= most) { // nor is NaN
			if x != x {
				return 0, ErrNaN
			}
			best, most = i, x
		}
	}
	return best, nil
}
