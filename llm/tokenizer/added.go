package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedToken is a token that is found in the text before the model sees it.
type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// addedTokens finds them: those that are not normalized in the raw text, the
// others in the normalized rest.
type addedTokens struct {
	byID            map[int]addedToken
	special         map[int]bool
	raw, normalized trie
}

func newAddedTokens(list []addedToken, normalize func(string) string) *addedTokens {
	a := &addedTokens{byID: map[int]addedToken{}, special: map[int]bool{}}
	for _, t := range list {
		a.byID[t.ID] = t
		if t.Special {
			a.special[t.ID] = true
		}
		if t.Normalized {
			a.normalized.add(normalize(t.Content), t.ID)
		} else {
			a.raw.add(t.Content, t.ID)
		}
	}
	return a
}

// split yields the parts of text in order: an id and no piece, or a
// normalized piece and -1. first says that the piece begins the text.
func (a *addedTokens) split(text string, special bool, normalize func(string) string, yield func(piece string, id int, first bool)) {
	a.find(&a.raw, text, special, func(piece string, id int, first bool) {
		if id >= 0 {
			yield("", id, false)
			return
		}
		a.find(&a.normalized, normalize(piece), special, func(p string, id int, head bool) {
			yield(p, id, first && head)
		})
	})
}

func (a *addedTokens) find(in *trie, s string, special bool, yield func(string, int, bool)) {
	done := 0 // how far s has been yielded
	for at := 0; at < len(s); {
		id, n := in.longest(s[at:])
		if n == 0 {
			at++
			continue
		}
		from, to := at, at+n
		at = to
		t := a.byID[id]
		if from < done || t.Special && !special || t.SingleWord && (endsWord(s[:from]) || beginsWord(s[to:])) {
			continue
		}
		if t.LStrip {
			from = max(done, len(strings.TrimRightFunc(s[:from], unicode.IsSpace)))
		}
		if t.RStrip {
			to = len(s) - len(strings.TrimLeftFunc(s[to:], unicode.IsSpace))
		}
		if done < from {
			yield(s[done:from], -1, done == 0)
		}
		yield("", id, false)
		done = to
	}
	if done < len(s) {
		yield(s[done:], -1, done == 0)
	}
}

func isWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.In(r, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}

func endsWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func beginsWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}

// trie finds the longest token at the head of a string.
type trie struct {
	next map[byte]*trie
	id   int
	end  bool
}

func (t *trie) add(s string, id int) {
	if s == "" {
		return
	}
	for i := range len(s) {
		if t.next == nil {
			t.next = map[byte]*trie{}
		}
		n := t.next[s[i]]
		if n == nil {
			n = &trie{}
			t.next[s[i]] = n
		}
		t = n
	}
	t.id, t.end = id, true
}

func (t *trie) longest(s string) (id, length int) {
	for i := 0; i < len(s); i++ {
		if t = t.next[s[i]]; t == nil {
			break
		}
		if t.end {
			id, length = t.id, i+1
		}
	}
	return id, length
}
