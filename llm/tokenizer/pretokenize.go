package tokenizer

import (
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// preTokenizer cuts normalized text into the words that the model splits.
// first says that the text begins the whole input.
type preTokenizer interface {
	split(s string, first bool, yield func(word string, first bool))
}

type preFunc func(s string, first bool, yield func(string, bool))

func (f preFunc) split(s string, first bool, yield func(string, bool)) {
	if s != "" {
		f(s, first, yield)
	}
}

// matches gives the byte ranges that a pattern matches, in order.
type matches func(s string) iter.Seq[[2]int]

func (p pattern) compile() (matches, error) {
	if p.String != nil {
		lit := *p.String
		if lit == "" {
			return nil, fmt.Errorf("%w empty pattern", ErrUnsupported)
		}
		return func(s string) iter.Seq[[2]int] {
			return func(yield func([2]int) bool) {
				for at := 0; ; {
					i := strings.Index(s[at:], lit)
					if i < 0 || !yield([2]int{at + i, at + i + len(lit)}) {
						return
					}
					at += i + len(lit)
				}
			}
		}, nil
	}
	if p.Regex == nil {
		return nil, fmt.Errorf("%w pattern", ErrUnsupported)
	}
	return compile(*p.Regex)
}

// compile uses regexp2 because public tokenizers look ahead (`\s+(?!\S)`),
// which the standard library's linear engine cannot.
func compile(expr string) (matches, error) {
	re, err := regexp2.Compile(expr, regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("%w pattern: %w", ErrUnsupported, err)
	}
	return func(s string) iter.Seq[[2]int] {
		return func(yield func([2]int) bool) {
			runes := []rune(s)
			m, err := re.FindRunesMatch(runes)
			at, b := 0, 0 // the same place in runes and in bytes
			move := func(to int) int {
				for ; at < to; at++ {
					b += utf8.RuneLen(runes[at])
				}
				return b
			}
			for err == nil && m != nil {
				from := move(m.Index)
				to := move(m.Index + m.Length)
				if to > from && !yield([2]int{from, to}) {
					return
				}
				m, err = re.FindNextMatch(m)
			}
		}
	}, nil
}

func newPreTokenizer(raw json.RawMessage) (preTokenizer, error) {
	kind, err := typed(raw)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "":
		return preFunc(func(s string, first bool, yield func(string, bool)) { yield(s, first) }), nil
	case "Sequence":
		var f struct{ Pretokenizers []json.RawMessage }
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, err
		}
		var steps []preTokenizer
		for _, r := range f.Pretokenizers {
			step, err := newPreTokenizer(r)
			if err != nil {
				return nil, err
			}
			steps = append(steps, step)
		}
		return chain(steps), nil
	case "ByteLevel":
		return newByteLevel(raw)
	case "Split":
		return newSplit(raw)
	case "Digits":
		var f struct {
			Individual bool `json:"individual_digits"`
		}
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, err
		}
		behavior := "Contiguous"
		if f.Individual {
			behavior = "Isolated"
		}
		return cut(runesOf(unicode.IsNumber), behavior, false)
	case "Punctuation":
		f := struct{ Behavior string }{"Isolated"}
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, err
		}
		return cut(runesOf(func(r rune) bool {
			return r < 128 && unicode.In(r, unicode.P, unicode.S) || unicode.IsPunct(r)
		}), f.Behavior, false)
	case "WhitespaceSplit":
		return cut(runesOf(unicode.IsSpace), "Removed", false)
	case "Whitespace":
		find, err := compile(`\w+|[^\w\s]+`)
		if err != nil {
			return nil, err
		}
		return cut(find, "Removed", true)
	case "Metaspace":
		return newMetaspace(raw)
	}
	return nil, fmt.Errorf("%w %q", ErrUnsupported, kind)
}

func chain(steps []preTokenizer) preTokenizer {
	if len(steps) == 0 {
		return preFunc(func(s string, first bool, yield func(string, bool)) { yield(s, first) })
	}
	if len(steps) == 1 {
		return steps[0]
	}
	rest := chain(steps[1:])
	return preFunc(func(s string, first bool, yield func(string, bool)) {
		steps[0].split(s, first, func(w string, first bool) { rest.split(w, first, yield) })
	})
}

func runesOf(is func(rune) bool) matches {
	return func(s string) iter.Seq[[2]int] {
		return func(yield func([2]int) bool) {
			for i, r := range s {
				if is(r) && !yield([2]int{i, i + utf8.RuneLen(r)}) {
					return
				}
			}
		}
	}
}

func newSplit(raw json.RawMessage) (preTokenizer, error) {
	var f struct {
		Pattern  pattern
		Behavior string
		Invert   bool
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, err
	}
	find, err := f.Pattern.compile()
	if err != nil {
		return nil, err
	}
	return cut(find, f.Behavior, f.Invert)
}

// cut splits at the delimiters that find gives (what it does not give, with
// invert) and treats them as behavior says.
func cut(find matches, behavior string, invert bool) (preTokenizer, error) {
	switch behavior {
	case "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous":
	default:
		return nil, fmt.Errorf("%w behavior %q", ErrUnsupported, behavior)
	}
	return preFunc(func(s string, first bool, yield func(string, bool)) {
		emit := func(from, to int) {
			if from < to {
				yield(s[from:to], first && from == 0)
			}
		}
		// span is called for each piece in turn, delimiter or not.
		var span func(from, to int, delim bool)
		done := func() {}
		start, wasDelim := 0, false // the open piece, where pieces are merged
		switch behavior {
		case "Removed":
			span = func(from, to int, delim bool) {
				if !delim {
					emit(from, to)
				}
			}
		case "Isolated":
			span = func(from, to int, _ bool) { emit(from, to) }
		case "Contiguous":
			span = func(from, _ int, delim bool) {
				if delim != wasDelim {
					emit(start, from)
					start = from
				}
				wasDelim = delim
			}
			done = func() { emit(start, len(s)) }
		case "MergedWithPrevious":
			// A piece waits for a delimiter that may follow it.
			var held *[2]int
			span = func(from, to int, delim bool) {
				if held != nil {
					h := *held
					held = nil
					if delim {
						emit(h[0], to)
						return
					}
					emit(h[0], h[1])
				}
				if delim {
					emit(from, to)
				} else {
					held = &[2]int{from, to}
				}
			}
			done = func() {
				if held != nil {
					emit(held[0], held[1])
				}
			}
		case "MergedWithNext":
			var held *[2]int
			span = func(from, to int, delim bool) {
				if delim {
					if held != nil {
						emit(held[0], held[1])
					}
					held = &[2]int{from, to}
					return
				}
				if held != nil {
					from, held = held[0], nil
				}
				emit(from, to)
			}
			done = func() {
				if held != nil {
					emit(held[0], held[1])
				}
			}
		}
		last := 0
		for at := range find(s) {
			if last < at[0] {
				span(last, at[0], invert)
			}
			span(at[0], at[1], !invert)
			last = at[1]
		}
		if last < len(s) {
			span(last, len(s), invert)
		}
		done()
	}), nil
}

// gpt2 is the split of the first byte-level tokenizer, built into ByteLevel.
const gpt2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

func newByteLevel(raw json.RawMessage) (preTokenizer, error) {
	f := struct {
		AddPrefixSpace bool `json:"add_prefix_space"`
		UseRegex       bool `json:"use_regex"`
	}{true, true}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, err
	}
	var words preTokenizer
	if f.UseRegex {
		find, err := compile(gpt2)
		if err != nil {
			return nil, err
		}
		if words, err = cut(find, "Isolated", false); err != nil {
			return nil, err
		}
	}
	return preFunc(func(s string, first bool, yield func(string, bool)) {
		if f.AddPrefixSpace && s[0] != ' ' {
			s = " " + s
		}
		if words == nil {
			yield(toByteLevel(s), first)
			return
		}
		words.split(s, first, func(w string, first bool) { yield(toByteLevel(w), first) })
	}), nil
}

// byteRunes spells each byte as a visible rune; runeBytes reads it back.
var byteRunes, runeBytes = func() (to [256]rune, from map[rune]byte) {
	from = make(map[rune]byte, 256)
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r = next
			next++
		}
		to[b], from[r] = r, byte(b)
	}
	return to, from
}()

func toByteLevel(s string) string {
	var b strings.Builder
	b.Grow(2 * len(s))
	for i := range len(s) {
		b.WriteRune(byteRunes[s[i]])
	}
	return b.String()
}

// appendByteLevel appends the bytes that s spells; a token with a rune
// outside the alphabet (an added one) spells itself.
func appendByteLevel(dst []byte, s string) []byte {
	n := len(dst)
	for _, r := range s {
		b, ok := runeBytes[r]
		if !ok {
			return append(dst[:n], s...)
		}
		dst = append(dst, b)
	}
	return dst
}

func newMetaspace(raw json.RawMessage) (preTokenizer, error) {
	m, err := metaspaceOf(raw)
	if err != nil {
		return nil, err
	}
	find, err := pattern{String: &m.Replacement}.compile()
	if err != nil {
		return nil, err
	}
	words, err := cut(find, "MergedWithNext", false)
	if err != nil {
		return nil, err
	}
	return preFunc(func(s string, first bool, yield func(string, bool)) {
		s = strings.ReplaceAll(s, " ", m.Replacement)
		if (m.Scheme == "always" || m.Scheme == "first" && first) && !strings.HasPrefix(s, m.Replacement) {
			s = m.Replacement + s
		}
		if !m.Split {
			yield(s, first)
			return
		}
		words.split(s, first, yield)
	}), nil
}

// metaspace is read by the pre-tokenizer and by the decoder.
type metaspace struct {
	Replacement string
	Scheme      string
	Split       bool
}

func metaspaceOf(raw json.RawMessage) (metaspace, error) {
	f := struct {
		Replacement    string
		PrependScheme  string `json:"prepend_scheme"`
		AddPrefixSpace *bool  `json:"add_prefix_space"`
		Split          *bool
	}{}
	if err := json.Unmarshal(raw, &f); err != nil {
		return metaspace{}, err
	}
	if f.Replacement == "" {
		f.Replacement = "▁"
	}
	if f.PrependScheme == "" {
		f.PrependScheme = "always"
		if f.AddPrefixSpace != nil && !*f.AddPrefixSpace {
			f.PrependScheme = "never"
		}
	}
	return metaspace{f.Replacement, f.PrependScheme, f.Split == nil || *f.Split}, nil
}
