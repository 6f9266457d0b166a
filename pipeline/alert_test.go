package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
)

// testLabeler finds a text in a picture when the scene's words name it.
type testLabeler struct{ asked [][]string }

func (*testLabeler) Text(context.Context, string) ([]float32, error) { return make([]float32, 2), nil }

func (l *testLabeler) Classify(_ context.Context, p Picture, labels []string) ([]event.Label, error) {
	l.asked = append(l.asked, labels)
	out := make([]event.Label, len(labels))
	for i, name := range labels {
		out[i] = event.Label{Name: name, Probability: 0.1}
		if strings.Contains(words[uint8(p.Image[0])], name) {
			out[i].Probability = 0.9
		}
	}
	return out, nil
}

// watching runs scenes past one question with an alert, and gives what was said
// of alerts.
func watching(t *testing.T, w *world, q configs.Question) []string {
	t.Helper()
	c := stream("a")
	c.Describe.Off = true
	q.ID, q.Every = "q", 250*time.Millisecond
	c.Questions = []configs.Question{q}
	if err := w.lockstep(c).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, _ := w.said("a")
	return slices.DeleteFunc(all, func(e string) bool { return !strings.HasPrefix(e, "alert") })
}

func TestZeroShotAlerts(t *testing.T) {
	for _, silent := range []bool{false, true} {
		w := newWorld(t, map[string]*testSource{"a": {scenes: repeat(8, 10, 20, 30, 10)}})
		l := &testLabeler{}
		w.deps.Models.Labeler, w.deps.Models.Info.Silent = l, silent
		got := watching(t, w, configs.Question{Text: "red van", ZeroShot: true, Alert: &configs.Alert{On: 0.8, Off: 0.5, For: 500 * time.Millisecond}})
		if want := []string{"alert start red van", "alert end red van"}; !slices.Equal(got, want) {
			t.Errorf("silent %v: got %q, want %q", silent, got, want)
		}
		if n := w.asked.Load(); n > 0 {
			t.Errorf("silent %v: the language model was asked %d times", silent, n)
		}
		if len(l.asked) == 0 || len(l.asked[0]) < 2 {
			t.Errorf("silent %v: the text stood alone, which models that share a probability cannot score: %q", silent, l.asked)
		}
	}
}

func TestZeroShotNeedsATextTower(t *testing.T) {
	src := &testSource{scenes: repeat(8, 10)}
	w := newWorld(t, map[string]*testSource{"a": src})
	c := stream("a")
	c.Questions = []configs.Question{{ID: "q", Text: "red van", ZeroShot: true, Every: time.Second, Alert: &configs.Alert{On: 0.8}}}
	if err := w.lockstep(c).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no text tower") {
		t.Errorf("got %v", err)
	}
	if !src.closed.Load() {
		t.Error("the source is left open")
	}
}

func TestAlertOnAStillSceneCostsNothing(t *testing.T) {
	w := newWorld(t, map[string]*testSource{"a": {scenes: repeat(100, 30)}})
	got := watching(t, w, configs.Question{Text: "red van", Alert: &configs.Alert{On: 0.8, Off: 0.5, For: 20 * time.Second}})
	if want := []string{"alert start yes", "alert end yes"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q: time passes for an alert also when nothing moves", got, want)
	}
	if n := w.asked.Load(); n > 12 {
		t.Errorf("asked the model %d times about a still scene", n)
	}
}

func TestAdaptedAlertKeepsQuietAboutTheOrdinary(t *testing.T) {
	for _, adapt := range []bool{false, true} {
		// A van stands there all the time; it leaves and comes back.
		scenes := append(repeat(150, 30), repeat(40, 10, 30)...)
		w := newWorld(t, map[string]*testSource{"a": {scenes: scenes}})
		got := watching(t, w, configs.Question{Text: "red van", Alert: &configs.Alert{On: 0.8, Off: 0.5, Adapt: adapt}})
		want := []string{"alert start yes", "alert end no", "alert start yes", "alert end yes"}
		if adapt {
			want = nil
		}
		if !slices.Equal(got, want) && (len(got) > 0 || len(want) > 0) {
			t.Errorf("adapt %v: got %q, want %q", adapt, got, want)
		}
	}
}

func TestAlertEndsWhenNothingCanBeTold(t *testing.T) {
	w := newWorld(t, map[string]*testSource{"a": {scenes: append(repeat(8, 30), repeat(60, strange)...)}})
	got := watching(t, w, configs.Question{Text: "red van", Alert: &configs.Alert{On: 0.8, Off: 0.5}})
	if want := []string{"alert start yes", "alert end "}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestChangeBetweenAskingsIsAsked: what changes between two askings and then
// stands still is asked about, both ways.
func TestChangeBetweenAskingsIsAsked(t *testing.T) {
	for _, zeroShot := range []bool{false, true} {
		w := newWorld(t, map[string]*testSource{"a": {scenes: slices.Concat(repeat(2, 10), repeat(60, 30), repeat(60, 10))}})
		w.deps.Models.Labeler = &testLabeler{}
		c := stream("a")
		c.Describe.Every = 8 * time.Second
		c.Questions = []configs.Question{{ID: "q", Text: "red van", ZeroShot: zeroShot, Every: 5 * time.Second, Alert: &configs.Alert{On: 0.8, Off: 0.5}}}
		if err := w.lockstep(c).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		said, _ := w.said("a")
		alerts := slices.DeleteFunc(slices.Clone(said), func(e string) bool { return !strings.HasPrefix(e, "alert") })
		if len(alerts) != 2 || !strings.HasPrefix(alerts[0], "alert start") || !strings.HasPrefix(alerts[1], "alert end") {
			t.Errorf("zero-shot %v: got %q, want a start and an end", zeroShot, alerts)
		}
		if !slices.Contains(said, "description start A red van stands.") && !slices.Contains(said, "description update A red van stands.") {
			t.Errorf("what it settled to is not described: %q", said)
		}
	}
}

// TestLabelsOfAPictureThatStaysAreScored: what comes within a second of the last
// scores and then stands still has scores of its own, and so have new labels.
func TestLabelsOfAPictureThatStaysAreScored(t *testing.T) {
	src := &testSource{scenes: slices.Concat(repeat(2, 30), repeat(40, 10)), pace: make(chan struct{})}
	w := newWorld(t, map[string]*testSource{"a": src})
	w.deps.Models.Labeler = &testLabeler{}
	c := stream("a")
	c.Labels = []string{"van"}
	s := w.lockstep(c)
	go func() {
		defer close(src.pace)
		for i := range src.scenes {
			if i == 20 {
				s.SetLabels([]string{"van", "dog"})
			}
			src.pace <- struct{}{}
		}
	}()
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		select {
		case it := <-w.sub.C():
			if it.Event != nil && it.Event.Data.Labels != nil {
				said := ""
				for _, l := range it.Event.Data.Labels {
					said += fmt.Sprintf("%s %.1f ", l.Name, l.Probability)
				}
				got = append(got, said)
			}
			continue
		default:
		}
		break
	}
	if want := []string{"van 0.9 ", "van 0.1 ", "van 0.1 dog 0.9 "}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAlertsOfAModelWithoutProbabilities(t *testing.T) {
	w := newWorld(t, map[string]*testSource{"a": {scenes: repeat(8, 10, 20, 30, 10)}})
	w.model.unsure = true
	got := watching(t, w, configs.Question{Text: "red van", Alert: &configs.Alert{On: 0.8, Off: 0.5, For: 500 * time.Millisecond}})
	if want := []string{"alert start Yes, I think so.", "alert end No, I think so."}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestYesNo(t *testing.T) {
	for text, want := range map[string]string{"Yes.": "yes", "no": "no", "**Yes**, a van": "yes", "Not that I see": "", "": "", "A yes": "", "Yesterday": ""} {
		yes, told := yesNo(text)
		if got := map[bool]string{true: map[float64]string{0: "no", 1: "yes"}[yes]}[told]; got != want {
			t.Errorf("%q is read as %q, want %q", text, got, want)
		}
	}
}

func TestSilentModelsNeedZeroShot(t *testing.T) {
	w := newWorld(t, map[string]*testSource{"a": {scenes: repeat(8, 10)}})
	w.deps.Models.Labeler, w.deps.Models.Info.Silent = &testLabeler{}, true
	c := stream("a")
	c.Questions = []configs.Question{{ID: "q", Text: "is there a van?", Every: time.Second, Alert: &configs.Alert{On: 0.8}}}
	if err := w.lockstep(c).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "zero_shot: true") {
		t.Errorf("got %v", err)
	}
}

// paced runs a stream with one alert in a bubble of time, four frames a second;
// do gets what the source would tell of itself, and plays n frames.
func paced(t *testing.T, scenes []uint8, do func(t *testing.T, w *world, s *Stream, status func(string), play func(n int))) {
	synctest.Test(t, func(t *testing.T) {
		src := &testSource{scenes: scenes, pace: make(chan struct{})}
		w := newWorld(t, map[string]*testSource{"a": src})
		var tell func(event.Status)
		open := w.deps.Open
		w.deps.Open = func(c configs.Stream, i ModelInfo, tap *media.Tap, on func(event.Status)) Source {
			tell = on
			return open(c, i, tap, on)
		}
		c := stream("a")
		c.Describe.Off = true
		c.Questions = []configs.Question{{ID: "q", Text: "red van", Every: 250 * time.Millisecond, Alert: &configs.Alert{On: 0.8, Off: 0.5}}}
		s := w.lockstep(c)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		do(t, w, s, func(state string) { tell(event.Status{State: state}); synctest.Wait() }, func(n int) {
			for range n {
				src.pace <- struct{}{}
				time.Sleep(250 * time.Millisecond)
				synctest.Wait()
			}
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAlertEndsWhenTheSourceStaysAway(t *testing.T) {
	paced(t, repeat(60, 30), func(t *testing.T, w *world, s *Stream, status func(string), play func(n int)) {
		said := func() []string { synctest.Wait(); got, _ := w.said("a"); return got }
		play(4)
		status("reconnecting")
		time.Sleep(9 * time.Second)
		status("live")
		play(1)
		status("reconnecting")
		time.Sleep(9 * time.Second)
		status("reconnecting") // the next try
		if got, want := said(), []string{"status point live", "alert start yes", "status point reconnecting", "status point live", "status point reconnecting"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		time.Sleep(2 * time.Second)
		if got, want := said(), []string{"alert end "}; !slices.Equal(got, want) {
			t.Errorf("after eleven seconds: got %q, want %q", got, want)
		}
		if ev, err := s.Ask(t.Context(), event.Prompt{ID: "ask", Text: "red van"}, "me", 0); err != nil || !ev.Data.Abstained {
			t.Errorf("asked while nothing can be seen: %+v, %v", ev, err)
		}
		status("live")
		play(1)
		if ev, err := s.Ask(t.Context(), event.Prompt{ID: "ask", Text: "red van"}, "me", 0); err != nil || ev.Data.Text != "yes" {
			t.Errorf("asked when it was back: %+v, %v", ev, err)
		}
	})
}

func TestAlertEndsWhenTheModelIsAway(t *testing.T) {
	paced(t, repeat(1, slices.Repeat([]uint8{20, 30}, 120)...), func(t *testing.T, w *world, s *Stream, _ func(string), play func(n int)) {
		play(4)
		w.model.deaf.Store(true)
		play(50)
		if d := s.Snapshot().Degraded; !strings.Contains(d, "no route to the model") {
			t.Errorf("degraded %q", d)
		}
		w.model.deaf.Store(false)
		play(60)
		w.model.deaf.Store(true)
		play(1)
		got, _ := w.said("a")
		want := []string{"status point live", "alert start yes", "status point degraded", "alert end ", "alert start yes", "status point recovered", "status point degraded"}
		if got = slices.DeleteFunc(got, func(e string) bool { return strings.HasPrefix(e, "alert update") }); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
