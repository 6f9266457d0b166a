package eval

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"time"
)

// Options are Run's.
type Options struct {
	// Log gets a line for each false claim, each actor missed and each wrong
	// answer. It defaults to none.
	Log func(format string, args ...any)
	// Said gets what is said: descriptions and answers, each at its moment of a
	// clip that runs as it is. It defaults to none.
	Said func(Said)
	// Against is what another run said of the same clips (see ReadSaid): the report
	// also tells what has stayed the same, and by how much scores differ. It defaults to none.
	Against []Said
	// Progress is told after each clip how many of all runs are done.
	// It defaults to none.
	Progress func(done, total int)
}

// Said is a description, which has no question, or an answer.
type Said struct {
	Video    string   `json:"video"`
	T        float64  `json:"t"` // seconds
	Question string   `json:"question,omitempty"`
	Text     string   `json:"text"`
	Yes      *float64 `json:"yes,omitempty"` // its probability
}

// slack is how far behind a moment a frame's time stamp may be rounded.
const slack = 10 * time.Millisecond

// Run scores e on every clip of dir that has a truth file (NAME.json beside its
// video; docs/eval.md has the format). The clips are run one after the other,
// those with a temporal item three times: normal, reset, shuffled. It returns
// ErrNoClips when dir has no truth files, and stops at the first error.
func Run(ctx context.Context, dir string, e Engine, opt Options) (*Report, error) {
	if opt.Log == nil {
		opt.Log = func(string, ...any) {}
	}
	if opt.Said == nil {
		opt.Said = func(Said) {}
	}
	if opt.Progress == nil {
		opt.Progress = func(int, int) {}
	}
	clips, err := load(dir)
	if err != nil {
		return nil, err
	}
	var kinds []string
	for _, c := range clips {
		for _, a := range c.Actors {
			kinds = append(kinds, a.Kind)
		}
	}
	s := &scorer{lex: newLexicon(kinds), opt: opt, can: e.Skills(), clips: clips, items: map[itemKey]item{}, times: map[int]timing{}, against: newComparison(opt.Against)}
	s.choose()
	var jobs []func() error
	for i, c := range clips {
		jobs = append(jobs, func() error { return s.normal(ctx, e, i, c) })
		if c.Split != "ood" && i%(len(clips)/timed+1) == 0 {
			jobs = append(jobs, func() error { return s.speed(ctx, e, i, c) })
		}
		if c.Split != "ood" && s.can.Words && s.has(i) {
			for _, mode := range []Mode{Reset, Shuffled} {
				jobs = append(jobs, func() error { return s.temporal(ctx, e, i, c, mode) })
			}
		}
	}
	for n, job := range jobs {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("eval: %w", err)
		}
		if err := job(); err != nil {
			return nil, err
		}
		opt.Progress(n+1, len(jobs))
	}
	return s.report(), nil
}

// itemKey names one temporal item: an actor at a description, or a question.
type itemKey struct{ clip, describe, actor, ask int }

// item is the sort of a temporal item.
type item string

const (
	itemWay  item = "direction"
	itemStop item = "stopped, turned back"
	itemBox  item = "dropped, picked up"
)

// scorer counts over all clips.
type scorer struct {
	lex   *lexicon
	opt   Options
	can   Skills
	clips []*clip
	items map[itemKey]item // the temporal items, chosen by the truth alone

	recall, wrong, chatter       tally
	wrongIn                      [3]tally // descriptions, changes, answers
	related                      tally    // of the first: those that relate two
	time                         [3]tally // by Mode
	timeOf                       [3]map[item]*tally
	zero, flagged, mistaken      tally
	open, news                   tally
	yes                          []yesItem
	unreadable, abstained, edges int
	times                        map[int]timing
	against                      *comparison // nil where there is nothing to compare with
}

// choose draws the temporal items from the truth. Of each sort of yes/no
// question as many are taken with yes as with no, so that whoever always
// answers the same is right half of the time.
func (s *scorer) choose() {
	type asked struct {
		key itemKey
		it  item
	}
	type pool struct {
		kind string
		yes  bool
	}
	pools := map[pool][]asked{}
	for i, c := range s.clips {
		for k, t := range c.Describe {
			for _, a := range c.at(t, recent).actors {
				if it, ok := temporalItem(a); ok {
					s.items[itemKey{clip: i, describe: k, actor: a.ID, ask: -1}] = it
				}
			}
		}
		for k, q := range c.Ask {
			key := itemKey{clip: i, describe: -1, ask: k}
			it, temporal := map[string]item{"direction": itemWay, "stopped": itemStop, "drop": itemBox, "pick_up": itemBox}[q.Kind]
			if !temporal || q.A == cannotTell || c.atEdge(s.lex, q) {
				continue
			}
			if q.Kind == "direction" {
				if l := s.lex.answer("direction", q.A); l == "left" || l == "right" {
					s.items[key] = it
				}
			} else if yes, is := yesNo(q.A); is {
				pools[pool{q.Kind, yes}] = append(pools[pool{q.Kind, yes}], asked{key, it})
			}
		}
	}
	for _, kind := range []string{"stopped", "drop", "pick_up"} {
		y, n := pools[pool{kind, true}], pools[pool{kind, false}]
		take := min(len(y), len(n))
		for _, list := range [][]asked{y, n} {
			for j := range take { // spread evenly over the clips
				a := list[j*len(list)/take]
				s.items[a.key] = a.it
			}
		}
	}
}

// temporalItem sorts what an actor surely does at a moment.
func temporalItem(a *actorAt) (item, bool) {
	if !a.must || len(a.expect) != 1 {
		return "", false
	}
	switch x := a.expect[0]; x.action {
	case "moving", "enter", "start":
		return itemWay, x.to != ""
	case "stop", "turn_back":
		return itemStop, true
	case "drop", "pick_up":
		return itemBox, true
	}
	return "", false
}

func (s *scorer) has(clip int) bool {
	for k := range s.items {
		if k.clip == clip {
			return true
		}
	}
	return false
}

func (s *scorer) temporalRight(mode Mode, key itemKey, right bool) {
	it, ok := s.items[key]
	if !ok {
		return
	}
	s.time[mode].add(key.clip, right)
	if s.timeOf[mode] == nil {
		s.timeOf[mode] = map[item]*tally{}
	}
	if s.timeOf[mode][it] == nil {
		s.timeOf[mode][it] = &tally{}
	}
	s.timeOf[mode][it].add(key.clip, right)
}

// step is something to do at a time of a clip.
type step struct {
	t     float64
	order int // at one time: describe, changes, questions, labels
	do    func(ctx context.Context, st Stream) error
}

// play opens the clip and takes the steps in order of time.
func (s *scorer) play(ctx context.Context, e Engine, c *clip, mode Mode, steps []step, used func(frames int, d time.Duration, ood bool)) (err error) {
	fail := func(what string, err error) error {
		return fmt.Errorf("eval: %s of %s (%s): %w", what, c.Video, mode, err)
	}
	st, err := e.Open(ctx, c.path, mode)
	if err != nil {
		return fail("open", err)
	}
	defer func() {
		if cerr := st.Close(); err == nil && cerr != nil {
			err = fail("close", cerr)
		}
	}()
	sort.SliceStable(steps, func(i, j int) bool {
		if steps[i].t != steps[j].t {
			return steps[i].t < steps[j].t
		}
		return steps[i].order < steps[j].order
	})
	last := -1.0
	for _, x := range steps {
		if x.t != last {
			began := time.Now()
			n, err := st.Advance(ctx, time.Duration(x.t*float64(time.Second))+slack)
			if err != nil && !errors.Is(err, io.EOF) {
				return fail(fmt.Sprintf("advance to %.2f s", x.t), err)
			}
			used(n, time.Since(began), st.OutOfDomain())
			last = x.t
		}
		if err := x.do(ctx, st); err != nil {
			return fail(fmt.Sprintf("at %.2f s", x.t), err)
		}
	}
	return nil
}

// normal runs a clip the shipped way and takes every score but the two controls.
func (s *scorer) normal(ctx context.Context, e Engine, i int, c *clip) error {
	// Each second and the end, so that every frame is seen and a flag is noticed.
	look := func(context.Context, Stream) error { return nil }
	steps := []step{{t: c.Duration, order: 9, do: look}}
	for t := 1.0; t < c.Duration; t++ {
		steps = append(steps, step{t: t, order: 9, do: look})
	}
	if c.Split != "ood" {
		if s.can.Words {
			steps = append(steps, s.describes(i, c, Normal)...)
			steps = append(steps, s.asks(i, c, Normal)...)
		}
		if s.can.Changes {
			steps = append(steps, s.changes(i, c)...)
		}
		if s.can.Labels {
			steps = append(steps, s.labels(i, c)...)
		}
	}
	flagged := false
	if err := s.play(ctx, e, c, Normal, steps, func(_ int, _ time.Duration, ood bool) { flagged = flagged || ood }); err != nil {
		return err
	}
	if !s.can.Domain {
		return nil
	}
	if c.Split == "ood" {
		s.flagged.add(i, flagged)
	} else {
		s.mistaken.add(i, flagged)
	}
	if flagged != (c.Split == "ood") {
		s.opt.Log("%s: out of domain: %v", c.Video, flagged)
	}
	return nil
}

// timed is how many clips are played once more for their speed, about.
const timed = 100

// speed plays a clip without a question in between.
func (s *scorer) speed(ctx context.Context, e Engine, i int, c *clip) error {
	return s.play(ctx, e, c, Normal, []step{{t: c.Duration, do: func(context.Context, Stream) error { return nil }}}, func(n int, d time.Duration, _ bool) {
		tm := s.times[i]
		tm.frames, tm.seconds = n, d.Seconds()
		s.times[i] = tm
	})
}

// temporal runs a clip once more for its temporal items.
func (s *scorer) temporal(ctx context.Context, e Engine, i int, c *clip, mode Mode) error {
	steps := append(s.describes(i, c, mode), s.asks(i, c, mode)...)
	return s.play(ctx, e, c, mode, steps, func(int, time.Duration, bool) {})
}

// claim counts a text's claims; from: 0 a description, 1 a change, 2 an answer.
func (s *scorer) claim(from, clip int, right bool) {
	s.wrong.add(clip, !right)
	s.wrongIn[from].add(clip, !right)
}

func (s *scorer) count(from, clip int, v *verdict) {
	for k := range v.claims {
		s.claim(from, clip, k >= len(v.wrong))
	}
}

func (s *scorer) describes(i int, c *clip, mode Mode) (steps []step) {
	for k, t := range c.Describe {
		m := c.at(t, recent)
		if mode != Normal && !slices.ContainsFunc(m.actors, func(a *actorAt) bool { return s.items[itemKey{i, k, a.ID, -1}] != "" }) {
			continue
		}
		steps = append(steps, step{t, 0, func(ctx context.Context, st Stream) error {
			began := time.Now()
			a, err := st.Describe(ctx)
			if err != nil {
				return fmt.Errorf("describe: %w", err)
			}
			if a.Took == 0 {
				a.Took = time.Since(began)
			}
			text := a.Text
			if a.Nothing || a.CannotTell {
				text = ""
			}
			r := s.lex.read(text)
			of := m.pair(r.entities, true)
			for _, who := range m.actors {
				right := slices.ContainsFunc(r.entities, func(e *entity) bool {
					at := slices.Index(r.entities, e)
					return of[at] == who && m.tells(e, who, true)
				})
				s.temporalRight(mode, itemKey{i, k, who.ID, -1}, right)
			}
			if mode != Normal {
				return nil
			}
			said := Said{Video: c.Video, T: t, Text: text}
			s.opt.Said(said)
			v := m.judge(r)
			if err := s.against.describe(s.lex, m, i, v, said); err != nil {
				return err
			}
			s.unreadable += len(r.bad)
			s.count(0, i, v)
			for _, right := range v.related {
				s.related.add(i, !right)
			}
			for _, why := range v.wrong {
				s.opt.Log("%s at %.2f s: false: %s; said %q", c.Video, t, why, text)
			}
			for _, who := range m.actors {
				if who.must {
					s.recall.add(i, v.said[who.ID])
					if !v.said[who.ID] {
						s.opt.Log("%s at %.2f s: missed: %s, which does %v; said %q", c.Video, t, who.label(), who.expect, text)
					}
				}
			}
			tm := s.times[i]
			tm.says = append(tm.says, float64(a.Took)/float64(time.Millisecond))
			s.times[i] = tm
			return nil
		}})
	}
	return steps
}

// changes asks once a second, so that each event is news exactly once.
func (s *scorer) changes(i int, c *clip) (steps []step) {
	if len(c.Frames) == 0 {
		return nil
	}
	told := map[int]bool{}
	for t := change; t < c.Duration; t += change {
		m := c.at(t, change)
		steps = append(steps, step{t, 1, func(ctx context.Context, st Stream) error {
			a, err := st.Changes(ctx)
			if err != nil {
				return fmt.Errorf("changes: %w", err)
			}
			text := a.Text
			if a.Nothing || a.CannotTell {
				text = ""
			}
			quiet := true // all that happened was told before
			for _, ev := range m.tellable() {
				quiet = quiet && told[ev]
			}
			if quiet {
				s.chatter.add(i, len(words(text)) > 0)
				if len(words(text)) > 0 {
					s.opt.Log("%s at %.2f s: nothing is new, but said %q", c.Video, t, text)
				}
			}
			r := s.lex.read(text)
			v := m.judge(r)
			s.unreadable += len(r.bad)
			s.count(1, i, v)
			for _, why := range v.wrong {
				s.opt.Log("%s at %.2f s: false change: %s; said %q", c.Video, t, why, text)
			}
			for ev := range v.told {
				told[ev] = true
			}
			return nil
		}})
	}
	// After the last update: how many events were told at all (not one of the
	// scores; the table has it).
	steps = append(steps, step{c.Duration, 8, func(context.Context, Stream) error {
		last := change * float64(int((c.Duration-1e-9)/change))
		for k, ev := range c.Events {
			if ev.T < edge || ev.T > last-edge || !c.noticeable(ev) {
				continue
			}
			s.news.add(i, told[k])
		}
		return nil
	}})
	return steps
}

// noticeable tells whether an event could be seen through the next second.
func (c *clip) noticeable(ev happening) bool {
	if isScene(ev.Kind) {
		return true
	}
	for _, t := range []float64{ev.T, ev.T + change/2, ev.T + change} {
		if ev.Kind == "leave" {
			t = ev.T - change
		}
		for _, a := range c.at(t, change).actors {
			if a.ID == ev.Actor && !a.must {
				return false
			}
		}
	}
	return true
}

func (s *scorer) asks(i int, c *clip, mode Mode) (steps []step) {
	for k, q := range c.Ask {
		key := itemKey{clip: i, describe: -1, ask: k}
		if mode != Normal && s.items[key] == "" {
			continue
		}
		if c.atEdge(s.lex, q) {
			if mode == Normal {
				s.edges++
			}
			continue
		}
		steps = append(steps, step{q.T, 2, func(ctx context.Context, st Stream) error {
			a, err := st.Ask(ctx, q.Q)
			if err != nil {
				return fmt.Errorf("ask %q: %w", q.Q, err)
			}
			right := false
			yes, isYesNo := yesNo(q.A)
			silent := a.CannotTell || a.Nothing || len(words(a.Text)) == 0
			switch {
			case isYesNo:
				p := a.probability()
				right = p != 0.5 && (p > 0.5) == yes && !silent
				if mode == Normal {
					s.yes = append(s.yes, yesItem{i, p, yes})
				}
			case q.A == cannotTell:
				right = silent
			default:
				right = !silent && s.lex.rightAnswer(q, a.Text)
			}
			s.temporalRight(mode, key, right)
			if mode != Normal {
				return nil
			}
			said := Said{Video: c.Video, T: q.T, Question: q.Q, Text: a.Text}
			if a.HasYes {
				said.Yes = &a.YesProb
			}
			s.opt.Said(said)
			if err := s.against.ask(i, isYesNo, said, func(text string) bool { return q.A != cannotTell && s.lex.rightAnswer(q, text) }); err != nil {
				return err
			}
			if !isYesNo {
				s.open.add(i, right)
				if silent {
					s.abstained++
				} else {
					s.claim(2, i, right)
				}
			}
			if !right {
				s.opt.Log("%s at %.2f s: wrong: %q is %q; said %q (yes %.3f)", c.Video, q.T, q.Q, q.A, a.Text, a.probability())
			}
			return nil
		}})
	}
	return steps
}

// labels asks, on an unseen clip, which colour an actor has whose colour and
// kind were never seen together in training, at the moment it is seen best.
func (s *scorer) labels(i int, c *clip) []step {
	if c.Split != "unseen" {
		return nil
	}
	pairs := c.Unseen
	if pairs == nil {
		pairs = heldOut
	}
	var best *actorAt
	at := 0.0
	for _, t := range c.Describe {
		actors := c.at(t, recent).actors
		for _, a := range actors {
			alone := !slices.ContainsFunc(actors, func(b *actorAt) bool { return b != a && b.Kind == a.Kind && b.visible > 0 })
			if a.must && alone && slices.Contains(pairs, a.label()) && (best == nil || a.visible > best.visible) {
				best, at = a, t
			}
		}
	}
	if best == nil {
		return nil
	}
	names := yardPaint
	if !slices.Contains(names, best.Color) {
		names = append(slices.Clone(names), best.Color)
	}
	var labels []string
	for _, color := range names {
		labels = append(labels, nounPhrase(color, best.Kind))
	}
	return []step{{at, 3, func(ctx context.Context, st Stream) error {
		p, err := st.Labels(ctx, labels)
		if err != nil {
			return fmt.Errorf("labels: %w", err)
		}
		if len(p) != len(labels) {
			return fmt.Errorf("labels: got %d scores for %d labels", len(p), len(labels))
		}
		top := 0
		for k := range p {
			if p[k] > p[top] {
				top = k
			}
		}
		right := names[top] == best.Color && !twice(p, p[top])
		s.zero.add(i, right)
		if !right {
			s.opt.Log("%s at %.2f s: zero-shot: %s taken for %s", c.Video, at, nounPhrase(best.Color, best.Kind), labels[top])
		}
		return nil
	}}}
}

// twice tells whether the best score is a tie: then nothing was told apart.
func twice(p []float64, v float64) bool {
	n := 0
	for _, x := range p {
		if x == v {
			n++
		}
	}
	return n != 1
}

// yardPaint are the colours that zero-shot labels choose from.
var yardPaint = []string{"red", "blue", "green", "yellow", "white", "black", "orange", "purple"}

// nounPhrase is how training names a thing: "an orange van", "a person in a red coat".
func nounPhrase(color, kind string) string {
	if kind == "person" {
		return "a person in " + article(color) + " coat"
	}
	return article(color + " " + kind)
}

func article(noun string) string {
	switch noun[0] {
	case 'a', 'e', 'i', 'o':
		return "an " + noun
	}
	return "a " + noun
}
