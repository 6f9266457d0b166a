package tokenizer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/clipperhouse/uax29/v2/graphemes"
)

// precompiled is SentencePiece's normalizer: a double-array trie (Darts) of
// what is replaced, and the replacements, each ended by a zero byte.
type precompiled struct {
	units []uint32
	texts []byte
}

func newPrecompiled(raw json.RawMessage) (func(string) string, error) {
	var f struct {
		Map []byte `json:"precompiled_charsmap"` // base64
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, err
	}
	if len(f.Map) < 4 {
		return nil, errors.New("precompiled_charsmap is empty")
	}
	size := uint64(binary.LittleEndian.Uint32(f.Map))
	rest := f.Map[4:]
	if size%4 != 0 || size > uint64(len(rest)) {
		return nil, errors.New("precompiled_charsmap is cut off")
	}
	p := &precompiled{units: make([]uint32, size/4), texts: rest[size:]}
	for i := range p.units {
		p.units[i] = binary.LittleEndian.Uint32(rest[4*i:])
	}
	if !utf8.Valid(p.texts) {
		return nil, errors.New("precompiled_charsmap holds text that is no UTF-8")
	}
	return p.normalize, nil
}

// normalize replaces grapheme by grapheme where they are short, else rune by
// rune. The reference does it so, and tells in its own comment that nobody
// knows why; models were trained with it.
func (p *precompiled) normalize(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for g := graphemes.FromString(s); g.Next(); {
		cluster := g.Value()
		if len(cluster) < 6 {
			if text, ok := p.lookup(cluster); ok {
				b.Write(text)
				continue
			}
		}
		for i, r := range cluster {
			part := cluster[i : i+utf8.RuneLen(r)]
			if text, ok := p.lookup(part); ok {
				b.Write(text)
			} else {
				b.WriteString(part)
			}
		}
	}
	return b.String()
}

// lookup gives the replacement of the shortest prefix of key that has one, as
// the reference takes the first that it finds.
func (p *precompiled) lookup(key string) ([]byte, bool) {
	at := uint32(0)
	for i := -1; i < len(key); i++ {
		if i >= 0 {
			if key[i] == 0 {
				return nil, false
			}
			at ^= uint32(key[i])
		}
		if uint64(at) >= uint64(len(p.units)) {
			return nil, false
		}
		u := p.units[at]
		if i >= 0 && u&(1<<31|0xFF) != uint32(key[i]) {
			return nil, false
		}
		at ^= u >> 10 << (u & (1 << 9) >> 6)
		if i < 0 || u>>8&1 == 0 {
			continue
		}
		if uint64(at) >= uint64(len(p.units)) {
			return nil, false
		}
		from := p.units[at] &^ (1 << 31)
		if uint64(from) > uint64(len(p.texts)) {
			return nil, false
		}
		text, _, _ := bytes.Cut(p.texts[from:], []byte{0})
		return text, true
	}
	return nil, false
}
