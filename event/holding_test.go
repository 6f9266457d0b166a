package event

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestHoldingAcrossACrash: of what held when the program went without a word,
// the next one tells the ends, once, also when it crashes over that.
func TestHoldingAcrossACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "alerts.json")
	run := func() (*Holding, *Emitter) {
		h, err := OpenHolding(path)
		if err != nil {
			t.Fatal(err)
		}
		seq, _ := OpenSequencer("")
		return h, NewEmitter(seq, nil, h.Begins(), h.Ends())
	}
	tell := func(e *Emitter, typ, id string, revision int, phase Phase) {
		t.Helper()
		p := 0.9
		if err := e.Emit(t.Context(), New(typ, time.Time{}, Data{Stream: "a", EventID: id, Revision: revision, Phase: phase, Text: id, Probability: &p, Prompt: &Prompt{ID: "q"}})); err != nil {
			t.Fatal(err)
		}
	}
	h, e := run()
	if left := h.Left(); left != nil {
		t.Fatalf("left %v of a first run", left)
	}
	tell(e, TypeAlert, "holds", 0, Start)
	tell(e, TypeAlert, "over", 0, Start)
	tell(e, TypeAlert, "holds", 1, Update)
	tell(e, TypeDescription, "words", 0, Start)
	tell(e, TypeAlert, "over", 1, End)

	for range 2 { // the first of these is killed before it tells anything
		h, e = run()
		left := h.Left()
		if len(left) != 1 {
			t.Fatalf("%d alerts left, want 1", len(left))
		}
		if d := left[0].Data; d.EventID != "holds" || d.Revision != 2 || d.Phase != End || !d.Abstained || d.Probability != nil || d.Text != "holds" || d.Prompt.ID != "q" || left[0].ID != "holds.2" {
			t.Errorf("left %+v", d)
		}
	}
	if err := e.Emit(t.Context(), h.Left()...); err != nil {
		t.Fatal(err)
	}
	if h, _ = run(); h.Left() != nil {
		t.Errorf("left %v after its end was told", h.Left())
	}

	if err := os.WriteFile(path, []byte(`{"x":null}`), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := OpenHolding(path)
	if err == nil || h.Left() != nil {
		t.Errorf("a damaged file: error %v, left %v", err, h.Left())
	}
	if err := h.Begins().Publish(t.Context(), New(TypeAlert, time.Now(), Data{Stream: "a", EventID: "e", Phase: Start})); err != nil {
		t.Error(err)
	}
}
