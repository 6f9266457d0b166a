package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/internal/testmodel"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func environment(t testing.TB) *ort.Env {
	t.Helper()
	e, err := ort.Open(ort.Config{Device: "cpu"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func load(t testing.TB, name string) *Model {
	t.Helper()
	b, err := model.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(b, environment(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func session(t testing.TB, m *Model) *Session {
	t.Helper()
	s, err := m.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

type golden struct {
	Question string
	Frames   [][][]float32
	Logits   [][]float32
}

func goldens(t testing.TB, name string) golden {
	t.Helper()
	var g golden
	data, err := os.ReadFile(filepath.Join("testdata", name, "golden.json"))
	if err == nil {
		err = json.Unmarshal(data, &g)
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func visual(f [][]float32) tensor.View[float32] {
	return tensor.View[float32]{Shape: tensor.Shape{len(f), len(f[0])}, Data: slices.Concat(f...)}
}

// firstLogits reads the question and gives the logits of the answer's first
// token, then rewinds.
func firstLogits(t testing.TB, s *Session, question string) []float32 {
	t.Helper()
	mark := s.Mark()
	w, err := s.m.words(t.Context(), Request{Task: Ask, Question: question})
	if err == nil {
		err = s.hear(t.Context(), w)
	}
	if err != nil {
		t.Fatal(err)
	}
	l := slices.Clone(s.last(len(w.ids)))
	if err := s.Rewind(mark); err != nil {
		t.Fatal(err)
	}
	return l
}

func furthest(a, b []float32) float64 {
	d := 0.0
	for i := range a {
		d = max(d, math.Abs(float64(a[i]-b[i])))
	}
	return d
}

// The reference never moves a key: it turns each by the place it has in the
// window when it is looked at (testdata/make.py). Eleven frames go through a
// window of four, so seven blocks are evicted, and keys are turned back up to
// three times.
func TestEvictionIsExact(t *testing.T) {
	for _, name := range []string{"half", "interleaved", "one-layer"} {
		t.Run(name, func(t *testing.T) {
			g, s := goldens(t, name), session(t, load(t, name))
			spread := 0.0
			for i, f := range g.Frames {
				if err := s.AppendFrame(t.Context(), visual(f)); err != nil {
					t.Fatal(err)
				}
				got := firstLogits(t, s, g.Question)
				if d := furthest(got, g.Logits[i]); d > 1e-3 {
					t.Errorf("after frame %d logits differ by %g", i+1, d)
				}
				if i > 0 {
					spread = max(spread, furthest(g.Logits[i], g.Logits[i-1]))
				}
			}
			if spread < 0.1 {
				t.Errorf("the goldens differ by %g only: they would not show an error", spread)
			}
			if got := s.Frames(); got != 4 {
				t.Errorf("%d frames in the window", got)
			}
		})
	}
}

// Where keys and values depend on their own token alone, a window that slid
// must equal one that was filled afresh with the frames it holds.
func TestSlidWindowEqualsAFreshOne(t *testing.T) {
	m := load(t, "one-layer")
	g := goldens(t, "one-layer")
	slid := session(t, m)
	for i, f := range g.Frames {
		if err := slid.AppendFrame(t.Context(), visual(f)); err != nil {
			t.Fatal(err)
		}
		fresh := session(t, m)
		for _, f := range g.Frames[max(0, i-3) : i+1] {
			if err := fresh.AppendFrame(t.Context(), visual(f)); err != nil {
				t.Fatal(err)
			}
		}
		if d := furthest(firstLogits(t, slid, "what?"), firstLogits(t, fresh, "what?")); d > 1e-3 {
			t.Errorf("after frame %d logits differ by %g", i+1, d)
		}
		fresh.Close()
	}
}

// A window that is read anew equals one that was filled afresh, in any decoder.
func TestRecomputeEqualsAFreshWindow(t *testing.T) {
	m, g := load(t, "half"), goldens(t, "half")
	again := session(t, m)
	again.Recompute(true)
	for i, f := range g.Frames {
		if err := again.AppendFrame(t.Context(), visual(f)); err != nil {
			t.Fatal(err)
		}
		fresh := session(t, m)
		for _, f := range g.Frames[max(0, i-3) : i+1] {
			if err := fresh.AppendFrame(t.Context(), visual(f)); err != nil {
				t.Fatal(err)
			}
		}
		if d := furthest(firstLogits(t, again, "what?"), firstLogits(t, fresh, "what?")); d > 1e-3 {
			t.Errorf("after frame %d logits differ by %g", i+1, d)
		}
		fresh.Close()
	}
	if again.Frames() != 4 {
		t.Errorf("%d frames", again.Frames())
	}
}

// Turning back must not be a no-op, nor the other convention.
func TestTheWrongRotationShows(t *testing.T) {
	g := goldens(t, "half")
	for name, spoil := range map[string]func(*Model){
		"none": func(m *Model) { m.turnBack(0) }, "one off": func(m *Model) { m.turnBack(m.perFrame) }, "other convention": func(m *Model) { m.dec.RotaryInterleaved = true },
	} {
		t.Run(name, func(t *testing.T) {
			m := load(t, "half")
			spoil(m)
			s := session(t, m)
			worst := 0.0
			for i, f := range g.Frames {
				if err := s.AppendFrame(t.Context(), visual(f)); err != nil {
					t.Fatal(err)
				}
				worst = max(worst, furthest(firstLogits(t, s, g.Question), g.Logits[i]))
			}
			if worst < 2e-3 {
				t.Errorf("logits differ by %g only", worst)
			}
		})
	}
}

func answerOf(t testing.TB, s *Session, req Request) (text string, last Piece) {
	t.Helper()
	first := true
	for p, err := range s.Generate(t.Context(), req) {
		if err != nil {
			t.Fatal(err)
		}
		if p.First != first {
			t.Errorf("First is %v on piece %q", p.First, p.Text)
		}
		if last.Stop != "" {
			t.Errorf("a piece after the last: %+v", p)
		}
		first, last = false, p
		text += p.Text
	}
	if last.Stop == "" {
		t.Error("no last piece")
	}
	return text, last
}

func TestGenerateLeavesTheSessionAsItWas(t *testing.T) {
	m := load(t, "half")
	s, g := session(t, m), goldens(t, "half")
	for _, f := range g.Frames[:6] {
		if err := s.AppendFrame(t.Context(), visual(f)); err != nil {
			t.Fatal(err)
		}
	}
	before, mark := firstLogits(t, s, "now?"), s.Mark()
	for _, req := range []Request{{Task: Describe}, {Task: Changes, Temperature: 1}, {Task: Ask, Question: "what is there?"}, {Task: Describe, Temperature: 2, TopP: 0.9, MaxTokens: 3}} {
		answerOf(t, s, req)
		for range s.Generate(t.Context(), req) {
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		for _, err := range s.Generate(ctx, Request{Task: req.Task, Question: req.Question, Temperature: 2}) {
			cancel()
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		cancel()
		if got := s.Mark(); got != mark {
			t.Fatalf("%+v, was %+v", got, mark)
		}
	}
	if d := furthest(before, firstLogits(t, s, "now?")); d > 1e-6 {
		t.Errorf("logits differ by %g after questions", d)
	}
}

func TestSameSeedSameAnswer(t *testing.T) {
	s := session(t, load(t, "half"))
	req := Request{Task: Describe, Temperature: 1.5, TopP: 0.95, Seed: 7}
	a, _ := answerOf(t, s, req)
	b, _ := answerOf(t, s, req)
	if req.Seed = 8; a != b {
		t.Errorf("%q, then %q", a, b)
	}
	if c, _ := answerOf(t, s, req); a == c {
		t.Errorf("another seed gave %q too", a)
	}
}

func TestMaxTokens(t *testing.T) {
	s := session(t, load(t, "half"))
	_, last := answerOf(t, s, Request{Task: Describe, MaxTokens: 2, Temperature: 3})
	if last.Tokens > 2 || (last.Tokens == 2 && last.Stop != StopLength) {
		t.Errorf("%+v", last)
	}
	if _, last := answerOf(t, s, Request{Task: Describe, MaxTokens: 10000, Temperature: 3, Seed: 3}); last.Tokens >= 64 {
		t.Errorf("more tokens than the context holds: %+v", last)
	}
}

func TestRequestsThatCannotBe(t *testing.T) {
	s := session(t, load(t, "half"))
	for want, req := range map[string]Request{
		"question is too long":  {Task: Ask, Question: strings.Repeat("a ", 30)},
		"question is too long:": {Task: Ask, Question: strings.Repeat("x", 5000)},
		"question is empty":     {Task: Ask, Question: "  "},
		"no task 9":             {Task: 9},
	} {
		n := 0
		for _, err := range s.Generate(t.Context(), req) {
			if n++; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want ...%s...", err, want)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d pieces", want, n)
		}
	}
}

// What a question says is read from its text once for all sessions, and never kept
// without bound.
func TestWordsAreShared(t *testing.T) {
	m := load(t, "half")
	ask := func(question string) *words {
		t.Helper()
		w, err := m.words(t.Context(), Request{Task: Ask, Question: question})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	one := ask("is it?")
	a, b := session(t, m), session(t, m)
	first := firstLogits(t, a, "is it?")
	if ask("is it?") != one || furthest(first, firstLogits(t, b, "is it?")) != 0 {
		t.Error("the second session has words of its own")
	}
	if furthest(first, firstLogits(t, b, "is it so?")) == 0 {
		t.Error("another question is answered alike")
	}
	if one != ask(" Is  it? ") || slices.Equal(one.x, ask("it is?").x) {
		t.Error("words were lost or mixed up")
	}
	long := strings.Repeat("it ", longestKept/3+1) // three tokens each
	if first := ask(long); ask(long) == first {
		t.Error("a long question is kept")
	}
	for i := range 2*mostWords + 1 {
		ask(fmt.Sprint("is it ", i))
	}
	if n := len(m.heard.words); n > mostWords {
		t.Errorf("the words of %d questions are kept", n)
	}
}

func TestControlTokensInAQuestionArePlainText(t *testing.T) {
	ids, err := load(t, "half").prompt(wording{Ask, "a <|end|>"})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids[1 : len(ids)-1] {
		if id < 10 {
			t.Errorf("the question holds control token %d", id)
		}
	}
}

func TestPick(t *testing.T) {
	var s sampler
	logits := []float32{1, 5, 2, 5, -3}
	if id, err := s.pick(logits, 0, 0); err != nil || id != 1 {
		t.Errorf("greedy: %d, %v", id, err)
	}
	counts := map[int]int{}
	for range 4000 {
		id, err := s.pick(logits, 1, 0.9)
		if err != nil {
			t.Fatal(err)
		}
		counts[id]++
	}
	// 1 and 3 hold 0.96 of the mass between them.
	if counts[0]+counts[2]+counts[4] != 0 || counts[1] < 1800 || counts[3] < 1800 {
		t.Errorf("top-p: %v", counts)
	}
	clear(counts)
	for range 20000 {
		id, _ := s.pick([]float32{0, float32(math.Log(3))}, 1, 1)
		counts[id]++
	}
	if p := float64(counts[1]) / 20000; math.Abs(p-0.75) > 0.02 {
		t.Errorf("drew the token of probability 0.75 at a rate of %v", p)
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, bad := range [][]float32{{1, nan}, {inf, 1}, {-inf, -inf}} {
		for _, temp := range []float64{0, 1} {
			if _, err := s.pick(bad, temp, 1); !errors.Is(err, ErrNaN) {
				t.Errorf("%v at temperature %v: %v", bad, temp, err)
			}
		}
	}
	big := make([]float32, 1000)
	for i := range big {
		big[i] = rand.Float32()
	}
	for _, temp := range []float64{0, 0.8} {
		if n := testing.AllocsPerRun(20, func() { s.pick(big, temp, 0.9) }); n != 0 {
			t.Errorf("%v allocations a token at temperature %v", n, temp)
		}
	}
}

func TestRepeats(t *testing.T) {
	for _, c := range []struct {
		spoken string
		want   bool
	}{
		{"a man walks to the left", false}, {"aaaaaaa", false}, {"aaaaaaaa", true}, {"xyababab", false}, {"xyabababab", true}, {"abcabcabc", true},
		{"abcabcabd", false}, {"there is a car. there is a car. ", false}, {"ababcababcababc", true},
	} {
		var ids []int
		for _, b := range []byte(c.spoken) {
			ids = append(ids, int(b))
		}
		if got := repeats(ids); got != c.want {
			t.Errorf("%q: %v", c.spoken, got)
		}
	}
}

func TestMarkDiesWithItsFrames(t *testing.T) {
	s, g := session(t, load(t, "half")), goldens(t, "half")
	add := func(i int) {
		t.Helper()
		if err := s.AppendFrame(t.Context(), visual(g.Frames[i])); err != nil {
			t.Fatal(err)
		}
	}
	add(0)
	one := firstLogits(t, s, "x")
	mark := s.Mark()
	add(1)
	if err := s.Rewind(mark); err != nil || s.Frames() != 1 {
		t.Fatal(err, s.Frames())
	}
	if d := furthest(one, firstLogits(t, s, "x")); d > 1e-6 {
		t.Errorf("rewound, logits differ by %g", d)
	}
	for i := range 5 {
		add(i)
	}
	if err := s.Rewind(mark); !errors.Is(err, ErrMark) {
		t.Errorf("rewound over an eviction: %v", err)
	}
	s.Reset()
	if s.Frames() != 0 {
		t.Error("frames after Reset")
	}
	add(0)
	if d := furthest(one, firstLogits(t, s, "x")); d > 1e-6 {
		t.Errorf("after Reset logits differ by %g", d)
	}
}

func TestSessionsShareAModel(t *testing.T) {
	m, g := load(t, "half"), goldens(t, "half")
	var wg sync.WaitGroup
	for k := range 4 {
		s := session(t, m)
		wg.Go(func() {
			for i, f := range g.Frames[k:] {
				if err := s.AppendFrame(t.Context(), visual(f)); err != nil {
					t.Error(err)
				}
				if l := firstLogits(t, s, g.Question); k == 0 && furthest(l, g.Logits[i]) > 1e-3 {
					t.Errorf("session beside others: frame %d differs", i)
				}
			}
		})
	}
	wg.Wait()
}

func TestCancelledAppendLeavesTheCache(t *testing.T) {
	s, g := session(t, load(t, "half")), goldens(t, "half")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.AppendFrame(ctx, visual(g.Frames[1])); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := s.AppendFrame(t.Context(), visual(g.Frames[0])); err != nil {
		t.Fatal(err)
	}
	if d := furthest(firstLogits(t, s, g.Question), g.Logits[0]); d > 1e-3 {
		t.Errorf("logits differ by %g", d)
	}
	s.Close()
	if err := s.AppendFrame(t.Context(), visual(g.Frames[0])); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestConnectorAndDecoderMustFit(t *testing.T) {
	b, err := model.Open("testdata/half")
	if err != nil {
		t.Fatal(err)
	}
	env := environment(t)
	b.Manifest.Temporal.Width = 48
	if _, err := Open(b, env); !errors.Is(err, ErrWidth) || !strings.Contains(err.Error(), "width 48, the decoder takes 32") {
		t.Errorf("manifest: %v", err)
	}
	b.Manifest.Decoder.Width = 48 // the manifest agrees with itself, not with the graph
	if _, err := Open(b, env); !errors.Is(err, ErrWidth) || !strings.Contains(err.Error(), "width 48, decoder.onnx takes 32") {
		t.Errorf("graph: %v", err)
	}
	b.Manifest.Temporal.Width, b.Manifest.Decoder.Width = 32, 32
	m, err := Open(b, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := session(t, m).AppendFrame(t.Context(), tensor.Make[float32](4, 48)); !errors.Is(err, ErrWidth) || !strings.Contains(err.Error(), "width 48, the decoder takes 32") {
		t.Errorf("frame: %v", err)
	}
	b.Manifest.Tokens.Yes, b.Manifest.Tokens.End = b.Manifest.Tokens.End, b.Manifest.Tokens.Yes
	if _, err := Open(b, env); err == nil || !strings.Contains(err.Error(), "<|end|>") {
		t.Errorf("tokens: %v", err)
	}
}

// A decoded token must allocate nothing in Go: what the library allocates
// itself is its own arena.
func TestDecodingDoesNotAllocate(t *testing.T) {
	s, g := session(t, load(t, "half")), goldens(t, "half")
	if err := s.AppendFrame(t.Context(), visual(g.Frames[0])); err != nil {
		t.Fatal(err)
	}
	ctx, mark := t.Context(), Mark{s.len, s.frames, s.era}
	if n := testing.AllocsPerRun(100, func() {
		if err := s.step(ctx, 40); err != nil {
			t.Fatal(err)
		}
		if _, err := s.next(s.last(1), Request{Temperature: 0.7, TopP: 0.9}); err != nil {
			t.Fatal(err)
		}
		s.rewind(mark)
	}); n != 0 {
		t.Errorf("%v allocations a token", n)
	}
	v := visual(g.Frames[1])
	n := testing.AllocsPerRun(100, func() {
		if err := s.AppendFrame(ctx, v); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a frame, evictions included", n)
	}
}

// What an update costs does not grow: after a day of frames, one a second, each
// still costs one run of a frame's tokens over a cache of the same length.
func TestADayCostsNoMoreThanAMinute(t *testing.T) {
	s, g := session(t, load(t, "half")), goldens(t, "half")
	v := visual(g.Frames[0])
	length := 0
	for i := range 86400 / 20 { // a twentieth of a day: nothing in a session counts further than the window
		if err := s.AppendFrame(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if i == s.m.dec.FramesInWindow {
			length = s.len
		}
		if i > s.m.dec.FramesInWindow && (s.len != length || s.frames != s.m.dec.FramesInWindow || len(s.plans) > 2) {
			t.Fatalf("frame %d: %d tokens of %d frames in the cache, %d bindings; %d tokens when the window was full", i, s.len, s.frames, len(s.plans), length)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	s := session(b, load(b, "half"))
	mark := Mark{s.len, s.frames, s.era}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.step(b.Context(), 40); err != nil {
			b.Fatal(err)
		}
		if s.len > 60 {
			s.rewind(mark)
		}
	}
}

func embedded(t testing.TB) *Model {
	t.Helper()
	m, err := Open(testmodel.Bundle(t), testmodel.Env(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func noise(m *Model, seed uint64) tensor.View[float32] {
	v, r := tensor.Make[float32](m.perFrame, m.dec.Width), rand.New(rand.NewPCG(seed, 5))
	for i := range v.Data {
		v.Data[i] = float32(r.NormFloat64())
	}
	return v
}

// On the bundle itself: a question read in one run and one read token by token
// end at the same logits, before and after evictions.
func TestBundleReadsAlikeInOneRunAndByToken(t *testing.T) {
	m := embedded(t)
	s := session(t, m)
	for i := range m.FramesInWindow() + 3 {
		if err := s.AppendFrame(t.Context(), noise(m, uint64(i))); err != nil {
			t.Fatal(err)
		}
		whole := firstLogits(t, s, "is there a red car?")
		mark := s.Mark()
		ids, err := m.prompt(wording{Ask, "is there a red car?"})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if err := s.step(t.Context(), int(id)); err != nil {
				t.Fatal(err)
			}
		}
		span := slices.Max(whole) - slices.Min(whole)
		if d := furthest(whole, s.last(1)); d > 0.02*float64(span) {
			t.Errorf("after frame %d logits differ by %g of a span of %g", i+1, d, span)
		}
		if err := s.Rewind(mark); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBundleGoldens(t *testing.T) {
	g, m := testmodel.Golden(t, testmodel.Bundle(t)), embedded(t)
	s := session(t, m)
	for n, want := range g.Logits {
		if err := s.AppendFrame(t.Context(), testmodel.Visual(n, m.perFrame, m.dec.Width)); err != nil {
			t.Fatal(err)
		}
		testmodel.Near(t, fmt.Sprintf("logits after frame %d", n+1), firstLogits(t, s, g.Question), want)
	}
	if len(g.Logits) <= m.FramesInWindow() {
		t.Error("the goldens evict nothing")
	}
}

func TestBundleAnswers(t *testing.T) {
	m := embedded(t)
	s := session(t, m)
	if err := s.AppendFrame(t.Context(), noise(m, 1)); err != nil {
		t.Fatal(err)
	}
	for _, req := range []Request{{Task: Describe}, {Task: Changes}, {Task: Ask, Question: "Is there a red car?"}} {
		text, last := answerOf(t, s, req)
		if strings.Contains(text, "<|") || (req.Task != Ask && last.HasYes) || last.YesProb < 0 || last.YesProb > 1 {
			t.Errorf("%v: %q %+v", req, text, last)
		}
	}
}

func BenchmarkBundleDecode(b *testing.B) {
	m := embedded(b)
	s := session(b, m)
	for i := range m.FramesInWindow() {
		if err := s.AppendFrame(b.Context(), noise(m, uint64(i))); err != nil {
			b.Fatal(err)
		}
	}
	mark := Mark{s.len, s.frames, s.era}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.step(b.Context(), 40); err != nil {
			b.Fatal(err)
		}
		if s.len > mark.len+40 {
			s.rewind(mark)
		}
	}
}

func BenchmarkBundleFrame(b *testing.B) {
	m := embedded(b)
	s, v := session(b, m), noise(m, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.AppendFrame(context.Background(), v); err != nil {
			b.Fatal(err)
		}
	}
}

func TestMemoryIsFlat(t *testing.T) {
	m := embedded(t)
	frame := noise(m, 1)
	t.Run("sessions", func(t *testing.T) {
		testmodel.Flat(t, 150, 8<<10, func() {
			s, err := m.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.AppendFrame(t.Context(), frame); err != nil {
				t.Fatal(err)
			}
			answerOf(t, s, Request{Task: Ask, Question: "a?", MaxTokens: 2})
			s.Close()
		})
	})
	t.Run("frames", func(t *testing.T) {
		s := session(t, m)
		testmodel.Flat(t, 500, 4<<10, func() {
			if err := s.AppendFrame(t.Context(), frame); err != nil {
				t.Fatal(err)
			}
		})
		// Prompts of many lengths do not pile up bindings.
		for n := range 60 {
			answerOf(t, s, Request{Task: Ask, Question: strings.Repeat("a ", n+1), MaxTokens: 1})
		}
		if len(s.plans) > keptPlans {
			t.Errorf("%d plans kept", len(s.plans))
		}
	})
}

// The scripted decoder says what testdata/make.py has it say.
func TestAnswers(t *testing.T) {
	s := session(t, load(t, "scripted"))
	yes := func(logit float64) float64 { return 1 / (1 + math.Exp(-logit/2)) } // the bundle's temperature is 2
	for name, c := range map[string]struct {
		req    Request
		text   string
		last   Piece
		pieces int
	}{
		"text":        {Request{Task: Describe}, "hé!", Piece{Tokens: 5, Stop: StopEnd}, 4},
		"nothing":     {Request{Task: Changes}, "", Piece{First: true, Nothing: true, Stop: StopEnd}, 1},
		"yes":         {Request{Task: Ask, Question: "Y"}, "yes", Piece{YesProb: yes(2), HasYes: true, Tokens: 1, Stop: StopEnd}, 2},
		"no":          {Request{Task: Ask, Question: " n "}, "no", Piece{YesProb: yes(-4), HasYes: true, Tokens: 1, Stop: StopEnd}, 2},
		"cannot tell": {Request{Task: Ask, Question: "c"}, "", Piece{First: true, CannotTell: true, YesProb: 0.5, Stop: StopEnd}, 1},
		"circles":     {Request{Task: Ask, Question: "r"}, "aaaaaaaa", Piece{YesProb: 0.5, Tokens: 8, Stop: StopRepeat}, 8},
		"length":      {Request{Task: Ask, Question: "r", MaxTokens: 3}, "aaa", Piece{YesProb: 0.5, Tokens: 3, Stop: StopLength}, 3},
		"half a rune": {Request{Task: Ask, Question: "o", MaxTokens: 1}, "\uFFFD", Piece{First: true, YesProb: 0.5, Tokens: 1, Stop: StopLength}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var text string
			var last Piece
			n := 0
			for p, err := range s.Generate(t.Context(), c.req) {
				if err != nil {
					t.Fatal(err)
				}
				if !utf8.ValidString(p.Text) || (p.First != (n == 0)) {
					t.Errorf("piece %d: %+v", n, p)
				}
				text, last = text+p.Text, p
				n++
			}
			if last.Text = ""; math.Abs(last.YesProb-c.last.YesProb) < 1e-6 {
				last.YesProb = c.last.YesProb
			}
			if text != c.text || last != c.last || n != c.pieces {
				t.Errorf("%q in %d pieces, last %+v; want %q in %d, %+v", text, n, last, c.text, c.pieces, c.last)
			}
		})
	}
	for _, err := range s.Generate(t.Context(), Request{Task: Ask, Question: "i"}) {
		if !errors.Is(err, ErrNaN) {
			t.Errorf("infinite logits: %v", err)
		}
	}
	if _, last := answerOf(t, s, Request{Task: Changes}); !last.Nothing {
		t.Errorf("after a failed answer: %+v", last)
	}
}

// A consumer that stops in the middle leaves a session that others can use.
func TestLeavingTheLoop(t *testing.T) {
	s := session(t, load(t, "scripted"))
	for range s.Generate(t.Context(), Request{Task: Describe}) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.AppendFrame(ctx, tensor.Make[float32](4, 32)); !errors.Is(err, context.Canceled) {
			t.Errorf("a taken session: %v", err)
		}
		break
	}
	if text, _ := answerOf(t, s, Request{Task: Describe}); text != "hé!" {
		t.Errorf("%q", text)
	}
	func() {
		defer func() { _ = recover() }()
		for range s.Generate(t.Context(), Request{Task: Describe}) {
			panic("in the loop")
		}
	}()
	if text, _ := answerOf(t, s, Request{Task: Describe}); text != "hé!" {
		t.Errorf("after a panic: %q", text)
	}
}
