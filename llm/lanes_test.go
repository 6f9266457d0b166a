package llm

import (
	"sync"
	"testing"

	"github.com/lookout-video/lookout/internal/lane"
)

// speaks answers while the caller holds the model's voice, so that it gets a
// lane where there is one.
func speaks(t *testing.T, s *Session, req Request) string {
	t.Helper()
	text := ""
	for p, err := range s.Generate(t.Context(), req) {
		if err != nil {
			t.Error(err)
			break
		}
		text += p.Text
	}
	return text
}

// Sessions that speak at once say what each says alone, and are left as they
// were.
func TestLanesSayTheSame(t *testing.T) {
	for _, name := range []string{"half", "interleaved", "embedded"} {
		t.Run(name, func(t *testing.T) {
			var m *Model
			if name == "embedded" {
				m = embedded(t)
			} else {
				m = load(t, name)
			}
			if m.lanes == nil {
				t.Fatal("the decoder takes one session a run only")
			}
			requests := []Request{{Task: Describe, MaxTokens: 20}, {Task: Ask, Question: "is it red?", MaxTokens: 12}, {Task: Describe, Temperature: 1, Seed: 7, MaxTokens: 16}}
			var sessions []*Session
			var alone []string
			for i := range maxLanes + 2 { // more than there are lanes
				s := session(t, m)
				for k := range 1 + i%3 {
					if err := s.AppendFrame(t.Context(), noise(m, uint64(10*i+k))); err != nil {
						t.Fatal(err)
					}
				}
				sessions = append(sessions, s)
				alone = append(alone, speaks(t, s, requests[i%len(requests)]))
			}
			if begun, _, _, _ := m.lanes.State(); begun {
				t.Error("a session that spoke alone took a lane")
			}
			defer m.lanes.Speak()() // somebody speaks all the time
			// Where the machine is busy it takes some rounds until all lanes meet in one run.
			for round := 0; round < 3 || round < 200 && m.lanes.plans[maxLanes] == nil; round++ {
				together := make([]string, len(sessions))
				var wg sync.WaitGroup
				for i, s := range sessions {
					wg.Go(func() { together[i] = speaks(t, s, requests[i%len(requests)]) })
				}
				wg.Wait()
				for i := range sessions {
					if together[i] != alone[i] {
						t.Errorf("session %d says %q among others, %q alone", i, together[i], alone[i])
					}
				}
			}
			if _, _, active, speaking := m.lanes.State(); m.lanes.plans[maxLanes] == nil || active != 0 || speaking != 1 {
				t.Errorf("not all lanes were used, or not given back: %d active, %d speak", active, speaking)
			}
		})
	}
}

func TestLanesDoNotAllocate(t *testing.T) {
	m := load(t, "half")
	s := session(t, m)
	defer m.lanes.Speak()()
	a := m.lanes.enter(s)
	defer m.lanes.leave(a)
	ctx, n := t.Context(), a.Len
	if got := testing.AllocsPerRun(100, func() {
		if _, err := a.Step(ctx, 40); err != nil {
			t.Fatal(err)
		}
		a.Len = n
	}); got != 0 {
		t.Errorf("%v allocations a token", got)
	}
}

// BenchmarkLanes decodes a token for each of eight sessions, together and one
// after the other.
func BenchmarkLanes(b *testing.B) {
	m := embedded(b)
	var all []*lane.Lane
	defer m.lanes.Speak()()
	for range maxLanes {
		s := session(b, m)
		for k := range m.FramesInWindow() {
			if err := s.AppendFrame(b.Context(), noise(m, uint64(k))); err != nil {
				b.Fatal(err)
			}
		}
		all = append(all, m.lanes.enter(s))
	}
	n := all[0].Len
	for name, groups := range map[string][][]*lane.Lane{"together": {all}, "in turn": {all[:1], all[:1], all[:1], all[:1], all[:1], all[:1], all[:1], all[:1]}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				for _, g := range groups {
					if err := m.lanes.decode(g); err != nil {
						b.Fatal(err)
					}
					for _, a := range g {
						a.Len = n
					}
				}
			}
		})
	}
	for _, a := range all {
		m.lanes.leave(a)
	}
}
