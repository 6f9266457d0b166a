// Package tokenizer turns text into a language model's token ids and back,
// exactly as the reference library does for the same tokenizer.json.
//
// It is our own because no pure Go library gave the reference's ids, and one
// wrong id changes what a model says: on the goldens, sugarme/tokenizer v0.3.0
// was right on 0 to 69 % of the strings of a family and refuses patterns that
// look ahead; gomlx/go-huggingface v0.3.1 reads no tokenizer.json. It covers
// what the supported models use: BPE (byte-level, byte-fallback, and CLIP's
// with a word suffix) and Unigram, with their normalizers (SentencePiece's
// precompiled one too), pre-tokenizers, added tokens, post-processors and decoders.
// What it does not know is an error of New, never a silent difference.
package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ErrUnsupported is wrapped by New when the file uses a part that this
// package does not implement.
var ErrUnsupported = errors.New("tokenizer: unsupported")

// Tokenizer holds one tokenizer.json. It is safe for concurrent use.
type Tokenizer struct {
	normalize func(string) string
	pre       preTokenizer
	model     model
	added     *addedTokens
	before    []int // ids that the post-processor puts around one text
	after     []int
	decode    decoder

	vocab  map[string]int
	tokens []string // by id; "" where the file leaves a gap
	bytes  bool     // tokens spell bytes in the byte-level alphabet
}

// model splits one pre-token into ids.
type model interface {
	encode(word string, ids []int) []int
}

type file struct {
	AddedTokens   []addedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

// New reads a tokenizer.json.
func New(data []byte) (*Tokenizer, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	t := &Tokenizer{}
	var err error
	if t.model, t.vocab, err = newModel(f.Model); err != nil {
		return nil, fmt.Errorf("tokenizer: model: %w", err)
	}
	if t.normalize, err = newNormalizer(f.Normalizer); err != nil {
		return nil, fmt.Errorf("tokenizer: normalizer: %w", err)
	}
	if t.pre, err = newPreTokenizer(f.PreTokenizer); err != nil {
		return nil, fmt.Errorf("tokenizer: pre_tokenizer: %w", err)
	}
	const most = 1 << 24 // far above any vocabulary; bounds what a broken file can allocate
	for _, a := range f.AddedTokens {
		if a.ID < 0 || a.ID >= most {
			return nil, fmt.Errorf("tokenizer: added token %q has id %d", a.Content, a.ID)
		}
		t.vocab[a.Content] = a.ID
	}
	for s, id := range t.vocab {
		if id < 0 || id >= most {
			return nil, fmt.Errorf("tokenizer: token %q has id %d", s, id)
		}
		for id >= len(t.tokens) {
			t.tokens = append(t.tokens, make([]string, id+1-len(t.tokens))...)
		}
		t.tokens[id] = s
	}
	t.added = newAddedTokens(f.AddedTokens, t.normalize)
	if t.before, t.after, err = newPostProcessor(f.PostProcessor, t.vocab); err != nil {
		return nil, fmt.Errorf("tokenizer: post_processor: %w", err)
	}
	if t.decode, t.bytes, err = newDecoder(f.Decoder); err != nil {
		return nil, fmt.Errorf("tokenizer: decoder: %w", err)
	}
	return t, nil
}

// Encode gives the ids of text, without those that the post-processor adds
// (see Wrap). With special, special tokens spelled in the text become their
// ids; without, they are plain text, as text from users must be. Broken UTF-8
// is read as U+FFFD, one for each maximal broken part.
func (t *Tokenizer) Encode(text string, special bool) []int {
	var ids []int
	t.added.split(Valid(text), special, t.normalize, func(piece string, id int, first bool) {
		if id >= 0 {
			ids = append(ids, id)
			return
		}
		t.pre.split(piece, first, func(word string, _ bool) {
			ids = t.model.encode(word, ids)
		})
	})
	return ids
}

// Wrap puts the post-processor's ids (beginning and end of text) around ids.
func (t *Tokenizer) Wrap(ids []int) []int {
	out := make([]int, 0, len(t.before)+len(ids)+len(t.after))
	return append(append(append(out, t.before...), ids...), t.after...)
}

// Decode gives the text of ids. Special tokens are left out, and bytes that
// are no UTF-8 become U+FFFD.
func (t *Tokenizer) Decode(ids []int) string {
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		if s, ok := t.text(id); ok {
			tokens = append(tokens, s)
		}
	}
	return Valid(t.decode(tokens))
}

// text is the token that Decode shows for id.
func (t *Tokenizer) text(id int) (string, bool) {
	if id < 0 || id >= len(t.tokens) || t.added.special[id] {
		return "", false
	}
	return t.tokens[id], t.tokens[id] != ""
}

// Token gives the bytes that id spells: part of a rune, maybe, for byte-level
// and byte-fallback vocabularies; the name of a special token. It is nil for
// an id that the vocabulary does not have.
func (t *Tokenizer) Token(id int) []byte {
	if id < 0 || id >= len(t.tokens) || t.tokens[id] == "" {
		return nil
	}
	s := t.tokens[id]
	if _, added := t.added.byID[id]; added {
		return []byte(s)
	}
	if t.bytes {
		return appendByteLevel(nil, s)
	}
	if b, ok := byteToken(s); ok {
		return []byte{b}
	}
	return []byte(strings.ReplaceAll(s, "▁", " "))
}

// ID is the id of a token by its spelling in the file.
func (t *Tokenizer) ID(token string) (int, bool) {
	id, ok := t.vocab[token]
	return id, ok
}

// VocabSize is one more than the largest id.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// Valid replaces each maximal ill-formed part of s with U+FFFD, as Python's
// and Rust's lossy decoders do.
func Valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 8)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			n = illFormed(s[i:])
			b.WriteString("\uFFFD")
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// illFormed is the length of the maximal ill-formed part at the head of s: a
// rune's bytes as far as they could still have become one (Unicode 3.9, D93b).
func illFormed(s string) int {
	lo, hi, need := byte(0x80), byte(0xBF), 0
	switch c := s[0]; {
	case c >= 0xC2 && c <= 0xDF:
		need = 1
	case c >= 0xE0 && c <= 0xEF:
		need = 2
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		need = 3
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	}
	n := 1
	for ; n <= need && n < len(s) && s[n] >= lo && s[n] <= hi; n++ {
		lo, hi = 0x80, 0xBF
	}
	return n
}

// Special reports whether id is a special token, which Decode leaves out.
func (t *Tokenizer) Special(id int) bool { return t.added.special[id] }
