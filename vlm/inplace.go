package vlm

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// trial finds whether the decoder takes one buffer of fixed size behind past
// and present at once, of which the ones in the mask are in use: graphs with
// GroupQueryAttention do, and then nothing is copied and nothing bound anew.
// Graphs that concatenate refuse, as what they give is longer than what they
// take.
func (g *graphs) trial() bool {
	if g.first != nil {
		return false
	}
	room := 8
	if g.room > 0 {
		room = g.room
	}
	d := g.newDecoder()
	d.fixed, d.room[0] = true, room
	for i := range 2 * g.layers { // small: grow is not meant for this
		if size := g.heads * room * g.headDim; g.half {
			d.f16[0][i] = make([]uint16, size)
		} else {
			d.f32[0][i] = make([]float32, size)
		}
	}
	defer d.close()
	var embeds []float32
	var ids []int64
	if g.ids {
		ids = []int64{1, 1}
	} else {
		embeds = make([]float32, 2*g.width)
		for i := range embeds {
			embeds[i] = float32(i%7) - 3
		}
	}
	for k := range 2 { // the second goes behind the first, and the rest stays empty
		var e []float32
		var id []int64
		if g.ids {
			id = ids[k : k+1]
		} else {
			e = embeds[k*g.width : (k+1)*g.width]
		}
		if err := d.step(context.Background(), g.next, e, id, []int64{int64(k)}); err != nil {
			return false
		}
		for p := range room {
			if d.empty(p) != (p > k) {
				return false
			}
		}
	}
	return true
}

// empty tells whether position p of the first cache holds zeros only.
func (d *decoder) empty(p int) bool {
	for i := p * d.g.headDim; i < (p+1)*d.g.headDim; i++ {
		if d.g.half && d.f16[0][0][i] != 0 || !d.g.half && d.f32[0][0][i] != 0 {
			return false
		}
	}
	return true
}

// widen makes the one buffer of a fixed cache hold n positions.
func (d *decoder) widen(n int) {
	if d.room[0] >= n {
		return
	}
	old := d.room[0]
	room := min(max(n, 2*old, 512), max(n, d.g.limit))
	if d.g.room > 0 {
		room = d.g.room
	}
	size := d.g.headDim
	for i := range 2 * d.g.layers {
		if d.g.half {
			d.f16[0][i] = spread(d.f16[0][i], d.g.heads, old*size, room*size, d.len*size)
		} else {
			d.f32[0][i] = spread(d.f32[0][i], d.g.heads, old*size, room*size, d.len*size)
		}
	}
	d.room[0] = room
	d.one.drop()
}

// mostReserved bounds the tokens of an answer that room is made for before they
// are said: callers may allow far more than models say.
const mostReserved = 256

// reserve makes room for n positions, as far as the model's limit, before they
// are read: a fixed cache that has to be widened in the middle is copied, at the
// cost of several tokens.
func (d *decoder) reserve(n int) {
	if d.fixed {
		d.widen(min(n, d.g.limit))
	}
}

// spread copies used elements of each of n rows into rows of another length.
func spread[T any](from []T, n, old, row, used int) []T {
	to := make([]T, n*row)
	for h := range n {
		copy(to[h*row:h*row+used], from[h*old:])
	}
	return to
}

// fill writes the mask of a fixed cache: ones for the first n positions.
func (d *decoder) fill(n int) {
	if len(d.mask) != d.room[0] {
		d.mask = make([]int64, d.room[0])
		d.one.drop()
	}
	for i := range d.mask {
		d.mask[i] = 0
		if i < n {
			d.mask[i] = 1
		}
	}
}

// rope is how keys are turned by their places: pairs half a head apart, as
// the models of the Llama family have it.
type rope struct {
	angle []float64 // a pair's, for one place
}

// newRope reads it from the model's configuration.
func newRope(t text, headDim int) (*rope, error) {
	var s struct {
		Type  string  `json:"rope_type"`
		Old   string  `json:"type"`
		Theta float64 `json:"rope_theta"`
	}
	for name, raw := range map[string]json.RawMessage{"rope_scaling": t.RopeScaling, "rope_parameters": t.Rope} {
		if len(raw) == 0 {
			continue
		}
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, fmt.Errorf("vlm: config.json: %s: %w", name, err)
		}
	}
	if kind := s.Type + s.Old; strings.ReplaceAll(kind, "default", "") != "" || t.Partial != 0 && t.Partial != 1 ||
		!slices.Contains([]string{"llama", "mistral", "qwen2", "smollm3"}, t.ModelType) {
		return nil, fmt.Errorf("vlm: how %s turns its keys (%s) is not known: its window cannot slide, only be read anew", t.ModelType, kind)
	}
	theta := max(t.RopeTheta, s.Theta)
	if theta == 0 {
		theta = 10000 // the classes' default
	}
	r := &rope{}
	for i := range headDim / 2 {
		r.angle = append(r.angle, math.Pow(theta, -2*float64(i)/float64(headDim)))
	}
	return r, nil
}

// turn is the cosines and sines that turn keys by n places towards the beginning.
func (r *rope) turn(n int) []float32 {
	t := make([]float32, 0, 2*len(r.angle))
	for _, a := range r.angle {
		sin, cos := math.Sincos(-a * float64(n))
		t = append(t, float32(cos), float32(sin))
	}
	return t
}

// turned turns keys.
func turned(keys, turn []float32) {
	half := len(turn) / 2
	for ; len(keys) > 0; keys = keys[2*half:] {
		for i := range half {
			x, y, c, s := keys[i], keys[i+half], turn[2*i], turn[2*i+1]
			keys[i], keys[i+half] = x*c-y*s, y*c+x*s
		}
	}
}

// forget takes positions, in order, out of the cache; the keys of what is behind each
// are turned to their new places, which are down by as many.
func (d *decoder) forget(gone, down []int, r *rope) {
	size, to := d.g.headDim, 1-d.cur
	if d.fixed {
		to = d.cur
	} else {
		d.grow(to, d.len)
	}
	row := func(used int) int {
		if d.fixed {
			return d.room[0] * size
		}
		return used * size
	}
	kept := d.len - len(gone)
	turns := make([][]float32, len(gone)) // of what is behind each
	for k, n := range down {
		if k > 0 && n == down[k-1] {
			turns[k] = turns[k-1]
		} else if n > 0 {
			turns[k] = r.turn(n)
		}
	}
	var wide []float32
	for i := range 2 * d.g.layers {
		for h := range d.g.heads {
			at, into := h*row(d.len), h*row(kept)
			if d.g.half {
				squeeze(d.f16[to][i][into:], d.f16[d.cur][i][at:], gone, d.len, size, func(keys []uint16, k int) {
					if i%2 != 0 || turns[k] == nil { // values, or what stays where it is
						return
					}
					wide = wide[:0]
					for _, x := range keys {
						wide = append(wide, fromHalf(x))
					}
					turned(wide, turns[k])
					for j, x := range wide {
						keys[j] = toHalf(x)
					}
				})
				continue
			}
			squeeze(d.f32[to][i][into:], d.f32[d.cur][i][at:], gone, d.len, size, func(keys []float32, k int) {
				if i%2 == 0 && turns[k] != nil {
					turned(keys, turns[k])
				}
			})
		}
	}
	d.cur, d.len = to, kept
}

// squeeze copies the first n rows of from but those that are gone, and calls moved
// with each run that is elsewhere than before, and the number of the gone one before it.
func squeeze[T any](to, from []T, gone []int, n, size int, moved func([]T, int)) {
	copy(to[:gone[0]*size], from)
	for k, p := range gone {
		end := n
		if k+1 < len(gone) {
			end = gone[k+1]
		}
		if p+1 == end {
			continue
		}
		run := to[(p-k)*size : (end-k-1)*size]
		copy(run, from[(p+1)*size:end*size])
		moved(run, k)
	}
}
