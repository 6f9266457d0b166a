package vlm

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/internal/ort"
	"github.com/lookout-video/lookout/llm"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/model"
	"github.com/lookout-video/lookout/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func picture(w, h, seed int, at time.Duration) *media.Frame {
	f := &media.Frame{At: media.Timestamp{Media: at}}
	f.Reset(w, h)
	for i := range f.Pix {
		f.Pix[i] = byte(i*seed + i/97)
	}
	return f
}

func say(t *testing.T, s *Session, question string, n int) string {
	t.Helper()
	var b strings.Builder
	for p, err := range s.Generate(t.Context(), Request{Question: question, MaxTokens: n, Exactly: true}) {
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(p.Text)
	}
	return b.String()
}

// A window that has slid answers as a new session with the frames that are
// left, and a question does not change the next answer.
func TestSlidWindowEqualsAFreshOne(t *testing.T) {
	env := environment(t)
	g := unpack(t, "testdata/smolvlm-a.tar.gz")
	m, err := Open(g.dir, env, Options{Frames: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	old, err := m.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	fresh, err := m.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	for i := range 6 {
		f := picture(50, 38, i+3, time.Duration(i)*time.Second)
		v, err := m.EncodeFrame(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if err := old.AppendFrame(t.Context(), v, f.At); err != nil {
			t.Fatal(err)
		}
		say(t, old, "Who?", 4)
		if i >= 3 {
			if err := fresh.AppendFrame(t.Context(), v, f.At); err != nil {
				t.Fatal(err)
			}
		}
	}
	if old.Frames() != 3 {
		t.Fatalf("%d frames", old.Frames())
	}
	first := say(t, old, "What happens?", 24)
	say(t, old, "Something else?", 10)
	if again := say(t, old, "What happens?", 24); again != first {
		t.Errorf("asked again: %q, before: %q", again, first)
	}
	if want := say(t, fresh, "What happens?", 24); first != want {
		t.Errorf("slid %q, fresh %q", first, want)
	}
}

// Frames of pooled videos and of plain images go the same way.
func TestStreamsOfEachLayout(t *testing.T) {
	env := environment(t)
	for _, name := range []string{"smolvlm-b", "idefics3-a", "fastvlm-a", "llava_next-a", "llava_onevision-a", "llava-a"} {
		g := unpack(t, "testdata/"+name+".tar.gz")
		m, err := Open(g.dir, env, Options{Frames: 2})
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for i := range 3 {
			f := picture(64, 36, 5*i+1, time.Duration(i)*time.Second)
			v, err := m.EncodeFrame(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.AppendFrame(t.Context(), v, f.At); err != nil {
				t.Fatal(err)
			}
			seen[say(t, s, "Is it open?", 12)] = true
		}
		if len(seen) < 2 {
			t.Errorf("%s: the frames do not matter: %v", name, seen)
		}
		for _, e := range []error{s.Close(), s.Close(), m.Close()} {
			if e != nil {
				t.Error(e)
			}
		}
		if err := s.AppendFrame(t.Context(), tensor.Make[float32](1, m.Width()), media.Timestamp{}); !errors.Is(err, llm.ErrClosed) {
			t.Errorf("%s: after Close: %v", name, err)
		}
	}
}

// A session that had bound nothing before its model was closed says so, however often.
func TestSessionOfAClosedModel(t *testing.T) {
	env := environment(t)
	for _, name := range []string{"llama-a", "llama-e", "smolvlm-b"} {
		m, err := Open(unpack(t, "testdata/"+name+".tar.gz").dir, env, Options{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			for _, err := range s.Generate(t.Context(), Request{Question: "Who?", MaxTokens: 4}) {
				if !errors.Is(err, ort.ErrClosed) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestUsersTextIsPlain(t *testing.T) {
	env := environment(t)
	g := unpack(t, "testdata/smolvlm-a.tar.gz")
	m, err := Open(g.dir, env, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if got := m.plain("a<ima<image>ge><end_of_utterance> b<|im_start|>"); got != "a b" {
		t.Errorf("%q", got)
	}
}

func TestGenerateRefusesAndStops(t *testing.T) {
	env := environment(t)
	g := unpack(t, "testdata/llama-a.tar.gz")
	m, err := Open(g.dir, env, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s, err := m.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := m.EncodeFrame(t.Context(), picture(4, 4, 1, 0)); !errors.Is(err, ErrBlind) {
		t.Errorf("a frame: %v", err)
	}
	if err := s.AppendFrame(t.Context(), tensor.Make[float32](1, m.Width()), media.Timestamp{}); !errors.Is(err, ErrBlind) {
		t.Errorf("a frame's tokens: %v", err)
	}
	last := llm.Piece{}
	for p, err := range s.Generate(t.Context(), Request{Question: "a", MaxTokens: 5, Exactly: true}) {
		if err != nil {
			t.Fatal(err)
		}
		last = p
	}
	if last.Tokens != 5 || last.Stop != llm.StopLength {
		t.Errorf("%+v", last)
	}
	m.g.limit = 40
	err = nil
	for _, e := range s.Generate(t.Context(), Request{Question: strings.Repeat("long ", 100)}) {
		err = e
	}
	if !errors.Is(err, ErrFull) {
		t.Errorf("too long: %v", err)
	}
	m.g.limit = 4096
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, e := range s.Generate(ctx, Request{Question: "b"}) {
		err = e
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if got := say(t, s, "a", 2); got == "" { // and it still answers
		t.Error("no answer after a cancelled one")
	}
}

// What does not belong together is told at load, with the widths of both.
func TestOpenNamesWhatDoesNotFit(t *testing.T) {
	env := environment(t)
	a, b := unpack(t, "testdata/smolvlm-a.tar.gz"), unpack(t, "testdata/smolvlm-b.tar.gz")
	swap := func(name string) string {
		g := unpack(t, "testdata/smolvlm-a.tar.gz")
		data, err := os.ReadFile(filepath.Join(b.dir, "onnx", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(g.dir, "onnx", name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		return g.dir
	}
	for _, name := range []string{"vision_encoder.onnx", "embed_tokens.onnx"} {
		_, err := Open(swap(name), env, Options{})
		if err == nil || !strings.Contains(err.Error(), "48") || !strings.Contains(err.Error(), "32") {
			t.Errorf("%s of another model: %v", name, err)
		}
	}
	if _, err := Open(a.dir, env, Options{Precision: "q4"}); !errors.Is(err, model.ErrNoVariant) {
		t.Errorf("a precision that is not there: %v", err)
	}
	if _, err := OpenPair(a.dir, env, Options{}); err == nil {
		t.Error("a language model was opened as a pair")
	}
	c := unpack(t, "testdata/clip-a.tar.gz")
	if _, err := Open(c.dir, env, Options{}); err == nil {
		t.Error("CLIP was opened as a language model")
	}
	for _, name := range []string{"tokenizer.json", "preprocessor_config.json", "chat_template.jinja"} {
		g := unpack(t, "testdata/smolvlm-a.tar.gz")
		if err := os.Remove(filepath.Join(g.dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(g.dir, env, Options{}); err == nil {
			t.Errorf("opened without %s", name)
		}
	}
}

func TestPairDefaults(t *testing.T) {
	env := environment(t)
	g := unpack(t, "testdata/clip-a.tar.gz")
	data, err := os.ReadFile(filepath.Join(g.dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	delete(c, "logit_scale")
	if data, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(g.dir, "config.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := OpenPair(g.dir, env, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Scale != 100 || p.Bias != 0 {
		t.Errorf("scale %v, bias %v", p.Scale, p.Bias)
	}
}

func TestHalf(t *testing.T) {
	for h := range 1 << 16 {
		x := fromHalf(uint16(h))
		if x != x {
			continue
		}
		if got := toHalf(x); got != uint16(h) {
			t.Fatalf("%04x is %v is %04x", h, x, got)
		}
	}
	for x, want := range map[float32]uint16{1 + 1.0/2048: 0x3C00, 1 + 3.0/2048: 0x3C02, 65520: 0x7C00, 65519: 0x7BFF, 1e-8: 0, -1e9: 0xFC00} {
		if got := toHalf(x); got != want {
			t.Errorf("%v is %04x, want %04x", x, got, want)
		}
	}
	if h := toHalf(float32(math.NaN())); fromHalf(h) == fromHalf(h) {
		t.Errorf("NaN is %04x", h)
	}
}

func TestWords(t *testing.T) {
	for n, want := range map[int]string{0: "zero", 8: "eight", 21: "twenty-one", 64: "sixty-four", 100: "one hundred", 101: "one hundred and one", 1000: "one thousand", 1234: "one thousand, two hundred and thirty-four", 1005: "one thousand and five"} {
		if got := inWords(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
	for d, want := range map[time.Duration]string{63 * time.Second: "0:01:03", 25*time.Hour + time.Second: "1 day, 1:00:01", 50 * time.Hour: "2 days, 2:00:00"} {
		if got := clock(d); got != want {
			t.Errorf("%v: %q", d, got)
		}
	}
}

func TestYesProb(t *testing.T) {
	m := &Model{yes: []int{1, 3}, no: []int{2}}
	logits := []float32{0, float32(math.Log(0.5)), float32(math.Log(0.2)), float32(math.Log(0.1)), -9}
	if p, ok := m.yesProb(1, logits); !ok || math.Abs(p-0.75) > 1e-6 {
		t.Errorf("%v %v", p, ok)
	}
	if _, ok := m.yesProb(0, logits); ok {
		t.Error("an answer that begins otherwise has a probability")
	}
}
