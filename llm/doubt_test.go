package llm

import (
	"math"
	"strings"
	"testing"
)

// Words come with the probability that they were picked with.
func TestDoubts(t *testing.T) {
	type word struct {
		text string
		p    float64
	}
	two := []word{{"A", 0.9}, {" car", 0.9}, {".", 1}, {" A", 0.9}, {" van", 0.5}, {".", 1}, {" It", 0.9}, {" rains", 0.9}}
	pair := []word{{"A", 0.9}, {" dog.", 0.9}, {" A", 0.8}, {" van.", 0.9}, {" The", 0.9}, {" dog", 1}, {" runs.", 1}} // 0.81, 0.72, 0.9: of all 0.525
	for name, c := range map[string]struct {
		least    float64
		words    []word
		want     string
		left     int
		circle   bool
		relation float64
	}{
		"a relation, as sure as those before": {0.3, pair, "A dog.| A van.| The dog runs.", 0, false, 0.5},
		"it counts them in":                   {0.3, pair, "A dog.| A van.", 1, false, 0.6},
		"and those that are left out":         {0.75, pair, "A dog.", 2, false, 0.6},
		"it counts as any":                    {0.75, pair, "A dog.| The dog runs.", 1, false, 0},
		"one that comes first is none":        {0.5, []word{{"The", 0.9}, {" yard is empty.", 1}}, "The yard is empty.", 0, false, 0.95},
		"all is told":                         {0, two, "A car.| A van.| It rains", 0, false, 0},
		"cut off in a circle":                 {0.4, two, "A car.| A van.", 1, true, 0},
		"likely enough":                       {0.4, two, "A car.| A van.| It rains", 0, false, 0},
		"the second is not":                   {0.5, two, "A car.| It rains", 1, false, 0},
		"the product counts, and the end too": {0.82, two, "", 3, false, 0},
		"nothing was said":                    {0.9, nil, "", 0, false, 0},
		"a sentence of spaces":                {0.9, []word{{" ", 0.1}}, " ", 0, false, 0},
		"runes that come in parts":            {0.4, []word{{"", 0.9}, {"é", 0.9}, {"?", 0.9}}, "é?", 0, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := doubts{least: c.least, relation: c.relation}
			var told []string
			for _, w := range c.words {
				logits := []float32{float32(math.Inf(-1)), float32(math.Log(w.p)), float32(math.Log(1 - w.p))}
				told = append(told, d.hear(w.text, 1, logits))
			}
			told = append(told, d.end("", c.circle))
			if got := strings.Join(told, ""); got != strings.ReplaceAll(c.want, "|", "") || d.n != c.left {
				t.Errorf("told %q, left out %d; want %q, %d", told, d.n, c.want, c.left)
			}
			if c.least == 0 && told[0] != "A" {
				t.Errorf("held back for nothing: %q", told)
			}
		})
	}
}

func TestDoubtedAnswers(t *testing.T) {
	m := load(t, "scripted")
	s := session(t, m)
	for name, c := range map[string]struct {
		sure float64
		req  Request
		text string
		last Piece
	}{
		"sure":     {0.5, Request{Task: Describe}, "hé!", Piece{Tokens: 5, Stop: StopEnd}},
		"not sure": {0.9, Request{Task: Describe}, "", Piece{First: true, CannotTell: true, Doubted: 1, Tokens: 5, Stop: StopEnd}},
		"cut off":  {0.9, Request{Task: Describe, MaxTokens: 2}, "h", Piece{First: true, Tokens: 2, Stop: StopLength}},
		"nothing":  {0.9, Request{Task: Changes}, "", Piece{First: true, Nothing: true, Stop: StopEnd}},
		"asked":    {0.99, Request{Task: Ask, Question: "y"}, "yes", Piece{YesProb: 1 / (1 + math.Exp(-1)), HasYes: true, Tokens: 1, Stop: StopEnd}},
		"doubted":  {0.99999, Request{Task: Ask, Question: "r", MaxTokens: 3}, "", Piece{First: true, CannotTell: true, YesProb: 0.5, Doubted: 1, Tokens: 3, Stop: StopLength}},
		"answered": {0.9, Request{Task: Ask, Question: "r", MaxTokens: 3}, "aaa", Piece{First: true, YesProb: 0.5, Tokens: 3, Stop: StopLength}},
		"drawn":    {0.99, Request{Task: Describe, Temperature: 0.01}, "hé!", Piece{Tokens: 5, Stop: StopEnd}},
	} {
		t.Run(name, func(t *testing.T) {
			m.sure = map[Task]float64{Describe: c.sure, Changes: c.sure, Ask: c.sure}
			text, last := answerOf(t, s, c.req)
			if last.Text = ""; math.Abs(last.YesProb-c.last.YesProb) < 1e-6 {
				last.YesProb = c.last.YesProb
			}
			if text != c.text || last != c.last {
				t.Errorf("%q, last %+v; want %q, %+v", text, last, c.text, c.last)
			}
		})
	}
}
