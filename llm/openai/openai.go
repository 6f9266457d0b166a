// Package openai lets a server speak in the language model's place: any that
// offers the OpenAI chat completions (vLLM, SGLang, llama.cpp, Ollama). It
// sends a stream's key frames and a question, and gives the answer as it comes.
package openai

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"iter"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lookout-video/lookout/media"
)

// Errors that callers tell apart.
var (
	// ErrUnauthorized: the server wants another API key.
	ErrUnauthorized = errors.New("openai: the server refused the API key")
	// ErrRefused: the server did not take the request; asking again is of no use.
	ErrRefused = errors.New("openai: the server refused the request")
	// ErrUnavailable: the server kept failing, or the answer broke off.
	ErrUnavailable = errors.New("openai: the server is not available")
	// ErrClosed is returned by calls on a closed Session.
	ErrClosed = errors.New("openai: session is closed")
)

// Config configures an Engine.
type Config struct {
	// URL is the server's base, with its version: http://127.0.0.1:8000/v1.
	URL string `yaml:"url"`
	// Model is the name that the server knows the model by.
	Model string `yaml:"model"`
	// APIKeyEnv names the environment variable that holds the key.
	// Empty: no key is sent.
	APIKeyEnv string `yaml:"api_key_env"`
	// Media is how frames are sent: "images", each as an image_url, or "video",
	// all as one video_url of JPEG frames, which vLLM and SGLang read.
	// It defaults to "images".
	Media string `yaml:"media"`
	// Frames is how many of the newest frames are sent. It defaults to 8.
	Frames int `yaml:"frames"`
	// Quality is the frames' JPEG quality, 1 to 100. It defaults to 85.
	Quality int `yaml:"quality"`
	// MaxTokens bounds an answer. It defaults to 128.
	MaxTokens int `yaml:"max_tokens"`
	// Timeout bounds an answer from request to end, tries included.
	// It defaults to 60 seconds.
	Timeout time.Duration `yaml:"timeout"`
	// Stall bounds the wait for the answer's next piece, and for its first.
	// It defaults to 20 seconds.
	Stall time.Duration `yaml:"stall"`
	// Retries is how often a request is sent again after a fault that may
	// pass, as long as nothing of the answer has come. It defaults to 3.
	Retries int `yaml:"retries"`
	// Backoff is the first wait between tries; it doubles, up to 10 seconds.
	// It defaults to 500 milliseconds.
	Backoff time.Duration `yaml:"backoff"`
	// Concurrency is how many requests are under way at once. Others wait.
	// It defaults to 4.
	Concurrency int `yaml:"concurrency"`
	// Logprobs asks for the first token's alternatives, from which the
	// probability of a yes is taken. Not all servers know it.
	Logprobs bool `yaml:"logprobs"`
	// Client makes the requests. It defaults to one of its own.
	Client *http.Client `yaml:"-"`
}

// Engine sends requests to one server. It is safe for concurrent use.
type Engine struct {
	cfg   Config
	key   string
	turns chan struct{}
	own   *http.Transport // to be closed, unless the client is the caller's
}

// Open checks the configuration. It does not call the server; see Check.
func Open(cfg Config) (*Engine, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("openai: url %q: want http(s)://HOST[:PORT]/v1", media.RedactURL(cfg.URL))
	}
	if cfg.Model == "" {
		return nil, errors.New("openai: model is empty: name the model as the server does")
	}
	def := func(n *int, d int) {
		if *n <= 0 {
			*n = d
		}
	}
	wait := func(n *time.Duration, d time.Duration) {
		if *n <= 0 {
			*n = d
		}
	}
	def(&cfg.Frames, 8)
	def(&cfg.Quality, 85)
	def(&cfg.MaxTokens, 128)
	def(&cfg.Retries, 3)
	def(&cfg.Concurrency, 4)
	wait(&cfg.Timeout, time.Minute)
	wait(&cfg.Stall, 20*time.Second)
	wait(&cfg.Backoff, 500*time.Millisecond)
	if cfg.Media == "" {
		cfg.Media = "images"
	}
	if cfg.Media != "images" && cfg.Media != "video" {
		return nil, fmt.Errorf("openai: media %q: want images or video", cfg.Media)
	}
	if cfg.Quality > 100 {
		return nil, fmt.Errorf("openai: quality %d: want 1 to 100", cfg.Quality)
	}
	e := &Engine{cfg: cfg, turns: make(chan struct{}, cfg.Concurrency)}
	if cfg.APIKeyEnv != "" {
		if e.key = os.Getenv(cfg.APIKeyEnv); e.key == "" {
			return nil, fmt.Errorf("openai: the environment variable %s is empty: put the server's API key there", cfg.APIKeyEnv)
		}
	}
	if cfg.Client == nil {
		e.own = &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 15 * time.Second, MaxIdleConnsPerHost: cfg.Concurrency, IdleConnTimeout: 90 * time.Second}
		e.cfg.Client = &http.Client{Transport: e.own}
	}
	return e, nil
}

// Close lets go of idle connections.
func (e *Engine) Close() error {
	if e.own != nil {
		e.own.CloseIdleConnections()
	}
	return nil
}

// Check asks the server for its models and fails if Config.Model is not among
// them.
func (e *Engine) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Stall)
	defer cancel()
	resp, err := e.send(ctx, http.MethodGet, "/models", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var list struct{ Data []struct{ ID string } }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 8<<20)).Decode(&list); err != nil {
		return fmt.Errorf("openai: %s/models gave no list (is the URL right, with its /v1?): %w", media.RedactURL(e.cfg.URL), err)
	}
	var names []string
	for _, m := range list.Data {
		names = append(names, m.ID)
	}
	if !slices.Contains(names, e.cfg.Model) {
		return fmt.Errorf("openai: the server has no model %q; it has %s", e.cfg.Model, strings.Join(names, ", "))
	}
	return nil
}

// Session is one stream's newest frames, as JPEG. It is safe for concurrent use.
type Session struct {
	e      *Engine
	mu     sync.Mutex
	frames []string // base64
	closed bool
}

// NewSession begins a stream.
func (e *Engine) NewSession() *Session { return &Session{e: e} }

// AppendFrame keeps a frame for the next questions, dropping the oldest when
// there are Config.Frames.
func (s *Session) AppendFrame(_ context.Context, f *media.Frame) error {
	if f.Width <= 0 || f.Height <= 0 || len(f.Pix) < 3*f.Width*f.Height {
		return fmt.Errorf("openai: a frame of %dx%d pixels with %d bytes", f.Width, f.Height, len(f.Pix))
	}
	m := image.NewRGBA(image.Rect(0, 0, f.Width, f.Height))
	for i := range f.Width * f.Height {
		m.Pix[4*i], m.Pix[4*i+1], m.Pix[4*i+2], m.Pix[4*i+3] = f.Pix[3*i], f.Pix[3*i+1], f.Pix[3*i+2], 255
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: s.e.cfg.Quality}); err != nil {
		return fmt.Errorf("openai: encode a frame: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if len(s.frames) == s.e.cfg.Frames {
		s.frames = slices.Delete(s.frames, 0, 1)
	}
	s.frames = append(s.frames, base64.StdEncoding.EncodeToString(b.Bytes()))
	return nil
}

// Reset forgets the frames.
func (s *Session) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames = nil
}

// Close forgets the frames for good.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames, s.closed = nil, true
	return nil
}

// Request asks about the frames in a Session.
type Request struct {
	Question string
	// System tells the model how to answer. Empty: nothing is said.
	System string
	// MaxTokens defaults to Config.MaxTokens.
	MaxTokens int
	// Temperature above 0 lets the server draw at random.
	Temperature float64
}

// Piece is a part of an answer. The last one has Stop, and may have no text.
type Piece struct {
	Text  string
	First bool
	// YesProb is the probability of yes against no at the answer's first token.
	// It counts when HasYes is set.
	YesProb float64
	HasYes  bool
	// Stop is "end" or "length" on the last piece.
	Stop string
}

type message struct {
	Role    string `json:"role"`
	Content any    `json:"content"`
}

type content struct {
	Type  string   `json:"type"`
	Text  string   `json:"text,omitempty"`
	Image *address `json:"image_url,omitempty"`
	Video *address `json:"video_url,omitempty"`
}

type address struct {
	URL string `json:"url"`
}

func (s *Session) body(req Request) ([]byte, error) {
	s.mu.Lock()
	frames, closed := slices.Clone(s.frames), s.closed
	s.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	cfg := &s.e.cfg
	var messages []message
	if req.System != "" {
		messages = append(messages, message{"system", req.System})
	}
	user := message{"user", req.Question}
	if len(frames) > 0 {
		var parts []content
		if cfg.Media == "video" {
			parts = append(parts, content{Type: "video_url", Video: &address{"data:video/jpeg;base64," + strings.Join(frames, ",")}})
		} else {
			for _, f := range frames {
				parts = append(parts, content{Type: "image_url", Image: &address{"data:image/jpeg;base64," + f}})
			}
		}
		user.Content = append(parts, content{Type: "text", Text: req.Question})
	}
	if req.MaxTokens <= 0 {
		req.MaxTokens = cfg.MaxTokens
	}
	body := map[string]any{"model": cfg.Model, "messages": append(messages, user), "stream": true, "max_tokens": req.MaxTokens, "temperature": req.Temperature}
	if cfg.Logprobs {
		body["logprobs"], body["top_logprobs"] = true, 10
	}
	return json.Marshal(body)
}

// Generate answers req. A fault before the first piece is tried again; one
// after it ends the answer with ErrUnavailable.
func (s *Session) Generate(ctx context.Context, req Request) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		body, err := s.body(req)
		if err == nil {
			err = s.e.generate(ctx, body, func(p Piece) bool { return yield(p, nil) })
		}
		if err != nil {
			yield(Piece{}, err)
		}
	}
}

func (e *Engine) generate(ctx context.Context, body []byte, give func(Piece) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, e.cfg.Timeout, fmt.Errorf("%w: no whole answer within %v", ErrUnavailable, e.cfg.Timeout))
	defer cancel()
	select {
	case e.turns <- struct{}{}:
		defer func() { <-e.turns }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	wait := e.cfg.Backoff
	var before error // what the last try but one ended with: why there was a wait
	for try := 0; ; try++ {
		spoke, err := e.once(ctx, body, give)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil && before != nil {
			return fmt.Errorf("%w; before that: %w", context.Cause(ctx), before)
		} else if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		before = err
		var again *passing
		if spoke || !errors.As(err, &again) || try >= e.cfg.Retries {
			return err
		}
		timer := time.NewTimer(max(wait, again.after))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(context.Cause(ctx), err)
		}
		wait = min(2*wait, 10*time.Second)
	}
}

// passing is a fault that may pass.
type passing struct {
	error
	after time.Duration
}

func (p *passing) Unwrap() error { return p.error }

func (e *Engine) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(e.cfg.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("openai: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if e.key != "" {
		req.Header.Set("Authorization", "Bearer "+e.key)
	}
	resp, err := e.cfg.Client.Do(req)
	if err != nil {
		return nil, &passing{fmt.Errorf("%w: %w", ErrUnavailable, err), 0}
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what could be read explains enough
	why := fmt.Sprintf("%s: %s", resp.Status, said(text))
	if e.key != "" {
		why = strings.ReplaceAll(why, e.key, "(key)")
	}
	switch c := resp.StatusCode; {
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		return nil, fmt.Errorf("%w: %s: check the key in $%s", ErrUnauthorized, why, e.cfg.APIKeyEnv)
	case c == http.StatusTooManyRequests || c == http.StatusRequestTimeout || c >= 500:
		after := 0
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			after = min(max(n, 0), 60)
		}
		return nil, &passing{fmt.Errorf("%w: %s", ErrUnavailable, why), time.Duration(after) * time.Second}
	}
	return nil, fmt.Errorf("%w: %s", ErrRefused, why)
}

// said is a server's own words about an error.
func said(body []byte) string {
	var e struct {
		Error   json.RawMessage
		Message string
	}
	if json.Unmarshal(body, &e) == nil {
		var o struct{ Message string }
		var s string
		switch {
		case json.Unmarshal(e.Error, &o) == nil && o.Message != "":
			return o.Message
		case json.Unmarshal(e.Error, &s) == nil && s != "":
			return s
		case e.Message != "":
			return e.Message
		}
	}
	return strings.TrimSpace(string(body))
}

type chunk struct {
	Error   json.RawMessage
	Choices []struct {
		Delta        struct{ Content *string }
		FinishReason *string `json:"finish_reason"`
		Logprobs     *struct {
			Content []struct {
				Top []struct {
					Token   string
					Logprob float64
				} `json:"top_logprobs"`
			}
		}
	}
}

// once sends the request and gives what comes. spoke tells whether anything
// was given.
func (e *Engine) once(ctx context.Context, body []byte, give func(Piece) bool) (spoke bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := &passing{fmt.Errorf("%w: silent for %v", ErrUnavailable, e.cfg.Stall), 0}
	timer := time.AfterFunc(e.cfg.Stall, func() { cancel(stalled) })
	defer timer.Stop()
	broken := func(err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	resp, err := e.send(ctx, http.MethodPost, "/chat/completions", body)
	if err != nil {
		return false, broken(err)
	}
	defer resp.Body.Close()
	first := Piece{First: true}
	stop := ""
	for data, err := range events(resp.Body) {
		if err != nil {
			return spoke, broken(&passing{fmt.Errorf("%w: %w", ErrUnavailable, err), 0})
		}
		timer.Reset(e.cfg.Stall)
		if string(data) == "[DONE]" {
			break
		}
		var c chunk
		if err := json.Unmarshal(data, &c); err != nil {
			return spoke, &passing{fmt.Errorf("%w: the stream holds no JSON: %w", ErrUnavailable, err), 0}
		}
		if len(c.Error) > 0 && string(c.Error) != "null" {
			return spoke, &passing{fmt.Errorf("%w: %s", ErrUnavailable, said(data)), 0}
		}
		if len(c.Choices) == 0 { // usage, or a sign of life
			continue
		}
		ch := &c.Choices[0]
		if ch.Logprobs != nil && !spoke && !first.HasYes {
			for _, t := range ch.Logprobs.Content {
				first.YesProb, first.HasYes = yes(t.Top)
				break
			}
		}
		if ch.FinishReason != nil && *ch.FinishReason != "" {
			if stop = "end"; *ch.FinishReason == "length" {
				stop = "length"
			}
		}
		if ch.Delta.Content != nil && *ch.Delta.Content != "" {
			p := first
			first, spoke = Piece{}, true
			p.Text = *ch.Delta.Content
			if !give(p) {
				return true, nil
			}
		}
	}
	if stop == "" { // neither a reason nor more text: it broke off
		return spoke, broken(&passing{fmt.Errorf("%w: the answer broke off", ErrUnavailable), 0})
	}
	first.Stop = stop
	give(first)
	return true, nil
}

// yes is the probability of yes against no among a token's alternatives.
func yes(top []struct {
	Token   string
	Logprob float64
}) (float64, bool) {
	y, n := 0.0, 0.0
	for _, t := range top {
		switch strings.ToLower(strings.Trim(t.Token, " .,▁Ġ")) {
		case "yes":
			y += math.Exp(t.Logprob)
		case "no":
			n += math.Exp(t.Logprob)
		}
	}
	if y+n == 0 {
		return 0, false
	}
	return y / (y + n), true
}
