package search

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lookout-video/lookout/event"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func say(id string, rev int, stream, text string, minute int) *event.Event {
	phase := event.Start
	if rev > 0 {
		phase = event.Update
	}
	return event.New(event.TypeDescription, noon.Add(time.Duration(minute)*time.Minute), event.Data{Stream: stream, Seq: 1, EventID: id, Revision: rev, Phase: phase, Text: text})
}

func open(t *testing.T, cfg Config) *Index {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "i.db")
	}
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	x, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x
}

func add(t *testing.T, x *Index, ev *event.Event, image []float32) {
	t.Helper()
	if err := x.Add(ev, image); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, x *Index, q Query) string {
	t.Helper()
	hits, err := x.Search(q)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i, h := range hits {
		if i > 0 && h.Score > hits[i-1].Score {
			t.Errorf("hits are not in order: %v", hits)
		}
		ids = append(ids, h.Event.ID)
	}
	return strings.Join(ids, " ")
}

// yard is a small index: the first axis of the embeddings is "van", the second
// "dog", the third "night".
func yard(t *testing.T, cfg Config) *Index {
	x := open(t, cfg)
	add(t, x, say("a", 0, "yard", "A red van enters from the left.", 0), []float32{2, 0, 0})
	add(t, x, say("a", 1, "yard", "The red van stops; two people get out.", 1), []float32{1.8, 0, 0.5})
	add(t, x, say("b", 0, "yard", "a white car leaves", 2), []float32{0.7, 0, 0})
	add(t, x, say("c", 0, "gate", "a dog runs across the yard", 3), []float32{0, 1, 0})
	add(t, x, say("d", 0, "gate", "a blue van waits, red lights on", 4), nil)
	add(t, x, say("e", 0, "gate", "nothing moves in the dark", 5), []float32{0.1, 0, 1})
	return x
}

func TestSearch(t *testing.T) {
	x := yard(t, Config{})
	for name, c := range map[string]struct {
		q    Query
		want string
	}{
		"words":                   {Query{Text: "red van"}, "a.0 d.0"},
		"plural and case":         {Query{Text: "Vans"}, "d.0 a.0"},
		"the best revision":       {Query{Text: "red people"}, "a.1 d.0"},
		"no such word":            {Query{Text: "zebra"}, ""},
		"only stop words":         {Query{Text: "is there a"}, ""},
		"by the picture":          {Query{Image: []float32{0, 5, 0}, K: 1}, "c.0"},
		"both ways agree":         {Query{Text: "dog", Image: []float32{0, 1, 0}, K: 1}, "c.0"},
		"the picture helps words": {Query{Text: "dark van", Image: []float32{0, 0, 1}, K: 2}, "e.0 a.0"},
		"one stream":              {Query{Text: "van", Stream: "gate"}, "d.0"},
		"a span of time":          {Query{Text: "van", From: noon.Add(time.Minute), To: noon.Add(3 * time.Minute)}, "a.1"},
		"nothing asked":           {Query{}, ""},
	} {
		if got := find(t, x, c.q); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestWhatIsNotIndexed(t *testing.T) {
	x := open(t, Config{})
	add(t, x, event.New(event.TypeStatus, noon, event.Data{Stream: "a", EventID: "s", Phase: event.Point, Text: "live"}), nil)
	add(t, x, say("a", 0, "yard", "", 0), nil)
	add(t, x, say("b", 0, "yard", "a van", 0), nil)
	add(t, x, say("b", 1, "yard", "a van", 0), nil) // as an end repeats
	if x.Len() != 1 {
		t.Errorf("%d events", x.Len())
	}
	alert := event.New(event.TypeAlert, noon, event.Data{Stream: "a", EventID: "q", Phase: event.Start, Text: "yes",
		Prompt: &event.Prompt{ID: "1", Text: "has somebody fallen?"}, Labels: []event.Label{{Name: "ambulance", Probability: 0.8}, {Name: "tractor", Probability: 0.1}}})
	add(t, x, alert, nil)
	for q, want := range map[string]string{"fallen": "q.0", "ambulance": "q.0", "tractor": ""} {
		if got := find(t, x, Query{Text: q}); got != want {
			t.Errorf("%s: %q", q, got)
		}
	}
}

func TestSurvivesRestartAndANewModel(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "i.db"), Model: "m1"}
	x := yard(t, cfg)
	q := Query{Text: "van", Image: []float32{1, 0, 0}}
	before := find(t, x, q)
	_ = x.Close()
	x = open(t, cfg)
	if got := find(t, x, q); got != before || got == "" {
		t.Errorf("after a restart %q, before %q", got, before)
	}
	if err := x.Add(say("z", 0, "yard", "x", 9), []float32{1}); !errors.Is(err, ErrDimension) {
		t.Errorf("a vector of another length: %v", err)
	}
	if _, err := x.Search(Query{Image: []float32{1}}); !errors.Is(err, ErrDimension) {
		t.Errorf("a query of another length: %v", err)
	}
	_ = x.Close()
	looker := cfg
	looker.Model, looker.LookOnly = "m2", true
	x = open(t, looker)
	if got := find(t, x, Query{Text: "red van", Image: []float32{1, 0, 0}}); got != "a.0 d.0" {
		t.Errorf("who only looks, with another model: %q", got)
	}
	_ = x.Close()
	x = open(t, cfg)
	if got := find(t, x, q); got != before {
		t.Errorf("after another model has looked %q, before %q", got, before)
	}
	_ = x.Close()
	cfg.Model = "m2"
	for range 2 {
		x = open(t, cfg)
		if got := find(t, x, Query{Image: []float32{1, 0, 0}}); got != "" {
			t.Errorf("the old model's vectors are still compared: %q", got)
		}
		if got := find(t, x, Query{Text: "red van"}); got != "a.0 d.0" {
			t.Errorf("the words are gone: %q", got)
		}
		_ = x.Close()
	}
	x = open(t, cfg)
	add(t, x, say("n", 0, "yard", "new", 10), []float32{1, 0})
	if got := find(t, x, Query{Image: []float32{1, 0}}); got != "n.0" {
		t.Error(got)
	}
}

func TestBounds(t *testing.T) {
	x := open(t, Config{MaxEvents: 50, MaxAge: 100 * time.Minute})
	for i := range 500 {
		add(t, x, say(fmt.Sprint("e", i), 0, "yard", fmt.Sprintf("van number%d", i), i), []float32{1, float32(i)})
	}
	if x.Len() != 50 {
		t.Errorf("%d events", x.Len())
	}
	if got := find(t, x, Query{Text: "number449"}); got != "" {
		t.Errorf("an old event is still found: %s", got)
	}
	if got := find(t, x, Query{Text: "number450"}); got != "e450.0" {
		t.Errorf("the oldest that is kept: %q", got)
	}
	if len(x.postings) > 250 || len(x.last) > 60 {
		t.Errorf("memory grows: %d terms, %d lives", len(x.postings), len(x.last))
	}
	add(t, x, say("late", 0, "yard", "van", 599), nil)
	if x.Len() != 1 { // 499 is 100 minutes old, and kept
		if got := find(t, x, Query{Text: "van"}); got != "late.0 e499.0" {
			t.Errorf("by age: %q", got)
		}
	}
	path := x.cfg.Path
	_ = x.Close()
	if x = open(t, Config{Path: path}); x.Len() != 2 {
		t.Errorf("%d events in the file", x.Len())
	}
}

// TestAgreesWithASlowSearch holds the index against a plain loop.
func TestAgreesWithASlowSearch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	x := open(t, Config{MaxEvents: 200})
	vecs := map[string][]float32{}
	for i := range 300 {
		id := fmt.Sprint("e", i)
		v := make([]float32, 8)
		for j := range v {
			v[j] = float32(rnd.NormFloat64())
		}
		if i >= 100 {
			vecs[id+".0"] = v
		}
		add(t, x, say(id, 0, "s", "x", i), v)
	}
	for range 20 {
		q := make([]float32, 8)
		for j := range q {
			q[j] = float32(rnd.NormFloat64())
		}
		ids := []string{}
		for id := range vecs {
			ids = append(ids, id)
		}
		qu, _ := unit(q)
		cos := func(id string) float64 { u, _ := unit(vecs[id]); return dot(qu, u) }
		slices.SortFunc(ids, func(a, b string) int {
			if cos(a) > cos(b) {
				return -1
			}
			return 1
		})
		if got, want := find(t, x, Query{Image: q, K: 5}), strings.Join(ids[:5], " "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestDamagedFileIsMovedAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "i.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not an index ", 4000)), 0o600); err != nil {
		t.Fatal(err)
	}
	x := open(t, Config{Path: path})
	add(t, x, say("a", 0, "s", "a van", 0), nil)
	if got := find(t, x, Query{Text: "van"}); got != "a.0" {
		t.Error(got)
	}
	if m, _ := filepath.Glob(path + ".damaged-*"); len(m) != 1 {
		t.Errorf("moved aside: %v", m)
	}
}

func FuzzDecode(f *testing.F) {
	b, _ := encode(say("a", 0, "s", "a van", 0), []float32{1, 2})
	f.Add(b)
	f.Add([]byte{255, 255, 255, 255})
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if ev, _, err := decode(b); err == nil && ev == nil {
			t.Error("nothing without an error")
		}
	})
}

// Any text may be searched for: what comes is bounded and in order.
func FuzzQuery(f *testing.F) {
	path := filepath.Join(f.TempDir(), "i.db")
	x, err := Open(Config{Path: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = x.Close() })
	for i, text := range []string{"a red van turns left", "the yard is empty", "zwei rote Lieferwagen", "赤いバン", "buses"} {
		if err := x.Add(say(fmt.Sprint("e", i), 0, "s", text, i), nil); err != nil {
			f.Fatal(err)
		}
	}
	f.Add("red vans", "s", 3)
	f.Add("the \x00 of \xff", "", 0)
	f.Add("赤い バン", "t", -1)
	f.Fuzz(func(t *testing.T, text, stream string, k int) {
		hits, err := x.Search(Query{Text: text, Stream: stream, K: k})
		if err != nil {
			return
		}
		for i, h := range hits {
			if h.Event == nil || i > 0 && h.Score > hits[i-1].Score || stream != "" && h.Event.Data.Stream != stream {
				t.Errorf("%q in %q: %+v", text, stream, hits)
			}
		}
		if k > 0 && len(hits) > k || len(hits) > 5 {
			t.Errorf("%d hits of %d asked for", len(hits), k)
		}
	})
}

func BenchmarkSearch50000(b *testing.B) {
	x := &Index{postings: map[string][]posting{}, last: map[string]string{}}
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range 50_000 {
		v := make([]float32, 192)
		for j := range v {
			v[j] = float32(rnd.NormFloat64())
		}
		u, _ := unit(v)
		x.insert(uint64(i+1), say(fmt.Sprint("e", i), 0, "yard", fmt.Sprintf("a van of number%d turns left", i%1000), i), u)
	}
	q := Query{Text: "van left number7", Image: x.docs[7].vec}
	for b.Loop() {
		if _, err := x.rank(q); err != nil {
			b.Fatal(err)
		}
	}
}
