package pipeline

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
)

// The ids of the prompts that are not a user's.
const (
	PromptDescribe = "describe"
	PromptChanges  = "changes"
)

// sayAgainAfter is how long a sentence of the change narration is not said again.
const sayAgainAfter = 3 * time.Second

// talker is the speaking half of a stream: it decides when to speak, and turns
// words into deltas and events with a life. It is for one goroutine.
type talker struct {
	s     *Stream
	l     *Looker
	model *event.Model

	narration *event.Narration
	questions []*standing
	evidence  []event.Evidence // of the frames in the window, oldest first
	image     []float32        // of the newest encoded frame
	past      recall
	now       media.Timestamp // of the newest frame
	taken     time.Time       // when it was taken up
	encode    time.Duration
	ood       bool    // the scene is unlike what the model knows
	strange   bool    // the newest frame is
	gone      bool    // the source is away: what was seen last is not now
	novelty   trigger // whether there is something to say

	due       time.Duration // media time of the next description
	labelsDue time.Duration
	labelled  []string                 // what the newest encoded frame was scored against; nil before it was
	said      map[string]time.Duration // sentences of the change narration
	last      string                   // the description that stands, in the model's own words
	viewers   map[string]string        // last answer to each viewer's prompt
}

// standing is a question that is asked again and again.
type standing struct {
	q      configs.Question
	prompt event.Prompt
	due    time.Duration
	asked  bool

	alert *event.Alert // nil for plain answers
	score event.Score  // the newest, without its time

	id   string // of the plain answers' life
	rev  int
	text string
	last event.Data
}

func newTalker(s *Stream, l *Looker) *talker {
	t := &talker{s: s, l: l, said: map[string]time.Duration{}, viewers: map[string]string{}, novelty: newTrigger(s.cfg.Describe.Novelty, s.cfg.Describe.Rearm, s.deps.Models)}
	t.model = modelOf(s)
	t.narration = event.NewNarration(event.NarrationConfig{Stream: s.cfg.Name, Quiet: s.cfg.Describe.Quiet,
		Prompt: &event.Prompt{ID: PromptDescribe, Text: s.cfg.Describe.Prompt}})
	for _, q := range s.cfg.Questions {
		st := &standing{q: q, prompt: event.Prompt{ID: q.ID, Text: q.Text}, id: event.NewID()}
		if a := q.Alert; a != nil {
			c := event.AlertConfig{Stream: s.cfg.Name, Prompt: st.prompt, Threshold: a.On, Hysteresis: orNone(a.On - a.Off), MinDuration: orNone(a.For), CoolDown: orNone(a.CoolDown)}
			if a.Adapt {
				c.Quantile = 0.98
			}
			st.alert = event.NewAlert(c)
		}
		t.questions = append(t.questions, st)
	}
	return t
}

// modelOf names the stream's model in events; nil when it has no name.
func modelOf(s *Stream) *event.Model {
	m := s.deps.Models.Info
	if m.Name == "" {
		return nil
	}
	return &event.Model{Name: m.Name, Hash: m.Hash}
}

// orNone turns the configuration's 0, which means none, into event's -1.
func orNone[T ~float64 | ~int64](v T) T {
	if v == 0 {
		return -1
	}
	return v
}

// close ends the lives that are open.
func (t *talker) close() {
	for _, ev := range t.narration.Close(t.now) {
		t.s.emit(ev, t.image)
	}
	for _, q := range t.questions {
		if q.alert != nil {
			for _, ev := range q.alert.Close(t.now) {
				t.s.emit(ev, t.image)
			}
		} else if q.rev > 0 {
			d := q.last
			d.Revision, d.Phase = q.rev, event.End
			t.s.emit(event.New(event.TypeAnswer, time.Now().UTC(), d), t.image)
		}
	}
}

// frame looks at f and says what is to be said.
func (t *talker) frame(ctx context.Context, f *media.Frame) error {
	if t.gone {
		t.gone = false
		if f.At.Media-t.now.Media < time.Since(t.taken)/2 { // a publisher's clock stands still while it is away
			t.past = recall{}
		}
	}
	t.taken = time.Now()
	seen, err := t.l.Look(ctx, f)
	if errors.Is(err, errLate) {
		t.s.st.skip(SkipLate, 1)
		t.s.load.dropped(1)
		return nil
	}
	if err != nil {
		return err
	}
	if d := t.s.deps; !d.Lossless || d.Calm {
		t.s.src.Calm(seen.Settled)
	}
	t.s.st.saw(seen.Encoded)
	if t.l.thrifty != nil {
		t.s.st.reduced(t.l.thrifty.Reduced())
	}
	t.now, t.encode = f.At, seen.EncodeTime
	if !seen.Encoded {
		t.s.st.skip(SkipStill, 1)
	} else {
		t.image, t.labelled = seen.Picture.Image, nil
	}
	if !seen.Settled {
		if n := max(t.s.deps.Models.Info.Window, 1); len(t.evidence) >= n {
			t.evidence = append(t.evidence[:0], t.evidence[len(t.evidence)-n+1:]...)
		}
		e := event.Evidence{Capture: f.At.Capture, MediaMS: f.At.Media.Milliseconds(), RTP: f.At.RTP, Frame: f.Seq}
		t.evidence = append(t.evidence, e)
		if i := &t.s.deps.Models.Info; !seen.Strange && !seen.OutOfDomain && !i.Pictures && !i.Silent {
			t.past.add(i.FPS, e, seen.Visual)
		}
		t.novelty.see(seen.Novelty)
		for _, q := range t.questions {
			q.asked = false // of this
		}
	}
	t.strange = seen.Strange
	if seen.OutOfDomain != t.ood {
		t.ood = seen.OutOfDomain
		t.domainChanged()
	}
	if t.ood || t.strange {
		t.blind(SkipOutOfDomain, t.now)
		return nil
	}
	// A language model that is away does not silence what needs none.
	return errors.Join(t.describe(ctx, seen), t.standing(ctx, seen), t.label(ctx, seen))
}

// blind tells what holds that nothing can be seen at the moment: no alert holds
// for ever because nobody can look.
func (t *talker) blind(why string, at media.Timestamp) {
	t.s.st.skip(why, 1)
	t.observe(event.Observation{At: at, Reason: why})
	for _, q := range t.questions {
		if q.alert == nil {
			continue
		}
		for _, ev := range q.alert.Observe(event.Score{At: at, Abstained: true, Evidence: t.cite(), Model: t.model}) {
			t.s.emit(ev, t.image)
		}
	}
}

// failed says that nothing came of the frame at.
func (t *talker) failed(at media.Timestamp) {
	t.now = at
	t.blind(SkipFailed, at)
}

// absent says that the source has been away for a while.
func (t *talker) absent() {
	if t.taken.IsZero() {
		return // nothing was ever seen
	}
	t.gone, t.last = true, ""
	away := time.Since(t.taken)
	t.blind(SkipAbsent, media.At(t.now.Capture.Add(away), t.now.Media+away))
}

func (t *talker) domainChanged() {
	st := event.Status{State: "in_domain", Reason: "the picture is like what the model knows again"}
	if t.ood {
		i := t.s.deps.Models.Info
		st = event.Status{State: "out_of_domain", Reason: i.Name + " does not know footage like this; it was trained on " + i.Domain,
			Fix: "use a general model: `lookout models list` names some, `lookout models pull NAME` gets one, `model: NAME` in lookout.yaml sets it"}
		// Whatever is said of such pictures would be made up.
		for _, ev := range t.narration.Close(t.now) {
			t.s.emit(ev, t.image)
		}
		t.last = ""
	}
	t.s.emitStatus(st)
}

func (t *talker) observe(o event.Observation) {
	for _, ev := range t.narration.Observe(o) {
		t.s.emit(ev, t.image)
	}
}

// describe narrates when it is time and something is new.
func (t *talker) describe(ctx context.Context, seen Seen) error {
	c := &t.s.cfg.Describe
	if c.Off || t.s.deps.Models.Info.Silent {
		return nil
	}
	if seen.Settled && !t.novelty.news { // else what it settled to has not been told
		t.observe(event.Observation{At: t.now, Reason: SkipStill})
		return t.flushViewers(ctx, false)
	}
	if t.now.Media < t.due {
		return nil
	}
	t.due = t.now.Media + t.s.load.slower(c.Every)
	if !t.novelty.take() && t.last != "" {
		t.s.st.skip(SkipNoNews, 1)
		t.observe(event.Observation{At: t.now, Text: t.last, Reason: SkipNoNews})
		return nil
	}
	if t.s.deps.Models.Info.Changes {
		if err := t.changes(ctx); err != nil {
			return err
		}
	}
	prompt := event.Prompt{ID: PromptDescribe, Text: c.Prompt}
	sp := &speaker{t: t, id: t.narration.EventID(t.now.Media), prompt: &prompt, hold: t.last}
	a, err := t.l.Say(ctx, Request{Task: Describe, Text: c.Prompt, MaxTokens: t.maxTokens()}, sp.piece)
	if err != nil {
		return err
	}
	t.s.st.skip(event.ReasonDoubt, uint64(a.Doubted))
	o := event.Observation{At: t.now, Text: a.Text, Evidence: t.cite(), Model: t.model, Latency: t.latency(a, sp)}
	if a.CannotTell {
		o.Text, o.Reason = "", event.ReasonAbstain
	}
	t.last = a.Text
	sp.done()
	t.observe(o)
	return t.flushViewers(ctx, true)
}

func (t *talker) maxTokens() int { return t.s.load.maxTokens(t.s.deps.MaxTokens) }

// changes tells what happened in the last second, each sentence once.
func (t *talker) changes(ctx context.Context) error {
	sp := &speaker{t: t, id: event.NewID(), prompt: &event.Prompt{ID: PromptChanges}, silent: true}
	a, err := t.l.Say(ctx, Request{Task: Changes, MaxTokens: t.maxTokens()}, sp.piece)
	if err != nil {
		return err
	}
	t.s.st.skip(event.ReasonDoubt, uint64(a.Doubted))
	if a.Nothing || a.CannotTell || a.Text == "" {
		t.s.st.skip(event.ReasonNothing, 1)
		return nil
	}
	var fresh []string
	for _, sentence := range sentences(a.Text) {
		key := strings.ToLower(sentence)
		if at, ok := t.said[key]; !ok || t.now.Media-at > sayAgainAfter {
			fresh = append(fresh, sentence)
		}
		t.said[key] = t.now.Media
	}
	for k, at := range t.said {
		if t.now.Media-at > sayAgainAfter {
			delete(t.said, k)
		}
	}
	if len(fresh) == 0 {
		t.s.st.skip(event.ReasonRepeat, 1)
		return nil
	}
	text := strings.Join(fresh, " ")
	sp.say(text)
	sp.done()
	t.count(text)
	t.s.emit(event.New(event.TypeDescription, time.Now().UTC(), event.Data{Stream: t.s.cfg.Name, EventID: sp.id, Phase: event.Point, Text: text, Prompt: sp.prompt,
		Evidence: t.cite(), Model: t.model, Latency: t.latency(a, sp)}), t.image)
	return nil
}

// sentences splits at full stops that end a word.
func sentences(s string) []string {
	var out []string
	for part := range strings.SplitSeq(s, ". ") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		if !strings.HasSuffix(part, ".") {
			part += "."
		}
		out = append(out, part)
	}
	return out
}

// standing asks the questions that are due. While nothing has moved since they
// were asked the answers stand: time passes for the alerts, but nobody is asked
// again.
func (t *talker) standing(ctx context.Context, seen Seen) error {
	for _, q := range t.questions {
		if t.now.Media < q.due {
			continue
		}
		q.due = t.now.Media + t.s.load.slower(q.q.Every)
		var err error
		switch {
		case seen.Settled && q.asked:
			t.s.st.skip(SkipStill, 1)
		case q.q.ZeroShot:
			err = t.compare(ctx, q, seen.Picture)
		default:
			err = t.askStanding(ctx, q)
		}
		if err != nil {
			return err
		}
		q.asked = true
		if q.alert == nil {
			continue
		}
		sc := q.score
		sc.At, sc.Evidence = t.now, t.cite()
		for _, ev := range q.alert.Observe(sc) {
			t.s.emit(ev, t.image)
		}
	}
	return nil
}

// askStanding asks the language model; a plain answer is told when it is another
// one than before.
func (t *talker) askStanding(ctx context.Context, q *standing) error {
	a, err := t.l.Say(ctx, Request{Task: Ask, Text: q.q.Text, MaxTokens: t.maxTokens()}, nil)
	if err != nil {
		return err
	}
	if q.alert != nil {
		yes, told := a.YesProb, a.HasYes
		if !told {
			yes, told = yesNo(a.Text)
		}
		q.score = event.Score{Value: yes, Abstained: a.CannotTell || !told, Text: a.Text, Time: time.Now().UTC(), Model: t.model, Latency: t.latency(a, nil)}
		return nil
	}
	if a.Text == q.text {
		t.s.st.skip(event.ReasonRepeat, 1)
		return nil
	}
	d := t.answerData(a, q.prompt, "", nil)
	d.EventID, d.Revision, d.Phase = q.id, q.rev, event.Update
	if q.rev == 0 {
		d.Phase = event.Start
	}
	q.text, q.last = a.Text, d
	q.rev++
	t.s.emit(event.New(event.TypeAnswer, time.Now().UTC(), d), t.image)
	return nil
}

// yesNo reads an answer of a model that gives no probabilities: 1 when its first
// word is yes, 0 when it is no.
func yesNo(text string) (yes float64, told bool) {
	words := strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) })
	if len(words) == 0 {
		return 0, false
	}
	switch strings.ToLower(words[0]) {
	case "yes":
		return 1, true
	case "no":
		return 0, true
	}
	return 0, false
}

// anything is what a zero-shot text is compared with besides the stream's
// labels: models that share one probability among the texts give all of it to a
// text that stands alone.
const anything = "a photo"

// compare scores a zero-shot text against the newest picture.
func (t *talker) compare(ctx context.Context, q *standing, p Picture) error {
	texts := []string{q.q.Text, anything}
	for _, l := range t.s.currentLabels() {
		if l != q.q.Text {
			texts = append(texts, l)
		}
	}
	scores, err := t.s.deps.Models.Labeler.Classify(ctx, p, texts)
	if err != nil {
		return err
	}
	q.score = event.Score{Value: scores[0].Probability, Text: q.q.Text, Time: time.Now().UTC(), Model: t.model, Labels: scores[:1]}
	return nil
}

func (t *talker) answerData(a Answer, p event.Prompt, viewer string, sp *speaker) event.Data {
	d := event.Data{Stream: t.s.cfg.Name, Text: a.Text, Prompt: &p, Evidence: t.cite(), Model: t.model, Latency: t.latency(a, sp), Viewer: viewer, Abstained: a.CannotTell}
	if a.HasYes && !a.CannotTell {
		d.Probability = &a.YesProb
	}
	if a.CannotTell && d.Text == "" {
		d.Text = "I cannot tell."
	}
	t.count(d.Text)
	return d
}

// moments are those that q looks back on: nil when the window holds them.
func (t *talker) moments(q *ask) ([]moment, error) {
	i := &t.s.deps.Models.Info
	if q.since <= 0 || i.FPS > 0 && q.since.Seconds() <= float64(i.Window)/i.FPS {
		return nil, nil
	}
	if i.Pictures {
		return nil, ErrPast
	}
	least, now := i.Window, t.now.Media // what stands
	if t.ood || t.strange || t.gone {
		least = 0
	}
	if t.gone {
		now += time.Since(t.taken)
	}
	return t.past.since((now - q.since).Milliseconds(), least), nil
}

// answer answers one ad-hoc question about the newest frames.
func (t *talker) answer(ctx context.Context, q *ask) (*event.Event, error) {
	sp := &speaker{t: t, id: event.NewID(), prompt: &q.prompt, viewer: q.viewer}
	var a Answer
	if t.ood || t.strange || t.gone || len(t.evidence) == 0 {
		a.CannotTell = true
	} else {
		var err error
		if a, err = t.l.Say(ctx, Request{Task: Ask, Text: q.prompt.Text, MaxTokens: t.maxTokens()}, sp.piece); err != nil {
			return nil, err
		}
	}
	d := t.answerData(a, q.prompt, q.viewer, sp)
	if sp.index == 0 {
		sp.say(d.Text)
	}
	sp.done()
	d.EventID, d.Phase = sp.id, event.Point
	ev := event.New(event.TypeAnswer, time.Now().UTC(), d)
	t.s.emit(ev, t.image)
	return ev, nil
}

// flushViewers answers the prompts that viewers set for themselves.
func (t *talker) flushViewers(ctx context.Context, news bool) error {
	t.s.mu.Lock()
	prompts := make(map[string]string, len(t.s.prompts))
	for v, p := range t.s.prompts {
		prompts[v] = p
	}
	t.s.mu.Unlock()
	for v := range t.viewers {
		if _, ok := prompts[v]; !ok {
			delete(t.viewers, v)
		}
	}
	for v, p := range prompts {
		last, known := t.viewers[v]
		if known && !news {
			continue
		}
		prompt := event.Prompt{ID: "viewer", Text: p}
		sp := &speaker{t: t, id: event.NewID(), prompt: &prompt, viewer: v, hold: last}
		a, err := t.l.Say(ctx, Request{Task: Ask, Text: p, MaxTokens: t.maxTokens()}, sp.piece)
		if err != nil {
			return err
		}
		sp.done()
		t.viewers[v] = a.Text
		if known && a.Text == last {
			continue
		}
		d := t.answerData(a, prompt, v, sp)
		d.EventID, d.Phase = sp.id, event.Point
		t.s.emit(event.New(event.TypeAnswer, time.Now().UTC(), d), t.image)
	}
	return nil
}

// label scores the zero-shot labels, at most once a second, and tells when they
// move. A picture that comes within that second is scored after it, even if
// nothing has moved since.
func (t *talker) label(ctx context.Context, seen Seen) error {
	labels := t.s.currentLabels()
	lab := t.s.deps.Models.Labeler
	if lab == nil || len(labels) == 0 || slices.Equal(labels, t.labelled) || t.now.Media < t.labelsDue {
		return nil
	}
	t.labelsDue = t.now.Media + t.s.load.slower(time.Second)
	scores, err := lab.Classify(ctx, seen.Picture, labels)
	if err != nil {
		return err
	}
	t.labelled = labels
	t.s.st.mu.Lock()
	moved := labelsMoved(t.s.st.labels, scores)
	if moved {
		t.s.st.labels = scores
	}
	t.s.st.mu.Unlock()
	if moved {
		t.s.emit(event.New(event.TypeLabel, time.Now().UTC(), event.Data{Stream: t.s.cfg.Name, EventID: event.NewID(), Phase: event.Point, Labels: scores,
			Evidence: []event.Evidence{t.evidence[len(t.evidence)-1]}, Model: t.model}), t.image)
	}
	return nil
}

// labelsMoved tells whether a probability crossed one half or moved by a quarter.
func labelsMoved(old, now []event.Label) bool {
	if len(old) != len(now) {
		return true
	}
	for i := range now {
		a, b := old[i].Probability, now[i].Probability
		if old[i].Name != now[i].Name || (a >= 0.5) != (b >= 0.5) || a-b > 0.25 || b-a > 0.25 {
			return true
		}
	}
	return false
}

func (t *talker) cite() []event.Evidence { return append([]event.Evidence(nil), t.evidence...) }

func (t *talker) count(text string) {
	n := uint64(len(strings.FieldsFunc(text, unicode.IsSpace)))
	t.s.st.mu.Lock()
	t.s.st.words += n
	t.s.st.mu.Unlock()
}

func (t *talker) latency(a Answer, sp *speaker) *event.Latency {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	l := &event.Latency{DecodeMS: max(0, ms(t.taken.Sub(t.now.Capture))), EncodeMS: ms(t.encode), FirstTokenMS: ms(a.First), GenerateMS: ms(a.Took)}
	if sp != nil && !sp.first.IsZero() {
		l.GlassToWordMS = max(0, ms(sp.first.Sub(t.now.Capture)))
	}
	return l
}

// speaker sends the pieces of one answer as deltas.
type speaker struct {
	t      *talker
	id     string
	prompt *event.Prompt
	viewer string
	// hold is the text that stands. As long as the new one only repeats it
	// nothing goes out: words that are no news are not said again.
	hold   string
	held   string
	silent bool // deltas go out through say only

	index int
	first time.Time
}

func (sp *speaker) piece(p Piece) {
	if p.Text == "" || sp.silent {
		return
	}
	sp.held += p.Text
	if strings.HasPrefix(sp.hold, strings.TrimSpace(sp.held)) {
		return
	}
	text := sp.held
	sp.held, sp.hold = "", ""
	if sp.viewer == "" && sp.prompt.ID == PromptDescribe {
		sp.t.count(text)
	}
	sp.say(text)
}

func (sp *speaker) say(text string) {
	if sp.first.IsZero() {
		sp.first = time.Now()
		if !sp.t.now.Capture.IsZero() {
			sp.t.s.st.spoke(sp.first.Sub(sp.t.now.Capture))
		}
	}
	sp.send(text, false)
}

// done tells that the text is complete, when any of it was sent.
func (sp *speaker) done() {
	if held := strings.TrimSpace(sp.held); held != "" && held != sp.hold {
		sp.say(sp.held) // shorter than what stood: the end is the news
	}
	if sp.index > 0 {
		sp.send("", true)
	}
}

func (sp *speaker) send(text string, done bool) {
	d := &event.Delta{Stream: sp.t.s.cfg.Name, EventID: sp.id, Index: sp.index, Text: text, Done: done, Prompt: sp.prompt, Viewer: sp.viewer}
	if n := len(sp.t.evidence); n > 0 {
		d.Evidence = sp.t.evidence[n-1]
	}
	sp.t.s.deps.Bus.PublishDelta(d)
	sp.index++
}
