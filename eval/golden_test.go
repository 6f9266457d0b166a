package eval

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
)

// golden is a scene with what training's own language says of it
// (testdata/make_golden.py).
type golden struct {
	Truth    json.RawMessage `json:"truth"`
	Describe [][]string      `json:"describe"` // of each describe_at
	Changes  [][]string      `json:"changes"`  // at 1, 2, ... seconds
	clip     *clip
}

func goldens(t testing.TB) []*golden {
	t.Helper()
	f, err := os.Open("testdata/yard.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []*golden
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		g := &golden{}
		if err := json.Unmarshal(s.Bytes(), g); err != nil {
			t.Fatal(err)
		}
		if g.clip, err = parseClip(g.Truth); err != nil {
			t.Fatal(err)
		}
		out = append(out, g)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if len(out) < 15 {
		t.Fatalf("%d scenes only", len(out))
	}
	return out
}

// What training calls true must be true here: every sentence readable, no false
// claim, everybody who must be told told.
func TestTrainingsOwnWordsAreTrue(t *testing.T) {
	l := newLexicon(nil)
	claims, must := 0, 0
	for _, g := range goldens(t) {
		for i, at := range g.clip.Describe {
			m := g.clip.at(at, recent)
			for _, text := range g.Describe[i] {
				v := m.judge(l.read(text))
				claims += v.claims
				for _, why := range v.wrong {
					t.Errorf("%s at %v: %s: %q", g.clip.Video, at, why, text)
				}
				for _, a := range m.actors {
					if a.must {
						must++
						if !v.said[a.ID] {
							t.Errorf("%s at %v: %s, which does %v, is not told by %q", g.clip.Video, at, a.label(), a.expect, text)
						}
					}
				}
			}
		}
		for i, texts := range g.Changes {
			m := g.clip.at(float64(i+1), change)
			for _, text := range texts {
				if text == "<|nothing|>" {
					continue
				}
				v := m.judge(l.read(text))
				claims += v.claims
				for _, why := range v.wrong {
					t.Errorf("%s at %d: %s: %q", g.clip.Video, i+1, why, text)
				}
				if len(v.told) == 0 {
					t.Errorf("%s at %d: %q tells no event", g.clip.Video, i+1, text)
				}
			}
		}
		for _, q := range g.clip.Ask {
			if _, is := yesNo(q.A); !is && q.A != cannotTell && !l.rightAnswer(q, q.A) {
				t.Errorf("%q is not a right answer to %q (%s)", q.A, q.Q, q.Kind)
			}
		}
	}
	if claims < 200 || must < 100 {
		t.Fatalf("%d claims about %d actors only", claims, must)
	}
}

// The words of one scene said of another must not pass.
func TestWordsOfAnotherSceneAreFalse(t *testing.T) {
	l := newLexicon(nil)
	gs := goldens(t)
	claims, wrong := 0, 0
	for i, g := range gs {
		other := gs[(i+1)%len(gs)]
		for k, at := range g.clip.Describe {
			v := g.clip.at(at, recent).judge(l.read(other.Describe[k][0]))
			claims += v.claims
			wrong += len(v.wrong)
		}
	}
	if wrong*10 < claims*8 {
		t.Errorf("%d of %d claims about another scene were found false", wrong, claims)
	}
}
