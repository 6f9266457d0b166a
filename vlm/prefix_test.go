package vlm

import (
	"slices"
	"testing"
	"time"
)

// A session that begins with what another has read says what it would have said
// had it read it itself.
func TestPrefixIsShared(t *testing.T) {
	env := environment(t)
	for _, name := range []string{"smolvlm-a", "llama-b"} {
		g := unpack(t, "testdata/"+name+".tar.gz")
		open := func() *Model {
			m, err := Open(g.dir, env, Options{Frames: 2})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { m.Close() })
			return m
		}
		ask := func(m *Model, question string) []float32 {
			s, err := m.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if m.Sees() {
				f := picture(50, 38, len(question), time.Second)
				v, err := m.EncodeFrame(t.Context(), f)
				if err == nil {
					err = s.AppendFrame(t.Context(), v, f.At)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := s.prompt(t.Context(), Request{System: "Answer as shortly as you can, and in English.", Question: question}); err != nil {
				t.Fatal(err)
			}
			return slices.Clone(s.d.logits)
		}
		m := open()
		ask(m, "who?")
		first := len(m.prefix.ids)
		for _, q := range []string{"is anybody there?", "what happens now?", "who?"} {
			closeTo(t, name+": "+q, ask(m, q), ask(open(), q), 1e-3)
		}
		d := m.g.newDecoder()
		n := m.prefix.adopt(d, append(slices.Clone(m.prefix.ids), 1))
		if first < leastPrefix || n < leastPrefix || n > first || n != len(m.prefix.ids) || d.len != n {
			t.Errorf("%s: of %d tokens %d are shared, and a new session takes %d", name, first, len(m.prefix.ids), n)
		}
	}
}
