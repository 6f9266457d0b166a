package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// speaker answers for a fake engine, knowing the truth.
type speaker interface {
	describe(c *clip, t float64, mode Mode) string
	changes(c *clip, t float64) string
	ask(c *clip, t float64, q string, mode Mode) Answer
	labels(c *clip, t float64, labels []string) []float64
	ood(c *clip) bool
}

type fake struct {
	clips map[string]*clip
	speaker
	can  *Skills // nil: all
	open int
}

func (f *fake) Skills() Skills {
	if f.can != nil {
		return *f.can
	}
	return Skills{Words: true, Changes: true, Labels: true, Domain: true}
}

func (f *fake) Open(_ context.Context, video string, mode Mode) (Stream, error) {
	c := f.clips[filepath.Base(video)]
	if c == nil {
		return nil, errors.New("no such video")
	}
	f.open++
	return &fakeStream{f: f, c: c, mode: mode}, nil
}

type fakeStream struct {
	f    *fake
	c    *clip
	mode Mode
	fed  int
	t    float64
}

func (s *fakeStream) Advance(_ context.Context, until time.Duration) (int, error) {
	before := s.fed
	for s.fed < int(s.c.Duration*4) && float64(s.fed)/4 <= until.Seconds() {
		s.t = float64(s.fed) / 4
		s.fed++
	}
	if s.fed == int(s.c.Duration*4) {
		return s.fed - before, io.EOF
	}
	return s.fed - before, nil
}

func (s *fakeStream) Describe(context.Context) (Answer, error) {
	return Answer{Text: s.f.describe(s.c, s.t, s.mode), Took: 20 * time.Millisecond}, nil
}

func (s *fakeStream) Changes(context.Context) (Answer, error) {
	text := s.f.changes(s.c, s.t)
	return Answer{Text: text, Nothing: text == ""}, nil
}

func (s *fakeStream) Ask(_ context.Context, q string) (Answer, error) {
	return s.f.ask(s.c, s.t, q, s.mode), nil
}

func (s *fakeStream) Labels(_ context.Context, labels []string) ([]float64, error) {
	return s.f.labels(s.c, s.t, labels), nil
}
func (s *fakeStream) OutOfDomain() bool { return s.f.ood(s.c) }
func (s *fakeStream) Close() error      { s.f.open--; return nil }

// chance draws from what it is asked about, the same each time.
func chance(n int, about ...any) int {
	h := fnv.New64a()
	fmt.Fprint(h, about...)
	return int(h.Sum64() >> 8 % uint64(n))
}

func opposite(d string) string { return map[string]string{"left": "right", "right": "left"}[d] }

// perfect says what training's language says.
type perfect struct{}

func (perfect) name(a actorName) string {
	switch {
	case a.Kind == "person":
		return "A person in " + article(a.Color) + " coat"
	case plain[a.Kind]:
		return "A " + a.Kind
	}
	return "A " + a.Color + " " + a.Kind
}

func (perfect) event(e happening) string {
	return map[string]string{
		"enter": "comes in from the " + opposite(e.Direction), "leave": "leaves to the " + e.Direction, "stop": "has stopped",
		"start": "starts to move to the " + e.Direction, "turn_back": "has turned back to the " + e.Direction, "drop": "drops a box",
		"pick_up": "picks up a box", "fall": "has fallen", "get_up": "gets up",
		"gate_open": "The gate opens.", "gate_close": "The gate closes.", "lights_on": "The lights go on.", "lights_off": "The lights go off.",
	}[e.Kind]
}

func (p perfect) describe(c *clip, t float64, mode Mode) string {
	if mode != Normal {
		return p.still(c, t, mode)
	}
	var out []string
	for _, f := range c.Frames {
		if f.T != t {
			continue
		}
		for _, a := range f.Actors {
			if *a.Visible < 0.5 || a.Held {
				continue
			}
			text := map[string]string{"moving": "moves to the " + a.Direction, "fallen": "lies on the ground",
				"stopped": "stands " + map[string]string{"left": "on the left", "right": "on the right", "middle": "in the middle"}[a.Side]}[a.State]
			for _, e := range c.Events {
				if e.Actor == a.ID && e.T > t-recent && e.T <= t {
					if text = p.event(e); e.Kind == "leave" {
						text = "is there"
					}
				}
			}
			out = append(out, p.name(c.Actors[a.ID])+" "+text+".")
		}
	}
	if out == nil {
		return "The yard is empty."
	}
	return strings.Join(out, " ")
}

// still is what can be said by whoever sees one picture: the way is a toss-up.
func (p perfect) still(c *clip, t float64, mode Mode) string {
	var out []string
	for _, a := range c.at(t, recent).actors {
		if a.must {
			way := []string{"left", "right"}[chance(2, c.Video, t, a.ID, mode)]
			does := []string{"moves to the " + way, "comes in from the " + way, "starts to move to the " + way, "stands in the middle"}[chance(4, t, c.Video, a.ID, mode)]
			out = append(out, p.name(a.actorName)+" "+does+".")
		}
	}
	return strings.Join(out, " ")
}

func (p perfect) changes(c *clip, t float64) string {
	m := c.at(t, change)
	var out []string
	for _, i := range m.tellable() {
		e := c.Events[i]
		switch {
		case e.T <= t-change || e.T > t:
		case isScene(e.Kind):
			out = append(out, p.event(e))
		default:
			out = append(out, p.name(c.Actors[e.Actor])+" "+p.event(e)+".")
		}
	}
	return strings.Join(out, " ")
}

func (perfect) ask(c *clip, t float64, q string, mode Mode) Answer {
	for _, x := range c.Ask {
		if x.Q != q || x.T != t {
			continue
		}
		yes, is := yesNo(x.A)
		if mode != Normal {
			yes = chance(2, c.Video, t, q, mode) == 1
			if x.Kind == "direction" {
				x.A = "to the " + []string{"left", "right"}[chance(2, c.Video, q, t, mode)]
			}
		}
		switch {
		case is && yes:
			return Answer{Text: "yes", HasYes: true, YesProb: 0.99}
		case is:
			return Answer{Text: "no", HasYes: true, YesProb: 0.01}
		case x.A == cannotTell:
			return Answer{CannotTell: true}
		}
		return Answer{Text: x.A}
	}
	panic("a question that nobody wrote: " + q)
}

func (perfect) labels(c *clip, t float64, labels []string) []float64 {
	p := make([]float64, len(labels))
	for _, a := range c.Actors {
		if slices.Contains(heldOut, a.label()) {
			if i := slices.Index(labels, nounPhrase(a.Color, a.Kind)); i >= 0 {
				p[i]++
			}
		}
	}
	return p
}

func (perfect) ood(c *clip) bool { return c.Split == "ood" }

// inventor tells the truth and something more, is sure of the contrary of each
// answer, and never flags anything that it should.
type inventor struct{ perfect }

func (v inventor) describe(c *clip, t float64, m Mode) string {
	return v.perfect.describe(c, t, m) + " A grey bicycle turns back to the left."
}
func (v inventor) changes(c *clip, t float64) string { return "A grey bicycle has stopped." }
func (v inventor) ask(c *clip, t float64, q string, m Mode) Answer {
	a := v.perfect.ask(c, t, q, m)
	if a.HasYes {
		a.YesProb = 1 - a.YesProb
	} else {
		a = Answer{Text: "grey"}
	}
	return a
}
func (inventor) labels(c *clip, t float64, labels []string) []float64 {
	p := make([]float64, len(labels)) // all the same: nothing told apart
	return p
}
func (inventor) ood(c *clip) bool { return c.Split != "ood" }

// mute says nothing at all.
type mute struct{}

func (mute) describe(*clip, float64, Mode) string    { return "" }
func (mute) changes(*clip, float64) string           { return "" }
func (mute) ask(*clip, float64, string, Mode) Answer { return Answer{CannotTell: true} }
func (mute) labels(_ *clip, _ float64, labels []string) []float64 {
	return make([]float64, len(labels))
}
func (mute) ood(*clip) bool { return false }

// gambler says a random thing of a random thing.
type gambler struct{ perfect }

func (g gambler) sentence(about ...any) string {
	pick := func(list ...string) string { return list[chance(len(list), append(about, len(list), list[0])...)] }
	kind := pick("person", "car", "van", "dog", "bicycle")
	return g.name(actorName{Kind: kind, Color: pick(yardPaint...)}) + " " + pick("moves to the left", "moves to the right", "has stopped", "stands on the left",
		"drops a box", "comes in from the left", "comes in from the right") + "."
}
func (g gambler) describe(c *clip, t float64, m Mode) string {
	return g.sentence(c.Video, t, m) + " " + g.sentence(m, t, c.Video)
}
func (g gambler) changes(c *clip, t float64) string { return g.sentence("changes", c.Video, t) }
func (gambler) ask(c *clip, t float64, q string, m Mode) Answer {
	return Answer{Text: "yes", HasYes: true, YesProb: float64(chance(1000, c.Video, t, q, m)) / 999}
}
func (gambler) labels(c *clip, t float64, labels []string) []float64 {
	p := make([]float64, len(labels))
	p[chance(len(p), c.Video, "labels")] = 1
	return p
}
func (gambler) ood(c *clip) bool { return chance(2, c.Video, "ood") == 0 }

// testDir writes the golden clips' truth, and two out-of-domain ones, beside empty videos.
func testDir(t *testing.T) (string, map[string]*clip) {
	t.Helper()
	dir, clips := t.TempDir(), map[string]*clip{}
	write := func(name string, data []byte) {
		c, err := parseClip(data)
		if err != nil {
			t.Fatal(err)
		}
		clips[c.Video] = c
		for path, data := range map[string][]byte{name + ".json": data, c.Video: nil} {
			if err := os.WriteFile(filepath.Join(dir, path), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, g := range goldens(t) {
		write(fmt.Sprintf("golden-%02d", i), g.Truth)
	}
	write("photo-1", []byte(`{"format":1,"video":"photo-1.webm","split":"ood","duration":2}`))
	write("photo-2", []byte(`{"format":1,"video":"photo-2.webm","split":"ood","duration":2}`))
	return dir, clips
}

func run(t *testing.T, sp speaker) *Report {
	t.Helper()
	dir, clips := testDir(t)
	f := &fake{clips: clips, speaker: sp}
	var lines, ended, descriptions, answers int
	r, err := Run(context.Background(), dir, f, Options{
		Log: func(format string, args ...any) {
			if lines++; lines <= 12 {
				t.Logf(format, args...)
			}
		},
		Said: func(s Said) {
			if s.Question == "" {
				descriptions++
			} else {
				answers++
			}
		},
		Progress: func(done, total int) {
			if done == total {
				ended++
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if descriptions == 0 || answers == 0 {
		t.Errorf("%d descriptions and %d answers were told", descriptions, answers)
	}
	if f.open != 0 || ended != 1 {
		t.Fatalf("%d streams left open, progress ended %d times", f.open, ended)
	}
	var b bytes.Buffer
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + b.String())
	return r
}

// between checks a score's value, its interval around it and that something was counted.
func between(t *testing.T, name string, s Score, low, high float64) {
	t.Helper()
	if s.N == 0 || !(s.Value >= low && s.Value <= high) || !(s.Low <= s.Value && s.Value <= s.High) {
		t.Errorf("%s is %+v, want a value of %v to %v within its interval", name, s, low, high)
	}
}

func TestPerfectEngine(t *testing.T) {
	r := run(t, perfect{})
	between(t, "event_recall", r.EventRecall, 1, 1)
	between(t, "false_claims", r.FalseClaims, 0, 0)
	between(t, "temporal", r.Temporal, 1, 1)
	between(t, "temporal_reset", r.TemporalReset, 0, 0.6)
	between(t, "temporal_shuffled", r.TemporalShuffled, 0, 0.6)
	between(t, "yesno_auroc", r.YesNoAUROC, 1, 1)
	between(t, "yesno_ece", r.YesNoECE, 0.0099, 0.0101)
	between(t, "zeroshot_unseen", r.ZeroShotUnseen, 1, 1)
	between(t, "idle_chatter", r.IdleChatter, 0, 0)
	between(t, "ood_flagged", r.OODFlagged, 1, 1)
	between(t, "ood_false", r.OODFalse, 0, 0)
	between(t, "frames_per_second", r.FramesPerSecond, 1, math.Inf(1))
	between(t, "description_ms_p50", r.DescriptionMsP50, 20, 20)
	if r.OODFlagged.N != 2 || r.OODFalse.N != 20 || r.FramesPerSecond.N != 20*24 || r.DescriptionMsP50.N != 80 {
		t.Errorf("counted %d, %d, %d, %d", r.OODFlagged.N, r.OODFalse.N, r.FramesPerSecond.N, r.DescriptionMsP50.N)
	}
	if r.left == 0 {
		t.Error("no question is at an edge")
	}
	if r.EventRecall.Low < 0.75 || r.EventRecall.Low >= 1 {
		t.Errorf("twenty clips can't bound recall below by %v", r.EventRecall.Low)
	}
}

func TestInventingEngine(t *testing.T) {
	r := run(t, inventor{})
	between(t, "event_recall", r.EventRecall, 1, 1) // what is true is still said
	between(t, "false_claims", r.FalseClaims, 0.5, 0.95)
	between(t, "yesno_auroc", r.YesNoAUROC, 0, 0)
	between(t, "yesno_ece", r.YesNoECE, 0.97, 1)
	between(t, "zeroshot_unseen", r.ZeroShotUnseen, 0, 0)
	between(t, "idle_chatter", r.IdleChatter, 1, 1)
	between(t, "ood_flagged", r.OODFlagged, 0, 0)
	between(t, "ood_false", r.OODFalse, 1, 1)
}

func TestMuteEngine(t *testing.T) {
	r := run(t, mute{})
	between(t, "event_recall", r.EventRecall, 0, 0)
	between(t, "temporal", r.Temporal, 0, 0)
	between(t, "yesno_auroc", r.YesNoAUROC, 0.5, 0.5)
	between(t, "idle_chatter", r.IdleChatter, 0, 0)
	between(t, "zeroshot_unseen", r.ZeroShotUnseen, 0, 0)
	if r.FalseClaims.N != 0 || !math.IsNaN(r.FalseClaims.Value) {
		t.Errorf("saying nothing makes %+v false claims", r.FalseClaims)
	}
}

func TestGamblingEngine(t *testing.T) {
	r := run(t, gambler{})
	between(t, "event_recall", r.EventRecall, 0, 0.1)
	between(t, "false_claims", r.FalseClaims, 0.9, 1)
	between(t, "temporal", r.Temporal, 0, 0.5)
	between(t, "yesno_auroc", r.YesNoAUROC, 0.4, 0.6)
	between(t, "yesno_ece", r.YesNoECE, 0.15, 0.35)
	between(t, "idle_chatter", r.IdleChatter, 1, 1)
}

// The same answers give the same report, to the last digit; only speed differs.
func TestReportIsDeterministic(t *testing.T) {
	read := func() map[string]json.RawMessage {
		data, err := json.Marshal(run(t, gambler{}))
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]json.RawMessage{}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	a, b := read(), read()
	want := []string{"event_recall", "false_claims", "temporal", "temporal_reset", "temporal_shuffled", "yesno_auroc", "yesno_ece",
		"zeroshot_unseen", "idle_chatter", "ood_flagged", "ood_false", "frames_per_second", "description_ms_p50"}
	if len(a) != len(want) {
		t.Errorf("%d keys, want %d", len(a), len(want))
	}
	for _, k := range want {
		var s struct {
			Value, Low, High *float64
			N                *int
		}
		if err := json.Unmarshal(a[k], &s); err != nil || s.N == nil {
			t.Errorf("%s is %s", k, a[k])
		}
		if k != "frames_per_second" && string(a[k]) != string(b[k]) {
			t.Errorf("%s: %s, then %s", k, a[k], b[k])
		}
	}
}

// What is said is compared with what was said before, moment by moment.
func TestAgainst(t *testing.T) {
	dir, clips := testDir(t)
	all := func(sp speaker, against []Said) (*Report, []Said) {
		t.Helper()
		var said []Said
		r, err := Run(context.Background(), dir, &fake{clips: clips, speaker: sp}, Options{Against: against, Said: func(s Said) { said = append(said, s) }})
		if err != nil {
			t.Fatal(err)
		}
		return r, said
	}
	_, good := all(perfect{}, nil)
	scores := func(r *Report) map[string]Score {
		out := map[string]Score{}
		for _, row := range r.compared {
			out[row.key] = row.score
		}
		return out
	}
	r, _ := all(perfect{}, good)
	for key, s := range scores(r) {
		want := 0.0
		if strings.HasPrefix(key, "same_") {
			want = 1
		}
		if s.N == 0 || s.Value != want {
			t.Errorf("the same run: %s is %+v", key, s)
		}
	}
	var file bytes.Buffer
	enc := json.NewEncoder(&file)
	for i, s := range good {
		if i%2 == 0 {
			s.Text = "nonsense"
		}
		if err := enc.Encode(s); err != nil {
			t.Fatal(err)
		}
	}
	bad, err := ReadSaid(&file)
	if err != nil || len(bad) != len(good) {
		t.Fatalf("%d of %d read: %v", len(bad), len(good), err)
	}
	r, _ = all(perfect{}, bad)
	for key, s := range scores(r) {
		better := map[bool]float64{true: 1, false: -1}[key == "more_event_recall"] // than nonsense is
		switch {
		case strings.HasPrefix(key, "same_"):
			between(t, key, s, 0.3, 0.7)
		case !(better*s.Value > 0.1) || !(s.Low <= s.Value && s.Value <= s.High) || s.Low*s.High <= 0:
			t.Errorf("against nonsense: %s is %+v", key, s)
		}
	}
	if _, err := Run(context.Background(), dir, &fake{clips: clips, speaker: perfect{}}, Options{Against: good[:1]}); err == nil || !strings.Contains(err.Error(), "other clips") {
		t.Errorf("of other clips: %v", err)
	}
	if _, err := ReadSaid(strings.NewReader("")); err == nil {
		t.Error("an empty file is compared with")
	}
	if _, err := ReadSaid(strings.NewReader("{}\n{]")); err == nil || !strings.Contains(err.Error(), "object 2") {
		t.Errorf("broken: %v", err)
	}
}

// As many temporal yes/no questions are taken whose answer is yes as no.
func TestTemporalItemsAreBalanced(t *testing.T) {
	_, byName := testDir(t)
	var clips []*clip
	for _, g := range goldens(t) {
		clips = append(clips, byName[g.clip.Video])
	}
	s := &scorer{lex: newLexicon(nil), clips: clips, items: map[itemKey]item{}}
	s.choose()
	count := map[string]int{}
	for k := range s.items {
		if k.ask < 0 {
			count["described"]++
			continue
		}
		q := clips[k.clip].Ask[k.ask]
		if yes, is := yesNo(q.A); is {
			count[fmt.Sprint(q.Kind, yes)]++
		} else {
			count[q.Kind]++
		}
	}
	for _, kind := range []string{"stopped", "drop", "pick_up"} {
		if n := count[kind+"true"]; n == 0 || n != count[kind+"false"] {
			t.Errorf("%s: %d questions with yes, %d with no", kind, n, count[kind+"false"])
		}
	}
	if count["described"] == 0 || count["direction"] == 0 {
		t.Errorf("items are %v", count)
	}
}

// echo tells each event of the last two seconds: the second time is chatter.
type echo struct{ perfect }

func (e echo) changes(c *clip, t float64) string {
	return strings.TrimSpace(e.perfect.changes(c, t) + " " + e.perfect.changes(c, t-1))
}

func TestRepetitionIsChatter(t *testing.T) {
	c := scene(t, []cast{{kind: "van", color: "red", state: "stopped", side: "left"}}, happening{2.8, "stop", 0, ""})
	for _, x := range []struct {
		speaker
		value float64
		n     int
	}{
		{perfect{}, 0, 4},  // told at 3 s; 1, 2, 4 and 5 s are quiet
		{echo{}, 0.25, 4},  // and again at 4 s
		{mute{}, 0, 3},     // still news at 4 s, give or take
		{inventor{}, 1, 3}, // tells nothing that is so
	} {
		s := &scorer{lex: newLexicon(nil), opt: Options{Log: t.Logf}, clips: []*clip{c}}
		e := &fake{clips: map[string]*clip{c.Video: c}, speaker: x.speaker}
		c.path = c.Video
		if err := s.play(context.Background(), e, c, Normal, s.changes(0, c), func(int, time.Duration, bool) {}); err != nil {
			t.Fatal(err)
		}
		if got := s.chatter.proportion(); got.Value != x.value || got.N != x.n {
			t.Errorf("%T: %v of %d updates are chatter, want %v of %d", x.speaker, got.Value, got.N, x.value, x.n)
		}
	}
}

// What a model cannot do it is not asked for, and those scores count nothing.
func TestRunLeavesOutWhatAModelCannotDo(t *testing.T) {
	dir, clips := testDir(t)
	for _, can := range []Skills{{Words: true}, {Changes: true}, {Labels: true}, {Domain: true}} {
		r, err := Run(context.Background(), dir, &fake{clips: clips, speaker: perfect{}, can: &can}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for name, x := range map[string]struct {
			s    Score
			want bool
		}{
			"recall": {r.EventRecall, can.Words}, "temporal": {r.Temporal, can.Words}, "reset": {r.TemporalReset, can.Words}, "yes and no": {r.YesNoAUROC, can.Words},
			"chatter": {r.IdleChatter, can.Changes}, "labels": {r.ZeroShotUnseen, can.Labels}, "strange": {r.OODFlagged, can.Domain}, "by mistake": {r.OODFalse, can.Domain},
			"speed": {r.FramesPerSecond, true},
		} {
			if (x.s.N > 0) != x.want {
				t.Errorf("with %+v, %s counts %d", can, name, x.s.N)
			}
		}
	}
}

// An engine's error names the clip and the moment; a cancelled run ends.
func TestRunFails(t *testing.T) {
	dir, clips := testDir(t)
	delete(clips, "golden-7900003.mp4")
	f := &fake{clips: clips, speaker: mute{}}
	if _, err := Run(context.Background(), dir, f, Options{}); err == nil || !strings.Contains(err.Error(), "golden-7900003.mp4") {
		t.Errorf("got %v, want an error that names the clip", err)
	}
	if f.open != 0 {
		t.Errorf("%d streams left open", f.open)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, dir, f, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if _, err := Run(context.Background(), t.TempDir(), f, Options{}); !errors.Is(err, ErrNoClips) {
		t.Errorf("got %v, want ErrNoClips", err)
	}
}
