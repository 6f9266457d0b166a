package openai

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"image/jpeg"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/media"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script answers the n-th request (from 0) in its own way.
type script func(w http.ResponseWriter, r *http.Request, n int)

func serve(t *testing.T, f script, change func(*Config)) (*Session, *Engine) {
	t.Helper()
	var n atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f(w, r, int(n.Add(1)-1)) }))
	t.Cleanup(srv.Close)
	cfg := Config{URL: srv.URL + "/v1/", Model: "m", Backoff: time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	e, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := e.NewSession()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), e.Close()); err != nil {
			t.Error(err)
		}
	})
	return s, e
}

func delta(w http.ResponseWriter, text string) {
	b, _ := json.Marshal(text)
	fmt.Fprintf(w, "data: {\"choices\":[{\"delta\":{\"content\":%s}}]}\n\n", b)
	_ = http.NewResponseController(w).Flush()
}

func finish(w http.ResponseWriter, reason string) {
	fmt.Fprintf(w, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":%q}]}\n\ndata: [DONE]\n\n", reason)
}

func ask(ctx context.Context, s *Session) (string, Piece, error) {
	var b strings.Builder
	var last Piece
	for p, err := range s.Generate(ctx, Request{Question: "who?", System: "be short"}) {
		if err != nil {
			return b.String(), last, err
		}
		b.WriteString(p.Text)
		last = p
	}
	return b.String(), last, nil
}

func frame(w, h int) *media.Frame {
	f := &media.Frame{}
	f.Reset(w, h)
	for i := range f.Pix {
		f.Pix[i] = 200
	}
	return f
}

func TestAnswerAsItComes(t *testing.T) {
	for _, mode := range []string{"images", "video"} {
		t.Run(mode, func(t *testing.T) {
			t.Setenv("LOOKOUT_TEST_KEY", "secret")
			seen := make(chan struct{})
			s, _ := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
				if r.URL.Path != "/v1/chat/completions" || r.Header.Get("Authorization") != "Bearer secret" {
					t.Errorf("%s %q", r.URL.Path, r.Header.Get("Authorization"))
				}
				var body struct {
					Model     string
					Stream    bool
					MaxTokens int `json:"max_tokens"`
					Messages  []struct {
						Role    string
						Content json.RawMessage
					}
				}
				if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
					t.Error(err)
				}
				if body.Model != "m" || !body.Stream || body.MaxTokens != 128 || len(body.Messages) != 2 || string(body.Messages[0].Content) != `"be short"` {
					t.Errorf("%+v", body)
				}
				var parts []content
				if err := json.Unmarshal(body.Messages[1].Content, &parts); err != nil {
					t.Fatal(err)
				}
				var frames []string
				if mode == "images" {
					for _, p := range parts[:len(parts)-1] {
						frames = append(frames, strings.TrimPrefix(p.Image.URL, "data:image/jpeg;base64,"))
					}
				} else {
					frames = strings.Split(strings.TrimPrefix(parts[0].Video.URL, "data:video/jpeg;base64,"), ",")
				}
				if len(frames) != 3 || parts[len(parts)-1].Text != "who?" {
					t.Errorf("%d frames, %+v", len(frames), parts[len(parts)-1])
				}
				for _, f := range frames {
					data, err := base64.StdEncoding.DecodeString(f)
					if err != nil {
						t.Fatal(err)
					}
					m, err := jpeg.Decode(bytes.NewReader(data))
					if err != nil {
						t.Fatal(err)
					}
					if r, _, _, _ := m.At(1, 1).RGBA(); m.Bounds().Dx() != 8 || r>>8 < 195 || r>>8 > 205 {
						t.Errorf("%v, red %d", m.Bounds(), r>>8)
					}
				}
				delta(w, "a red ")
				<-seen // the first piece is read before the second is written
				delta(w, "van")
				finish(w, "stop")
			}, func(c *Config) { c.APIKeyEnv, c.Media, c.Frames = "LOOKOUT_TEST_KEY", mode, 3 })
			for range 5 {
				if err := s.AppendFrame(t.Context(), frame(8, 6)); err != nil {
					t.Fatal(err)
				}
			}
			var got []Piece
			for p, err := range s.Generate(t.Context(), Request{Question: "who?", System: "be short"}) {
				if err != nil {
					t.Fatal(err)
				}
				if got = append(got, p); len(got) == 1 {
					close(seen)
				}
			}
			if len(got) != 3 || !got[0].First || got[1].First || got[0].Text+got[1].Text != "a red van" || got[2].Stop != "end" {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestYesProbability(t *testing.T) {
	s, _ := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		fmt.Fprint(w, `data: {"choices":[{"delta":{"role":"assistant","content":""}}]}`+"\n\n")
		fmt.Fprintf(w, `data: {"choices":[{"delta":{"content":"Yes"},"logprobs":{"content":[{"token":"Yes","top_logprobs":[{"token":"Yes","logprob":%g},{"token":" no","logprob":%g},{"token":"It","logprob":-9}]}]}}]}`+"\n\n", math.Log(0.6), math.Log(0.2))
		finish(w, "length")
	}, func(c *Config) { c.Logprobs = true })
	var got []Piece
	for p, err := range s.Generate(t.Context(), Request{Question: "is it?"}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p)
	}
	if len(got) != 2 || !got[0].HasYes || math.Abs(got[0].YesProb-0.75) > 1e-9 || got[1].Stop != "length" || got[1].HasYes {
		t.Errorf("%+v", got)
	}
}

func TestFaults(t *testing.T) {
	ok := func(w http.ResponseWriter) { delta(w, "fine"); finish(w, "stop") }
	abort := func() { panic(http.ErrAbortHandler) }
	code := func(c int) script {
		return func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.WriteHeader(c)
			_, _ = io.WriteString(w, `{"error":{"message":"because secret"}}`)
		}
	}
	twice := func(f script) script {
		return func(w http.ResponseWriter, r *http.Request, n int) {
			if n < 2 {
				f(w, r, n)
			} else {
				ok(w)
			}
		}
	}
	for name, c := range map[string]struct {
		f    script
		want error // nil: the answer comes
		text string
	}{
		"429 passes":        {twice(code(429)), nil, "fine"},
		"503 passes":        {twice(code(503)), nil, "fine"},
		"closed passes":     {twice(func(http.ResponseWriter, *http.Request, int) { abort() }), nil, "fine"},
		"empty answer":      {twice(func(http.ResponseWriter, *http.Request, int) {}), nil, "fine"},
		"error in stream":   {twice(func(w http.ResponseWriter, _ *http.Request, _ int) { fmt.Fprint(w, "data: {\"error\":\"full\"}\n\n") }), nil, "fine"},
		"no json":           {twice(func(w http.ResponseWriter, _ *http.Request, _ int) { fmt.Fprint(w, "data: <html>\n\n") }), nil, "fine"},
		"500 stays":         {code(500), ErrUnavailable, ""},
		"400":               {code(400), ErrRefused, ""},
		"401":               {code(401), ErrUnauthorized, ""},
		"broken off":        {func(w http.ResponseWriter, _ *http.Request, _ int) { delta(w, "half an"); abort() }, ErrUnavailable, "half an"},
		"ends without end":  {func(w http.ResponseWriter, _ *http.Request, _ int) { delta(w, "half an") }, ErrUnavailable, "half an"},
		"silent, then fine": {twice(func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() }), nil, "fine"},
		"silent in between": {func(w http.ResponseWriter, r *http.Request, _ int) { delta(w, "half"); <-r.Context().Done() }, ErrUnavailable, "half"},
		"a line without end": {func(w http.ResponseWriter, _ *http.Request, _ int) {
			fmt.Fprint(w, "data: "+strings.Repeat("x", 3*maxEvent))
		}, ErrUnavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := serve(t, func(w http.ResponseWriter, r *http.Request, n int) {
				_, _ = io.Copy(io.Discard, r.Body) // or the server does not see the client go
				c.f(w, r, n)
			}, func(cfg *Config) { cfg.Stall = 300 * time.Millisecond })
			text, _, err := ask(t.Context(), s)
			if text != c.text || (err == nil) != (c.want == nil) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
}

// A server that says when to come back is not asked before.
func TestRetryAfterIsKept(t *testing.T) {
	var first time.Time
	s, _ := serve(t, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 0 {
			first = time.Now()
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		if d := time.Since(first); d < time.Second {
			t.Errorf("asked again after %v", d)
		}
		delta(w, "fine")
		finish(w, "stop")
	}, nil)
	if text, _, err := ask(t.Context(), s); err != nil || text != "fine" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestTheKeyIsNotTold(t *testing.T) {
	t.Setenv("LOOKOUT_TEST_KEY", "hunter2")
	s, _ := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.WriteHeader(401)
		_, _ = io.WriteString(w, `{"error":{"message":"Incorrect API key provided: hunter2"}}`)
	}, func(c *Config) { c.APIKeyEnv = "LOOKOUT_TEST_KEY" })
	_, _, err := ask(t.Context(), s)
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "LOOKOUT_TEST_KEY") {
		t.Errorf("%v", err)
	}
}

func TestTimeout(t *testing.T) {
	s, _ := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		_, _ = io.Copy(io.Discard, r.Body)
		for r.Context().Err() == nil { // drip for ever
			delta(w, ".")
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}, func(c *Config) { c.Timeout = 100 * time.Millisecond })
	if _, _, err := ask(t.Context(), s); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	for _, err := range s.Generate(ctx, Request{Question: "?"}) {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
			break
		}
		if n++; n == 1 {
			cancel()
		}
	}
	cancel()
}

func TestConcurrencyIsBounded(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	full, let := make(chan struct{}, 20), make(chan struct{})
	s, _ := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		full <- struct{}{}
		<-let
		mu.Lock()
		now--
		mu.Unlock()
		delta(w, "x")
		finish(w, "stop")
	}, func(c *Config) { c.Concurrency = 2 })
	var wg sync.WaitGroup
	for range 6 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, _, err := ask(context.Background(), s); err != nil {
				t.Error(err)
			}
		}()
	}
	<-full
	<-full
	// One that waits for its turn can still be called off.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := ask(ctx, s); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(let)
	wg.Wait()
	if most != 2 {
		t.Errorf("%d at once", most)
	}
}

func TestCheck(t *testing.T) {
	_, e := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.Method != http.MethodGet || r.URL.Path != "/v1/models" {
			t.Errorf("%s %s", r.Method, r.URL.Path)
		}
		_, _ = io.WriteString(w, `{"data":[{"id":"m"},{"id":"other"}]}`)
	}, nil)
	if err := e.Check(t.Context()); err != nil {
		t.Error(err)
	}
	_, e = serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		_, _ = io.WriteString(w, `{"data":[{"id":"other"}]}`)
	}, nil)
	if err := e.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("%v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []Config{{}, {URL: "localhost:1/v1", Model: "m"}, {URL: "http://x/v1"}, {URL: "http://x/v1", Model: "m", Media: "tape"}, {URL: "http://x/v1", Model: "m", Quality: 101}, {URL: "http://x/v1", Model: "m", APIKeyEnv: "LOOKOUT_NO_SUCH_KEY"}} {
		if _, err := Open(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	e, err := Open(Config{URL: "http://x/v1", Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	s := e.NewSession()
	if err := s.AppendFrame(t.Context(), &media.Frame{Width: 4, Height: 4}); err == nil {
		t.Error("a frame without pixels was taken")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendFrame(t.Context(), frame(2, 2)); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, _, err := ask(t.Context(), s); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestEvents(t *testing.T) {
	in := ": hello\r\n\r\ndata: a\r\ndata:b\r\n\r\nevent: x\ndata: c\n\n\n\ndata\n\ndata: cut off"
	var got []string
	for d, err := range events(strings.NewReader(in)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(d))
	}
	if want := "a\nb|c|"; strings.Join(got, "|") != want {
		t.Errorf("%q", got)
	}
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("data: {\"choices\":[]}\n\ndata: [DONE]\n\n"))
	f.Add([]byte(": x\r\ndata:\r\ndata: y\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		n := 0
		for d, err := range events(bytes.NewReader(in)) {
			if err != nil {
				break
			}
			if n += len(d); n > len(in) {
				t.Fatalf("%d bytes out of %d", n, len(in))
			}
			var c chunk
			_ = json.Unmarshal(d, &c) // any bytes may come; it must not panic
			said(d)
		}
	})
}

// A real server, where somebody has one running: LOOKOUT_TEST_OPENAI_URL and
// LOOKOUT_TEST_OPENAI_MODEL name it. `make smollm2-server` starts one and runs
// this.
func TestRealServer(t *testing.T) {
	address, name := os.Getenv("LOOKOUT_TEST_OPENAI_URL"), os.Getenv("LOOKOUT_TEST_OPENAI_MODEL")
	if address == "" {
		t.Skip("NOT TESTED: LOOKOUT_TEST_OPENAI_URL is not set; `make smollm2-server` starts a real server and sets it")
	}
	open := func(model string) *Session {
		e, err := Open(Config{URL: address, Model: model, Timeout: 3 * time.Minute, Stall: 2 * time.Minute, Retries: 1})
		if err != nil {
			t.Fatal(err)
		}
		s := e.NewSession()
		t.Cleanup(func() {
			if err := errors.Join(s.Close(), e.Close()); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	s := open(name)
	answer := func(t *testing.T, question string, most int) {
		t.Helper()
		pieces, text, stop := 0, "", ""
		for p, err := range s.Generate(t.Context(), Request{Question: question, System: "You answer in one short sentence.", MaxTokens: most}) {
			if err != nil {
				t.Fatal(err)
			}
			text += p.Text
			stop = p.Stop
			pieces++
		}
		t.Logf("%d pieces: %q, %s", pieces, text, stop)
		if pieces < 2 || text == "" || stop == "" {
			t.Errorf("%d pieces: %q, %q", pieces, text, stop)
		}
	}
	t.Run("a question", func(t *testing.T) { answer(t, "What is the capital of France?", 24) })
	t.Run("cut short", func(t *testing.T) { answer(t, "Tell a long story about a dog.", 8) })
	t.Run("after an answer that nobody waited for", func(t *testing.T) {
		for _, err := range s.Generate(t.Context(), Request{Question: "Count to one hundred.", MaxTokens: 64}) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		answer(t, "What is the capital of Italy?", 24)
	})
	t.Run("with a picture", func(t *testing.T) { // a language model's server may leave it out, but takes the request
		if err := s.AppendFrame(t.Context(), frame(32, 24)); err != nil {
			t.Fatal(err)
		}
		answer(t, "What is the capital of Spain?", 24)
	})
	t.Run("no such model", func(t *testing.T) {
		var last error
		for _, err := range open("nobody/has-this-model").Generate(t.Context(), Request{Question: "Hello?"}) {
			last = err
		}
		t.Logf("%v", last)
		if !errors.Is(last, ErrRefused) && !errors.Is(last, ErrUnavailable) {
			t.Errorf("%v", last)
		}
	})
}

// A real server that sees: LOOKOUT_TEST_OPENAI_VISION_MODEL names one of its
// models. Its weights may be random, as they are in `make smollm2-server`: it
// answers the same to the same pictures, and otherwise to others.
func TestRealServerSees(t *testing.T) {
	address, name := os.Getenv("LOOKOUT_TEST_OPENAI_URL"), os.Getenv("LOOKOUT_TEST_OPENAI_VISION_MODEL")
	if address == "" || name == "" {
		t.Skip("NOT TESTED: LOOKOUT_TEST_OPENAI_VISION_MODEL is not set; `make smollm2-server` starts a real server and sets it")
	}
	e, err := Open(Config{URL: address, Model: name, Timeout: 3 * time.Minute, Stall: 2 * time.Minute, Retries: 1})
	if err != nil {
		t.Fatal(err)
	}
	s := e.NewSession()
	defer func() {
		if err := errors.Join(s.Close(), e.Close()); err != nil {
			t.Error(err)
		}
	}()
	// look shows frames of these colours, the newest last, and asks about them.
	look := func(colours ...color.RGBA) string {
		t.Helper()
		s.Reset()
		for _, c := range colours {
			f := &media.Frame{}
			f.Reset(64, 48)
			for i := range 64 * 48 {
				if i%64 < 32 { // the left half
					f.Pix[3*i], f.Pix[3*i+1], f.Pix[3*i+2] = c.R, c.G, c.B
				}
			}
			if err := s.AppendFrame(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
		text, last := "", Piece{}
		for p, err := range s.Generate(t.Context(), Request{Question: "What is there?", System: "Be short.", MaxTokens: 24}) {
			if err != nil {
				t.Fatal(err)
			}
			text += p.Text
			last = p
		}
		t.Logf("%v: %q, %s", colours, text, last.Stop)
		if text == "" || last.Stop == "" {
			t.Errorf("%q, stop %q", text, last.Stop)
		}
		return text
	}
	red, green := color.RGBA{R: 255}, color.RGBA{G: 255}
	first := look(red)
	for what, c := range map[string]struct {
		said string
		same bool
	}{
		"the same picture":      {look(red), true},
		"another picture":       {look(green), false},
		"a second picture":      {look(red, green), false},
		"two, the other way":    {look(green, red), false},
		"the first one at last": {look(red), true},
	} {
		if (c.said == first) != c.same {
			t.Errorf("%s: %q, the first: %q", what, c.said, first)
		}
	}
	if a, b := look(red, green), look(green, red); a == b {
		t.Errorf("the order of two pictures does not matter: %q", a)
	}
}
