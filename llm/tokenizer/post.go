package tokenizer

import (
	"encoding/json"
	"fmt"
)

// newPostProcessor gives the ids that go before and after a single text.
func newPostProcessor(raw json.RawMessage, vocab map[string]int) (before, after []int, err error) {
	kind, err := typed(raw)
	if err != nil {
		return nil, nil, err
	}
	switch kind {
	case "", "ByteLevel":
		return nil, nil, nil
	case "RobertaProcessing", "BertProcessing":
		var f struct{ Cls, Sep [2]any }
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, nil, err
		}
		cls, okC := f.Cls[1].(float64)
		sep, okS := f.Sep[1].(float64)
		if !okC || !okS {
			return nil, nil, fmt.Errorf("%s without cls and sep", kind)
		}
		return []int{int(cls)}, []int{int(sep)}, nil
	case "Sequence":
		var f struct{ Processors []json.RawMessage }
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, nil, err
		}
		for _, r := range f.Processors {
			b, a, err := newPostProcessor(r, vocab)
			if err != nil {
				return nil, nil, err
			}
			before, after = append(b, before...), append(after, a...)
		}
		return before, after, nil
	case "TemplateProcessing":
		var f struct {
			Single []struct {
				SpecialToken *struct{ ID string }
				Sequence     *struct{ ID string }
			}
			SpecialTokens map[string]struct{ IDs []int } `json:"special_tokens"`
		}
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, nil, err
		}
		seen := false
		for _, p := range f.Single {
			if p.SpecialToken == nil {
				seen = true
				continue
			}
			ids := f.SpecialTokens[p.SpecialToken.ID].IDs
			if ids == nil {
				id, ok := vocab[p.SpecialToken.ID]
				if !ok {
					return nil, nil, fmt.Errorf("template token %q is not in the vocabulary", p.SpecialToken.ID)
				}
				ids = []int{id}
			}
			if seen {
				after = append(after, ids...)
			} else {
				before = append(before, ids...)
			}
		}
		return before, after, nil
	}
	return nil, nil, fmt.Errorf("%w %q", ErrUnsupported, kind)
}
