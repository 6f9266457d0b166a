package tokenizer

import (
	"encoding/json"
	"errors"
	"math"
	"unicode/utf8"
)

// unigram takes the split of highest probability (Viterbi).
type unigram struct {
	vocab        map[string]int
	scores       []float64
	longest      int // bytes of the longest token: bounds the search at each place
	unk          int
	unkScore     float64
	byteFallback bool
}

func newUnigram(raw json.RawMessage) (model, map[string]int, error) {
	var f struct {
		Vocab        [][2]json.RawMessage `json:"vocab"`
		UnkID        *int                 `json:"unk_id"`
		ByteFallback bool                 `json:"byte_fallback"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, nil, err
	}
	m := &unigram{vocab: make(map[string]int, len(f.Vocab)), scores: make([]float64, len(f.Vocab)), unk: -1, byteFallback: f.ByteFallback}
	all := make(map[string]int, len(f.Vocab))
	lowest := math.Inf(1)
	for id, e := range f.Vocab {
		var s string
		if err := errors.Join(json.Unmarshal(e[0], &s), json.Unmarshal(e[1], &m.scores[id])); err != nil {
			return nil, nil, err
		}
		m.vocab[s], all[s] = id, id
		m.longest = max(m.longest, len(s))
		lowest = min(lowest, m.scores[id])
	}
	if f.UnkID != nil {
		if *f.UnkID < 0 || *f.UnkID >= len(f.Vocab) {
			return nil, nil, errors.New("unk_id is not in the vocabulary")
		}
		m.unk = *f.UnkID
	}
	m.unkScore = lowest - 10
	return m, all, nil
}

func (m *unigram) encode(word string, ids []int) []int {
	type node struct {
		from  int // -1: not reached
		score float64
		known bool
	}
	best := make([]node, len(word)+1)
	for i := range best {
		best[i].from = -1
	}
	for i := 0; i < len(word); {
		_, size := utf8.DecodeRuneInString(word[i:])
		here := best[i].score
		single := false
		for n := 1; n <= m.longest && i+n <= len(word); n++ {
			id, ok := m.vocab[word[i:i+n]]
			if !ok {
				continue
			}
			if to := &best[i+n]; to.from < 0 || here+m.scores[id] > to.score {
				*to = node{i, here + m.scores[id], id != m.unk} // the unknown token spelled out joins its neighbours, too
			}
			single = single || n == size
		}
		if to := &best[i+size]; !single && (to.from < 0 || here+m.unkScore > to.score) {
			*to = node{i, here + m.unkScore, false}
		}
		i += size
	}
	// Back from the end; unknown neighbours are one.
	var parts []string
	for end := len(word); end > 0; {
		from := best[end].from
		if !best[end].known {
			for from > 0 && !best[from].known {
				from = best[from].from
			}
		}
		parts = append(parts, word[from:end])
		end = from
	}
	for i := len(parts) - 1; i >= 0; i-- {
		if id, ok := m.vocab[parts[i]]; ok {
			ids = append(ids, id)
			continue
		}
		if m.byteFallback {
			if b, ok := fallback(m.vocab, parts[i]); ok {
				ids = append(ids, b...)
				continue
			}
		}
		if m.unk >= 0 {
			ids = append(ids, m.unk)
		}
	}
	return ids
}
