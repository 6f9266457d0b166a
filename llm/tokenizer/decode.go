package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// decoder joins the spellings of tokens to text.
type decoder func(tokens []string) string

// newDecoder also tells whether tokens are spelled in the byte-level alphabet.
func newDecoder(raw json.RawMessage) (decoder, bool, error) {
	step, bytes, err := newDecodeStep(raw)
	if err != nil {
		return nil, false, err
	}
	if step == nil {
		return func(tokens []string) string { return strings.Join(tokens, " ") }, false, nil
	}
	return func(tokens []string) string { return strings.Join(step(tokens), "") }, bytes, nil
}

func newDecodeStep(raw json.RawMessage) (step func([]string) []string, bytes bool, err error) {
	kind, err := typed(raw)
	if err != nil {
		return nil, false, err
	}
	switch kind {
	case "":
		return nil, false, nil
	case "ByteLevel":
		return func(tokens []string) []string {
			var b []byte
			for _, t := range tokens {
				b = appendByteLevel(b, t)
			}
			return []string{Valid(string(b))}
		}, true, nil
	case "ByteFallback":
		return byteFallback, false, nil
	case "Fuse":
		return func(tokens []string) []string { return []string{strings.Join(tokens, "")} }, false, nil
	case "Strip":
		var f struct {
			Content     string
			Start, Stop int
		}
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, false, err
		}
		return each(func(_, _ int, s string) string {
			for range f.Start {
				s = strings.TrimPrefix(s, f.Content)
			}
			for range f.Stop {
				s = strings.TrimSuffix(s, f.Content)
			}
			return s
		}), false, nil
	case "Replace":
		replace, err := newReplace(raw)
		if err != nil {
			return nil, false, err
		}
		return each(func(_, _ int, s string) string { return replace(s) }), false, nil
	case "Metaspace":
		m, err := metaspaceOf(raw)
		if err != nil {
			return nil, false, err
		}
		return each(func(i, _ int, s string) string {
			if i == 0 && m.Scheme != "never" {
				return strings.ReplaceAll(s, m.Replacement, "")
			}
			return strings.ReplaceAll(s, m.Replacement, " ")
		}), false, nil
	case "BPEDecoder":
		f := struct{ Suffix string }{"</w>"}
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, false, err
		}
		return each(func(i, n int, s string) string {
			if i == n-1 {
				return strings.ReplaceAll(s, f.Suffix, "")
			}
			return strings.ReplaceAll(s, f.Suffix, " ")
		}), false, nil
	case "Sequence":
		var f struct{ Decoders []json.RawMessage }
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, false, err
		}
		var steps []func([]string) []string
		for _, r := range f.Decoders {
			s, b, err := newDecodeStep(r)
			if err != nil {
				return nil, false, err
			}
			if s != nil {
				steps = append(steps, s)
			}
			bytes = bytes || b
		}
		return func(tokens []string) []string {
			for _, s := range steps {
				tokens = s(tokens)
			}
			return tokens
		}, bytes, nil
	}
	return nil, false, fmt.Errorf("%w %q", ErrUnsupported, kind)
}

func each(f func(i, n int, s string) string) func([]string) []string {
	return func(tokens []string) []string {
		out := make([]string, len(tokens))
		for i, t := range tokens {
			out[i] = f(i, len(tokens), t)
		}
		return out
	}
}

// byteFallback joins runs of byte tokens: their text when they are UTF-8, one
// U+FFFD a byte otherwise.
func byteFallback(tokens []string) []string {
	var out []string
	var run []byte
	flush := func() {
		if utf8.Valid(run) {
			if len(run) > 0 {
				out = append(out, string(run))
			}
		} else {
			for range run {
				out = append(out, "\uFFFD")
			}
		}
		run = run[:0]
	}
	for _, t := range tokens {
		if b, ok := byteToken(t); ok {
			run = append(run, b)
			continue
		}
		flush()
		out = append(out, t)
	}
	flush()
	return out
}

// Stream decodes one token after the other and never gives half a rune. What
// it gives in all is what Decode gives at once.
type Stream struct {
	t       *Tokenizer
	pending []byte   // byte-level: the beginning of a rune
	run     []string // byte-fallback: byte tokens, whose text depends on all of them
	started bool
}

// Stream begins a text.
func (t *Tokenizer) Stream() *Stream { return &Stream{t: t} }

// Add gives the text that id completes: "" while a rune is still open, and
// for special tokens.
func (s *Stream) Add(id int) string {
	text, ok := s.t.text(id)
	if !ok {
		return ""
	}
	if s.t.bytes {
		s.pending = append(s.pending, s.t.Token(id)...)
		return s.whole()
	}
	if _, ok := byteToken(text); ok {
		s.run = append(s.run, text)
		return ""
	}
	return s.begin(s.endRun() + string(s.t.Token(id)))
}

// whole gives what is pending, but for a rune that is still open.
func (s *Stream) whole() string {
	n := len(s.pending)
	// At most the last three bytes can be the beginning of a rune.
	for i := n - 1; i >= 0 && i >= n-3; i-- {
		if utf8.RuneStart(s.pending[i]) {
			if !utf8.FullRune(s.pending[i:]) {
				n = i
			}
			break
		}
	}
	out := Valid(string(s.pending[:n]))
	s.pending = append(s.pending[:0], s.pending[n:]...)
	return out
}

func (s *Stream) endRun() string {
	out := strings.Join(byteFallback(s.run), "")
	s.run = s.run[:0]
	return out
}

// begin drops the space that these vocabularies put before a text.
func (s *Stream) begin(text string) string {
	if !s.started && text != "" {
		s.started = true
		text = strings.TrimPrefix(text, " ")
	}
	return text
}

// Flush ends the text: a rune left open becomes U+FFFD.
func (s *Stream) Flush() string {
	out := s.begin(s.endRun()) + Valid(string(s.pending))
	*s = Stream{t: s.t}
	return out
}
