package webrtc

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	pion "github.com/pion/webrtc/v4"
)

// Bounds of what a viewer may ask for.
const (
	// MaxQuestion is the length in characters up to which questions and
	// prompts are taken.
	MaxQuestion = 500
	// MaxLabels is how many zero-shot labels a stream may have; each has at
	// most MaxLabel characters.
	MaxLabels = 32
	MaxLabel  = 80
	// MaxStreams is how many streams a viewer may hear by their names.
	MaxStreams = 256
	// MaxSince is how far back a question may look.
	MaxSince = time.Hour
)

// CheckText trims a question or prompt and returns ErrInvalid when it cannot
// be taken.
func CheckText(what, text string) (string, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return "", fmt.Errorf("%w %s: empty", ErrInvalid, what)
	case !utf8.ValidString(text):
		return "", fmt.Errorf("%w %s: not UTF-8", ErrInvalid, what)
	case utf8.RuneCountInString(text) > MaxQuestion:
		return "", fmt.Errorf("%w %s: longer than %d characters", ErrInvalid, what, MaxQuestion)
	}
	return text, nil
}

// CheckLabels trims zero-shot labels and returns ErrInvalid when they cannot
// be taken.
func CheckLabels(labels []string) ([]string, error) {
	if len(labels) > MaxLabels {
		return nil, fmt.Errorf("%w labels: more than %d", ErrInvalid, MaxLabels)
	}
	out := make([]string, 0, len(labels))
	for _, l := range labels {
		l = strings.TrimSpace(l)
		if l == "" || !utf8.ValidString(l) || utf8.RuneCountInString(l) > MaxLabel {
			return nil, fmt.Errorf("%w label %.20q: need 1 to %d characters", ErrInvalid, l, MaxLabel)
		}
		if !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	return out, nil
}

// message takes a request. It is a callback of the connection, so what may
// wait is done beside it.
func (v *viewer) message(msg pion.DataChannelMessage) {
	var r Request
	if err := json.Unmarshal(msg.Data, &r); err != nil || !msg.IsString || r.ID <= 0 {
		v.reply(&Message{ID: r.ID, Error: &Error{"invalid", "a request is a JSON text with a positive id"}})
		return
	}
	if !v.requests.Allow() {
		v.reply(&Message{ID: r.ID, Error: &Error{"rate_limited", "too many requests"}})
		return
	}
	if r.Stream == "" {
		r.Stream = v.stream
	}
	fail := func(err error) { v.reply(&Message{ID: r.ID, Error: Fault(err)}) }
	switch r.Op {
	case "ping":
		now := time.Now().UTC()
		v.reply(&Message{ID: r.ID, Time: &now})
	case "subscribe", "unsubscribe":
		if len(r.Streams) == 0 || len(r.Streams) > MaxStreams {
			fail(fmt.Errorf("%w streams: name 1 to %d, or \"*\"", ErrInvalid, MaxStreams))
			return
		}
		for _, s := range r.Streams {
			if s != "*" && !v.allowed(View, s) {
				fail(forbidden(View, s))
				return
			}
		}
		if r.Op == "unsubscribe" {
			v.unsubscribe(r.Streams)
		} else if err := v.subscribe(r.Streams, r.After); err != nil {
			fail(err)
			return
		}
		v.reply(&Message{ID: r.ID})
	case "ask", "prompt", "labels":
		if !v.allowed(Ask, r.Stream) {
			fail(forbidden(Ask, r.Stream))
			return
		}
		if r.Op == "ask" {
			v.ask(r)
			return
		}
		v.spawn(func() {
			ctx, cancel := context.WithTimeout(v.ctx, 10*time.Second)
			defer cancel()
			var err error
			if r.Op == "prompt" {
				err = v.prompt(ctx, r.Stream, r.Text)
			} else if r.Labels, err = CheckLabels(r.Labels); err == nil {
				err = v.srv.backend.SetLabels(ctx, r.Stream, r.Labels)
			}
			if err != nil {
				v.failed(r, err)
				return
			}
			v.reply(&Message{ID: r.ID})
		})
	default:
		fail(fmt.Errorf("%w op %.20q", ErrInvalid, r.Op))
	}
}

func forbidden(a Action, stream string) error {
	return &Error{"forbidden", fmt.Sprintf("no permission to %s stream %s", a, stream)}
}

func (v *viewer) reply(m *Message) {
	m.Type = "reply"
	v.send(ChannelControl, m)
}

func (v *viewer) failed(r Request, err error) {
	f := Fault(err)
	if f.Code == "internal" {
		v.log.Error("request failed", "op", r.Op, "error", err)
	}
	v.reply(&Message{ID: r.ID, Error: f})
}

// ask accepts a question and answers it beside the connection.
func (v *viewer) ask(r Request) {
	text, err := CheckText("question", r.Question)
	if since := time.Duration(r.SinceMS) * time.Millisecond; err == nil && (r.SinceMS < 0 || since > MaxSince) {
		err = fmt.Errorf("%w since_ms: need 0 to %d", ErrInvalid, MaxSince.Milliseconds())
	}
	if err != nil {
		v.reply(&Message{ID: r.ID, Error: Fault(err)})
		return
	}
	if !v.questions.Allow() {
		v.reply(&Message{ID: r.ID, Error: &Error{"rate_limited", "too many questions; wait a little"}})
		return
	}
	select {
	case v.asking <- struct{}{}:
	default:
		v.reply(&Message{ID: r.ID, Error: &Error{"busy", "two questions are being answered; wait for one"}})
		return
	}
	q := Question{
		ID: fmt.Sprintf("ask-%s-%d", v.id[:8], v.asked.Add(1)), Stream: r.Stream, Text: text,
		Viewer: v.id, Since: time.Duration(r.SinceMS) * time.Millisecond,
	}
	v.send(ChannelControl, &Message{Type: "accepted", ID: r.ID, Prompt: q.ID})
	v.spawn(func() {
		defer func() { <-v.asking }()
		ctx, cancel := context.WithTimeout(v.ctx, v.srv.cfg.AskTimeout)
		defer cancel()
		ev, err := v.srv.backend.Ask(ctx, q)
		if err != nil {
			v.failed(r, err)
			return
		}
		v.reply(&Message{ID: r.ID, Prompt: q.ID, Event: ev})
	})
}

// prompt sets or takes back this viewer's own prompt.
func (v *viewer) prompt(ctx context.Context, stream, text string) error {
	text = strings.TrimSpace(text)
	if text != "" {
		var err error
		if text, err = CheckText("prompt", text); err != nil {
			return err
		}
	}
	if err := v.srv.backend.SetPrompt(ctx, stream, v.id, text); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if text == "" {
		delete(v.prompts, stream)
	} else {
		v.prompts[stream] = struct{}{}
	}
	return nil
}

// hush ends the subscriptions and takes back the prompts of a viewer that has
// left.
func (v *viewer) hush() {
	v.hearing.Lock()
	for _, f := range v.feeds {
		f.Close()
	}
	v.hearing.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for s := range v.prompts {
		if err := v.srv.backend.SetPrompt(ctx, s, v.id, ""); err != nil {
			v.log.Warn("viewer's prompt not taken back", "error", err)
		}
	}
}
