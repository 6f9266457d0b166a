package pipeline

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
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
