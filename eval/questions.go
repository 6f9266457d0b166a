package eval

import (
	"math"
	"slices"
	"strings"
)

// yesNo reads a truth's answer: "yes ..." and "no" are to yes/no questions.
func yesNo(a string) (yes, is bool) {
	switch w := words(a); {
	case len(w) == 0:
		return false, false
	case w[0][0] == "yes":
		return true, true
	case w[0][0] == "no" && len(w) == 1 && len(w[0]) == 1:
		return false, true
	}
	return false, false
}

// probability is the answer's probability of yes: its text's when it has none.
func (a Answer) probability() float64 {
	if a.HasYes {
		return min(max(a.YesProb, 0), 1)
	}
	if a.CannotTell || a.Nothing {
		return 0.5
	}
	if w := words(a.Text); len(w) > 0 {
		switch w[0][0] {
		case "yes":
			return 1
		case "no":
			return 0
		}
	}
	return 0.5
}

// rightAnswer reads an answer to an open question against the truth's.
func (l *lexicon) rightAnswer(q question, text string) bool {
	want, got := l.answer(q.Kind, q.A), l.answer(q.Kind, text)
	return want != "" && want == got
}

// answer reduces an answer to what it claims: a colour, a way, a number. It is
// empty when there is more than one, or a word that can't be read.
func (l *lexicon) answer(kind, text string) string {
	sentences := words(text)
	if len(sentences) != 1 {
		return ""
	}
	plainText := strings.Join(sentences[0], " ")
	var want atomKind
	switch kind {
	case "color":
		want = aColor
	case "direction":
		if plainText == "nowhere" {
			return "still"
		}
	case "count":
		if plainText == "none" {
			return "0"
		}
		want = aNum
	default:
		return plainText
	}
	atoms, unknown := l.atoms(sentences[0])
	if unknown != "" {
		return ""
	}
	out := ""
	for _, a := range atoms {
		got := ""
		switch {
		case kind == "direction" && (a.kind == aTo || a.kind == aBare):
			got = a.word
		case kind == "direction" && a.kind == aFrom:
			return "" // where it is from was not asked
		case kind == "direction" && a.kind == aVerb && oneOf(a.action, "standing", "moving"):
			if a.action == "standing" {
				got = "still"
			}
		case kind == "count" && a.kind == aNo:
			got = "0"
		case kind != "direction" && a.kind == want:
			got = a.word
			if want == aNum {
				got = numbers[a.n]
			}
		case slices.Contains([]atomKind{aDet, aNoun, aPron, aAux, aCoat, aWear, aThere, aFill}, a.kind):
		default:
			return ""
		}
		if got != "" && out != "" && got != out {
			return ""
		}
		if got != "" {
			out = got
		}
	}
	return out
}

// about finds the thing that a question is about.
func (l *lexicon) about(q string) (kind, color string) {
	for _, s := range words(q) {
		for len(s) > 0 {
			atoms, unknown := l.atoms(s)
			for _, a := range atoms {
				switch a.kind {
				case aNoun:
					kind = a.noun
				case aColor:
					color = a.word
				case aCoat:
					if kind == "" {
						kind = "person"
					}
				}
			}
			if unknown == "" {
				break
			}
			s = s[slices.Index(s, unknown)+1:]
		}
	}
	if kind == "" && color == "orange" {
		return "crate of oranges", ""
	}
	return kind, color
}

// atEdge tells whether the question's truth is too near an edge to hold anybody
// to it: an actor that is half seen, a change of state within a third of a second.
func (c *clip) atEdge(l *lexicon, q question) bool {
	near := func(t, line float64) bool { return math.Abs(t-line) <= edge }
	kind, color := l.about(q.Q)
	m := c.at(q.T, recent)
	var half, sure bool
	var of []*actorAt
	for _, a := range m.actors {
		e := &entity{kind: kind, color: color}
		if kind == "" || !e.matches(a, false) {
			continue
		}
		of = append(of, a)
		held := slices.ContainsFunc(a.near, func(x actorTruth) bool { return x.Held })
		half = half || a.visible > maySee && a.visible < mustSee || held && a.visible > 0
		sure = sure || a.must
	}
	switch q.Kind {
	case "contains":
		return half && !sure
	case "count", "color":
		return half
	case "direction", "moving":
		for _, a := range of {
			for _, x := range a.near[:max(0, len(a.near)-1)] {
				if x.Direction != a.near[len(a.near)-1].Direction {
					return true
				}
			}
		}
		return half
	case "stopped":
		for _, a := range of {
			for _, i := range a.events {
				if e := c.Events[i]; near(e.T, q.T) || near(e.T, q.T-recent) || e.T < edge {
					return true
				}
			}
		}
		return half
	case "drop", "pick_up":
		for _, e := range c.Events {
			if e.Kind == q.Kind && (near(e.T, q.T) || near(e.T, q.T-4) || e.T < edge) {
				return true
			}
		}
	case "gate":
		for _, e := range c.Events {
			if strings.HasPrefix(e.Kind, "gate_") && near(e.T, q.T) {
				return true
			}
		}
	case "fallen":
		for _, a := range m.actors {
			for _, x := range a.near {
				if x.State == "fallen" && (x.State != a.near[0].State || x.State != a.near[len(a.near)-1].State || a.may && !a.must) {
					return true
				}
			}
			if len(a.near) > 1 && (a.near[0].State == "fallen") != (a.near[len(a.near)-1].State == "fallen") {
				return true
			}
		}
	}
	return false
}
