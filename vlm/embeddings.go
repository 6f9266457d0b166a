package vlm

import (
	"context"
	"slices"
	"sync"
)

// table has the embeddings of tokens that prompts have had: the same for all streams,
// who mostly ask the same.
type table struct {
	mu   sync.Mutex
	rows map[int64][]float32
}

// mostEmbedded bounds a table: numbers.
const mostEmbedded = 4 << 20

// embeddings gives [ids, width].
func (m *Model) embeddings(ctx context.Context, ids []int64) ([]float32, error) {
	width := m.g.width
	out := make([]float32, len(ids)*width)
	fresh := m.table.fill(out, ids, width)
	if len(fresh) == 0 {
		return out, nil
	}
	looked := make([]float32, len(fresh)*width)
	c := newCall(m.embed)
	defer c.close()
	bind(c, "input_ids", fresh, 1, len(fresh))
	c.floats("inputs_embeds", looked, 1, len(fresh), width)
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	for i, id := range ids {
		if n := slices.Index(fresh, id); n >= 0 {
			copy(out[i*width:], looked[n*width:(n+1)*width])
		}
	}
	m.table.learn(fresh, looked, width)
	return out, nil
}

// fill writes the embeddings that are there, and gives the ids of the others, each once.
func (t *table) fill(out []float32, ids []int64, width int) (fresh []int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, id := range ids {
		if row := t.rows[id]; row != nil {
			copy(out[i*width:], row)
		} else if !slices.Contains(fresh, id) {
			fresh = append(fresh, id)
		}
	}
	return fresh
}

func (t *table) learn(ids []int64, rows []float32, width int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows == nil || (len(t.rows)+len(ids))*width > mostEmbedded {
		t.rows = map[int64][]float32{}
	}
	for i, id := range ids[:min(len(ids), mostEmbedded/width)] {
		t.rows[id] = rows[i*width : (i+1)*width : (i+1)*width]
	}
}
