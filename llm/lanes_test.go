package llm

import (
	"sync"
	"testing"
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
			if m.lanes.begun {
				t.Error("a session that spoke alone took a lane")
			}
			m.lanes.speaking.Add(1) // somebody speaks all the time
			defer m.lanes.speaking.Add(-1)
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
			if m.lanes.plans[maxLanes] == nil || m.lanes.active.Load() != 0 || m.lanes.speaking.Load() != 1 {
				t.Errorf("not all lanes were used, or not given back: %d active, %d speak", m.lanes.active.Load(), m.lanes.speaking.Load())
			}
		})
	}
}

func TestLanesDoNotAllocate(t *testing.T) {
	m := load(t, "half")
	s := session(t, m)
	m.lanes.speaking.Add(1)
	a := m.lanes.enter(s)
	defer m.lanes.leave(a)
	ctx, n := t.Context(), a.len
	if got := testing.AllocsPerRun(100, func() {
		if _, err := a.step(ctx, 40); err != nil {
			t.Fatal(err)
		}
		a.len = n
	}); got != 0 {
		t.Errorf("%v allocations a token", got)
	}
}

// BenchmarkLanes decodes a token for each of eight sessions, together and one
// after the other.
func BenchmarkLanes(b *testing.B) {
	m := embedded(b)
	var all []*lane
	m.lanes.speaking.Add(1)
	for range maxLanes {
		s := session(b, m)
		for k := range m.FramesInWindow() {
			if err := s.AppendFrame(b.Context(), noise(m, uint64(k))); err != nil {
				b.Fatal(err)
			}
		}
		all = append(all, m.lanes.enter(s))
	}
	n := all[0].len
	for name, groups := range map[string][][]*lane{"together": {all}, "in turn": {all[:1], all[:1], all[:1], all[:1], all[:1], all[:1], all[:1], all[:1]}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				for _, g := range groups {
					if err := m.lanes.decode(g); err != nil {
						b.Fatal(err)
					}
					for _, a := range g {
						a.len = n
					}
				}
			}
		})
	}
	for _, a := range all {
		m.lanes.leave(a)
	}
}
