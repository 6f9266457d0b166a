package event

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
)

// ids makes predictable ids: e1, e2 and so on.
func ids() func() string {
	n := 0
	return func() string { n++; return fmt.Sprint("e", n) }
}

func at(sec float64) media.Timestamp {
	d := time.Duration(sec * float64(time.Second))
	return media.At(noon.Add(d), d)
}

// life writes events as "e1.0 start a van".
func life(evs []*Event) string {
	var s []string
	for _, ev := range evs {
		s = append(s, strings.TrimSpace(fmt.Sprint(ev.ID, " ", ev.Data.Phase, " ", ev.Data.Text)))
	}
	return strings.Join(s, ", ")
}

func TestNarration(t *testing.T) {
	type step struct {
		sec   float64
		text  string
		empty bool
		want  string
	}
	for name, steps := range map[string][]step{
		"start, update, end by quiet": {
			{0, "", false, ""},
			{1, "a van comes", false, "e1.0 start a van comes"},
			{2, "", false, ""},
			{3, "a person gets out", false, "e1.1 update a person gets out"},
			{7.9, "", false, ""},
			{8, "", false, "e1.2 end a person gets out"},
			{20, "", false, ""},
		},
		"a repeat keeps it alive without an event": {
			{0, "A red van.", false, "e1.0 start A red van."},
			{4, "the  red van", false, ""},
			{8, " a RED van!", false, ""},
			{12.9, "", false, ""},
			{13, "", false, "e1.1 end A red van."},
		},
		"the same words after a silence are news": {
			{0, "a dog", false, "e1.0 start a dog"},
			{6, "a dog", false, "e1.1 end a dog, e2.0 start a dog"},
		},
		"an empty scene ends it at once": {
			{0, "a dog", false, "e1.0 start a dog"},
			{1, "", true, "e1.1 end a dog"},
			{2, "", true, ""},
			{3, "a dog", false, "e2.0 start a dog"},
		},
		"an empty scene in words is said once": {
			{0, "a dog", false, "e1.0 start a dog"},
			{1, "the yard is empty", true, "e1.1 update the yard is empty, e1.2 end the yard is empty"},
			{2, "the yard is empty.", true, ""},
			{3, "a cat", false, "e2.0 start a cat"},
			{4, "the yard is empty", true, "e2.1 update the yard is empty, e2.2 end the yard is empty"},
		},
		"a number is a difference": {
			{0, "2 people", false, "e1.0 start 2 people"},
			{1, "3 people", false, "e1.1 update 3 people"},
		},
		"scripts without words in Latin": {
			{0, "赤い車", false, "e1.0 start 赤い車"},
			{1, "白い車", false, "e1.1 update 白い車"},
			{2, "白い車。", false, ""},
		},
		"punctuation says nothing": {{0, " ... ", false, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			n := NewNarration(NarrationConfig{Stream: "s", NewID: ids()})
			for _, s := range steps {
				id := n.EventID(at(s.sec).Media)
				evs := n.Observe(Observation{At: at(s.sec), Text: s.text, Empty: s.empty})
				if got := life(evs); got != s.want {
					t.Fatalf("at %v %q: got %q, want %q", s.sec, s.text, got, s.want)
				}
				for _, ev := range evs {
					if ev.Data.Phase != End && ev.Data.EventID != id {
						t.Errorf("at %v: deltas were promised id %s, the event has %s", s.sec, id, ev.Data.EventID)
					}
				}
			}
		})
	}
}

func TestNarrationCountsWhatItKeepsQuiet(t *testing.T) {
	n := NewNarration(NarrationConfig{NewID: ids(), Quiet: time.Minute})
	for i, o := range []Observation{{}, {Text: "x"}, {Text: "X"}, {Text: "a x"}, {Reason: "static"}, {Reason: ReasonAbstain}} {
		o.At = at(float64(i))
		n.Observe(o)
	}
	if got := fmt.Sprint(n.Suppressed()); got != "map[abstain:1 nothing:1 repeat:2 static:1]" {
		t.Error(got)
	}
	if got := life(n.Close(at(9))); got != "e1.1 end x" {
		t.Error(got)
	}
	if got := life(n.Close(at(9))); got != "" {
		t.Errorf("closed twice: %s", got)
	}
}
