package vlm

import (
	"slices"
	"sync"
)

// prefix is what the prompts of all sessions begin with (the template's first
// words, a system prompt), as one of them read it: the others copy it.
type prefix struct {
	mu  sync.Mutex
	ids []int64
	f32 [][]float32 // of each cache tensor: [heads, len(ids), headDim]
	f16 [][]uint16
}

// A prefix shorter than least is not worth a copy, one longer than most not its
// memory.
const (
	leastPrefix = 8
	mostPrefix  = 1024
)

// adopt gives an empty decoder what it can use of the prefix for a prompt, and
// tells how many tokens that are.
func (p *prefix) adopt(d *decoder, prompt []int64) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := common(p.ids, prompt[:len(prompt)-1]) // the last has to be read for its logits
	if n < leastPrefix {
		return 0
	}
	row := d.place(n)
	for i := range 2 * d.g.layers {
		if d.g.half {
			paste(d.f16[d.cur][i], p.f16[i], d.g.heads, row, len(p.ids)*d.g.headDim, n*d.g.headDim)
		} else {
			paste(d.f32[d.cur][i], p.f32[i], d.g.heads, row, len(p.ids)*d.g.headDim, n*d.g.headDim)
		}
	}
	d.len = n
	return n
}

// learn keeps what prompts share: of the first its words before the first
// picture, of those after it what is the same.
func (p *prefix) learn(d *decoder, prompt []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := slices.IndexFunc(prompt, func(id int64) bool { return id < 0 })
	if n < 0 {
		n = len(prompt)
	}
	if n = min(n, mostPrefix); p.ids != nil {
		n = common(p.ids, prompt[:n])
	}
	if n < leastPrefix || n == len(p.ids) {
		return // what is kept is more use, or just this
	}
	row := d.row()
	p.ids, p.f32, p.f16 = slices.Clone(prompt[:n]), make([][]float32, 2*d.g.layers), make([][]uint16, 2*d.g.layers)
	for i := range 2 * d.g.layers {
		if size := n * d.g.headDim; d.g.half {
			p.f16[i] = make([]uint16, d.g.heads*size)
			paste(p.f16[i], d.f16[d.cur][i], d.g.heads, size, row, size)
		} else {
			p.f32[i] = make([]float32, d.g.heads*size)
			paste(p.f32[i], d.f32[d.cur][i], d.g.heads, size, row, size)
		}
	}
}

// paste copies the first used elements of each of n rows, of length old, into
// rows of length row.
func paste[T any](to, from []T, n, row, old, used int) {
	for h := range n {
		copy(to[h*row:h*row+used], from[h*old:])
	}
}

// common is how many elements two prompts begin with alike.
func common(a, b []int64) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// row is how many elements one head's positions take in the current cache.
func (d *decoder) row() int {
	if d.fixed {
		return d.room[0] * d.g.headDim
	}
	return d.len * d.g.headDim
}

// place makes room for n positions in an empty cache, and gives the row they
// then have.
func (d *decoder) place(n int) int {
	if d.fixed {
		d.widen(n)
		return d.row()
	}
	d.grow(d.cur, n)
	return n * d.g.headDim
}
