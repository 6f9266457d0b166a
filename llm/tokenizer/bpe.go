package tokenizer

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

func newModel(raw json.RawMessage) (model, map[string]int, error) {
	var kind struct {
		Type   string
		Merges json.RawMessage
		Vocab  json.RawMessage
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, nil, err
	}
	switch {
	case kind.Type == "BPE", kind.Type == "" && kind.Merges != nil: // old files do not name it
		return newBPE(raw)
	case kind.Type == "Unigram", kind.Type == "" && len(kind.Vocab) > 0 && kind.Vocab[0] == '[':
		return newUnigram(raw)
	}
	return nil, nil, fmt.Errorf("%w model %q", ErrUnsupported, kind.Type)
}

// bpe joins the adjacent pair of lowest rank until none is left.
type bpe struct {
	vocab          map[string]int
	merges         map[[2]int]merge
	prefix, suffix string
	unk            int // -1: none
	fuseUnk        bool
	byteFallback   bool
	ignoreMerges   bool
}

type merge struct{ rank, id int }

func newBPE(raw json.RawMessage) (model, map[string]int, error) {
	var f struct {
		Vocab                   map[string]int    `json:"vocab"`
		Merges                  []json.RawMessage `json:"merges"`
		UnkToken                *string           `json:"unk_token"`
		ContinuingSubwordPrefix string            `json:"continuing_subword_prefix"`
		EndOfWordSuffix         string            `json:"end_of_word_suffix"`
		FuseUnk                 bool              `json:"fuse_unk"`
		ByteFallback            bool              `json:"byte_fallback"`
		IgnoreMerges            bool              `json:"ignore_merges"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, nil, err
	}
	m := &bpe{
		vocab: make(map[string]int, len(f.Vocab)), merges: make(map[[2]int]merge, len(f.Merges)), unk: -1,
		prefix: f.ContinuingSubwordPrefix, suffix: f.EndOfWordSuffix,
		fuseUnk: f.FuseUnk, byteFallback: f.ByteFallback, ignoreMerges: f.IgnoreMerges,
	}
	for s, id := range f.Vocab {
		m.vocab[s] = id
	}
	if f.UnkToken != nil {
		id, ok := m.vocab[*f.UnkToken]
		if ok {
			m.unk = id
		}
	}
	for rank, raw := range f.Merges {
		var pair [2]string // newer files; older ones write "a b"
		if len(raw) > 0 && raw[0] == '[' {
			if err := json.Unmarshal(raw, &pair); err != nil {
				return nil, nil, fmt.Errorf("merge %d: %w", rank, err)
			}
		} else {
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				return nil, nil, fmt.Errorf("merge %d: %w", rank, err)
			}
			var ok bool
			if pair[0], pair[1], ok = strings.Cut(s, " "); !ok {
				return nil, nil, fmt.Errorf("merge %d: %q is not two tokens", rank, s)
			}
		}
		a, okA := m.vocab[pair[0]]
		b, okB := m.vocab[pair[1]]
		id, okC := m.vocab[pair[0]+strings.TrimPrefix(pair[1], m.prefix)]
		if !okA || !okB || !okC {
			return nil, nil, fmt.Errorf("merge %d: %q is not in the vocabulary", rank, pair)
		}
		m.merges[[2]int{a, b}] = merge{rank, id}
	}
	// f.Vocab is handed out: added tokens go into it, but never into the
	// model, which must not find them in plain text.
	return m, f.Vocab, nil
}

// symbol is a node in the linked list of a word's parts.
type symbol struct {
	id, prev, next int
	gone           bool
}

type candidate struct{ pos, rank, id int }

// candidates is a heap: the lowest rank first, then the leftmost.
type candidates []candidate

func (c candidates) Len() int { return len(c) }
func (c candidates) Less(i, j int) bool {
	return c[i].rank < c[j].rank || c[i].rank == c[j].rank && c[i].pos < c[j].pos
}
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *candidates) Push(x any)   { *c = append(*c, x.(candidate)) }
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

func (m *bpe) encode(word string, ids []int) []int {
	if m.ignoreMerges {
		if id, ok := m.vocab[word]; ok {
			return append(ids, id)
		}
	}
	syms := m.symbols(word)
	if len(syms) == 1 {
		return append(ids, syms[0].id)
	}
	// Candidates on a heap: n log n however long the word, where looking for
	// the best pair anew after each merge would be quadratic.
	var queue candidates
	for i := range len(syms) - 1 {
		if mg, ok := m.merges[[2]int{syms[i].id, syms[i+1].id}]; ok {
			queue = append(queue, candidate{i, mg.rank, mg.id})
		}
	}
	heap.Init(&queue)
	for len(queue) > 0 {
		top := heap.Pop(&queue).(candidate)
		left := &syms[top.pos]
		if left.gone || left.next < 0 {
			continue
		}
		right := &syms[left.next]
		if mg, ok := m.merges[[2]int{left.id, right.id}]; !ok || mg.id != top.id {
			continue // one of the two has changed since
		}
		left.id, right.gone = top.id, true
		left.next = right.next
		if left.next >= 0 {
			syms[left.next].prev = top.pos
			if mg, ok := m.merges[[2]int{left.id, syms[left.next].id}]; ok {
				heap.Push(&queue, candidate{top.pos, mg.rank, mg.id})
			}
		}
		if left.prev >= 0 {
			if mg, ok := m.merges[[2]int{syms[left.prev].id, left.id}]; ok {
				heap.Push(&queue, candidate{left.prev, mg.rank, mg.id})
			}
		}
	}
	for i := range syms {
		if !syms[i].gone {
			ids = append(ids, syms[i].id)
		}
	}
	return ids
}

// symbols splits a word into its runes' tokens.
func (m *bpe) symbols(word string) []symbol {
	syms := make([]symbol, 0, len(word))
	add := func(id int) {
		n := len(syms)
		if n > 0 {
			syms[n-1].next = n
		}
		syms = append(syms, symbol{id: id, prev: n - 1, next: -1})
	}
	unknown := false // one is waiting, to be fused with the next
	for i := 0; i < len(word); {
		_, n := utf8.DecodeRuneInString(word[i:])
		s := word[i : i+n]
		if i > 0 {
			s = m.prefix + s
		}
		if i += n; i == len(word) {
			s += m.suffix
		}
		if id, ok := m.vocab[s]; ok {
			if unknown {
				add(m.unk)
				unknown = false
			}
			add(id)
			continue
		}
		if m.byteFallback {
			if ids, ok := fallback(m.vocab, s); ok {
				for _, id := range ids {
					add(id)
				}
				continue
			}
		}
		if m.unk >= 0 {
			if unknown && !m.fuseUnk {
				add(m.unk)
			}
			unknown = true
		}
	}
	if unknown {
		add(m.unk)
	}
	return syms
}

// fallback spells s as the vocabulary's byte tokens.
func fallback(vocab map[string]int, s string) ([]int, bool) {
	ids := make([]int, len(s))
	for i := range len(s) {
		id, ok := vocab[fmt.Sprintf("<0x%02X>", s[i])]
		if !ok {
			return nil, false
		}
		ids[i] = id
	}
	return ids, true
}

// byteToken reads the spelling of a byte token.
func byteToken(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	v := 0
	for _, c := range []byte(s[3:5]) {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | int(c-'0')
		case c >= 'A' && c <= 'F':
			v = v<<4 | int(c-'A'+10)
		case c >= 'a' && c <= 'f':
			v = v<<4 | int(c-'a'+10)
		default:
			return 0, false
		}
	}
	return byte(v), true
}
