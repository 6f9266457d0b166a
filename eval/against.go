package eval

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ReadSaid reads what Options.Said was told, a JSON object a line, one at least.
func ReadSaid(r io.Reader) ([]Said, error) {
	var all []Said
	for d := json.NewDecoder(r); ; {
		var s Said
		if err := d.Decode(&s); errors.Is(err, io.EOF) && len(all) > 0 {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("eval: what was said before: object %d: %w", len(all)+1, err)
		}
		all = append(all, s)
	}
}

// Sorts of what is said, of which Report tells apart what stayed the same.
const (
	description = iota
	yesOrNo
	answer
)

// comparison holds what is said against what was said of the same moments before.
type comparison struct {
	before    map[said]string
	same      [3]tally
	now, then side
}

// side is what is compared of one of the two.
type side struct {
	wrong  [3]tally // claims, as scorer.wrongIn
	recall tally
}

// said names a moment and what was asked then.
type said struct {
	video, question string
	t               float64
}

func newComparison(before []Said) *comparison {
	if before == nil {
		return nil
	}
	c := &comparison{before: map[said]string{}}
	for _, s := range before {
		c.before[said{s.Video, s.Question, s.T}] = s.Text
	}
	return c
}

// text gives what was said before where s is said now.
func (c *comparison) text(s Said) (string, error) {
	text, ok := c.before[said{s.Video, s.Question, s.T}]
	if !ok {
		return "", fmt.Errorf("eval: what was said before has nothing of %s at %.2f s: it is of other clips", s.Video, s.T)
	}
	return text, nil
}

// describe compares a description, of which v was found.
func (c *comparison) describe(l *lexicon, m *moment, clip int, v *verdict, s Said) error {
	if c == nil {
		return nil
	}
	before, err := c.text(s)
	if err != nil {
		return err
	}
	c.same[description].add(clip, s.Text == before)
	for side, v := range map[*side]*verdict{&c.now: v, &c.then: m.judge(l.read(before))} {
		for k := range v.claims {
			side.wrong[description].add(clip, k < len(v.wrong))
		}
		for _, who := range m.actors {
			if who.must {
				side.recall.add(clip, v.said[who.ID])
			}
		}
	}
	return nil
}

// ask compares an answer. right tells whether a text is right, and is not asked of
// silence.
func (c *comparison) ask(clip int, yesNo bool, s Said, right func(text string) bool) error {
	if c == nil {
		return nil
	}
	before, err := c.text(s)
	if err != nil {
		return err
	}
	if yesNo {
		c.same[yesOrNo].add(clip, s.Text == before)
		return nil
	}
	c.same[answer].add(clip, s.Text == before)
	for side, text := range map[*side]string{&c.now: s.Text, &c.then: before} {
		if len(words(text)) > 0 {
			side.wrong[answer].add(clip, !right(text))
		}
	}
	return nil
}

// rows are the scores: shares that stayed the same, and by how much others are more.
func (c *comparison) rows() []row {
	if c == nil {
		return nil
	}
	return []row{
		{key: "same_descriptions", score: c.same[description].proportion()},
		{key: "same_yes_no", score: c.same[yesOrNo].proportion()},
		{key: "same_answers", score: c.same[answer].proportion()},
		{key: "more_false_in_descriptions", score: more(&c.now.wrong[description], &c.then.wrong[description])},
		{key: "more_false_answers", score: more(&c.now.wrong[answer], &c.then.wrong[answer])},
		{key: "more_event_recall", score: more(&c.now.recall, &c.then.recall)},
	}
}

// more is by how much a share is larger than another of the same clips, which are drawn
// together.
func more(now, then *tally) Score {
	seen := map[int]int{}
	for _, t := range []*tally{now, then} {
		for clip := range t.all {
			seen[clip] = 1
		}
	}
	_, n := now.sum()
	share := func(t *tally, weight map[int]int) float64 {
		right, all := 0, 0
		for clip, w := range weight {
			right, all = right+w*t.right[clip], all+w*t.all[clip]
		}
		return float64(right) / float64(all) // NaN where a draw has none
	}
	return bootstrap(sortedKeys(seen), n, func(w map[int]int) float64 { return share(now, w) - share(then, w) })
}
