package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// typed reads the "type" of a part, "" for null.
func typed(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var k struct{ Type string }
	err := json.Unmarshal(raw, &k)
	return k.Type, err
}

func newNormalizer(raw json.RawMessage) (func(string) string, error) {
	kind, err := typed(raw)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "":
		return func(s string) string { return s }, nil
	case "NFC":
		return norm.NFC.String, nil
	case "NFD":
		return norm.NFD.String, nil
	case "NFKC":
		return norm.NFKC.String, nil
	case "NFKD":
		return norm.NFKD.String, nil
	case "Lowercase":
		return lower, nil
	case "Sequence":
		var f struct{ Normalizers []json.RawMessage }
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, err
		}
		var steps []func(string) string
		for _, r := range f.Normalizers {
			step, err := newNormalizer(r)
			if err != nil {
				return nil, err
			}
			steps = append(steps, step)
		}
		return func(s string) string {
			for _, step := range steps {
				s = step(s)
			}
			return s
		}, nil
	case "Prepend":
		var f struct{ Prepend string }
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, err
		}
		return func(s string) string {
			if s == "" {
				return s
			}
			return f.Prepend + s
		}, nil
	case "Replace":
		return newReplace(raw)
	case "Precompiled":
		return newPrecompiled(raw)
	case "Strip":
		var f struct {
			Left  bool `json:"strip_left"`
			Right bool `json:"strip_right"`
		}
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, err
		}
		return func(s string) string {
			if f.Left {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if f.Right {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		}, nil
	case "StripAccents":
		return func(s string) string {
			return strings.Map(func(r rune) rune {
				if unicode.Is(unicode.Mn, r) {
					return -1
				}
				return r
			}, s)
		}, nil
	}
	return nil, fmt.Errorf("%w %q", ErrUnsupported, kind)
}

// lower maps rune by rune, so a final sigma stays a plain one. One rune of
// Unicode becomes two.
func lower(s string) string {
	return strings.ReplaceAll(strings.Map(func(r rune) rune {
		if r == 'İ' {
			return r
		}
		return unicode.ToLower(r)
	}, s), "İ", "i\u0307")
}

// pattern is a literal or a regular expression, as the file writes it.
type pattern struct {
	String *string
	Regex  *string
}

func newReplace(raw json.RawMessage) (func(string) string, error) {
	var f struct {
		Pattern pattern
		Content string
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, err
	}
	find, err := f.Pattern.compile()
	if err != nil {
		return nil, err
	}
	return func(s string) string {
		var b strings.Builder
		last := 0
		for at := range find(s) {
			b.WriteString(s[last:at[0]])
			b.WriteString(f.Content)
			last = at[1]
		}
		if last == 0 && b.Len() == 0 {
			return s
		}
		b.WriteString(s[last:])
		return b.String()
	}, nil
}
