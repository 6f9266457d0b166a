// Package webhook delivers events to an HTTP endpoint, signed as the Standard
// Webhooks specification says (https://www.standardwebhooks.com), so that
// receivers can verify them with the libraries that exist.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/outbox"
)

// Config configures a Hook.
type Config struct {
	// URL is where events are posted: http or https.
	URL string
	// Secret signs each request. One that begins with "whsec_" is base64 after
	// that, as the specification's libraries make them; any other is taken as it
	// is. It defaults to none: then requests are not signed.
	Secret string
	// Header is added to each request. It defaults to none.
	Header http.Header
	// Types are the event kinds to send ("alert", "status" and so on). It defaults
	// to all.
	Types []string
	// Client sends the requests. It defaults to one that follows no redirects.
	Client *http.Client
}

// Hook posts events one by one, in order. It is the Sink of an outbox, which
// does the retries.
type Hook struct {
	cfg    Config
	key    []byte
	target string // for messages; no secrets in it
	kinds  map[string]bool
	now    func() time.Time
}

var _ outbox.Sink = (*Hook)(nil)

// Open makes a Hook. It does not connect.
func Open(cfg Config) (*Hook, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("webhook: the URL must be http://host/path or https://host/path")
	}
	h := &Hook{cfg: cfg, target: u.Scheme + "://" + u.Host + u.Path, key: []byte(cfg.Secret), now: time.Now}
	if b64, ok := strings.CutPrefix(cfg.Secret, "whsec_"); ok {
		if h.key, err = base64.StdEncoding.DecodeString(b64); err != nil {
			return nil, errors.New("webhook: the secret begins with whsec_ but is not base64 after that")
		}
	}
	if len(cfg.Types) > 0 {
		h.kinds = map[string]bool{}
		for _, k := range cfg.Types {
			h.kinds[k] = true
		}
	}
	if h.cfg.Client == nil {
		h.cfg.Client = &http.Client{
			Transport:     http.DefaultTransport.(*http.Transport).Clone(),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return h, nil
}

// Deliver posts evs in order. An event whose answer was lost is posted again:
// receivers tell repetitions by the header webhook-id, the event's id.
func (h *Hook) Deliver(ctx context.Context, evs []*event.Event) error {
	for i, ev := range evs {
		if h.kinds != nil && !h.kinds[event.Kind(ev.Type)] {
			continue
		}
		if err := h.post(ctx, ev); err != nil {
			return &outbox.PartialError{Taken: i, Err: err}
		}
	}
	return nil
}

// Sign is the value of the header webhook-signature for a message: for
// receivers in Go.
func Sign(key []byte, id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func (h *Hook) post(ctx context.Context, ev *event.Event) error {
	body, err := json.Marshal(ev)
	if err != nil {
		return fmt.Errorf("webhook %s: event %s: %w: %w", h.target, ev.ID, err, outbox.ErrRefused)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("webhook %s: the request cannot be made", h.target)
	}
	for k, v := range h.cfg.Header {
		req.Header[k] = v
	}
	at := h.now()
	req.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	req.Header.Set("User-Agent", "lookout")
	req.Header.Set("webhook-id", ev.ID)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	if len(h.key) > 0 {
		req.Header.Set("webhook-signature", Sign(h.key, ev.ID, at, body))
	}
	res, err := h.cfg.Client.Do(req)
	if err != nil {
		var ue *url.Error // it quotes the URL, which may hold a token
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return fmt.Errorf("webhook %s: %w", h.target, err)
	}
	defer res.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20)) // so that the connection is used again
	if res.StatusCode/100 == 2 {
		return nil
	}
	return h.failed(ev, res, strings.TrimSpace(string(said)))
}

func (h *Hook) failed(ev *event.Event, res *http.Response, said string) error {
	err := fmt.Errorf("webhook %s: event %s: answered %s %q", h.target, ev.ID, res.Status, said)
	switch res.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		// About this event, and the same next time. Other refusals (a wrong token, a
		// path that is gone) are about the endpoint: mended there, nothing is lost.
		return fmt.Errorf("%w: %w", err, outbox.ErrRefused)
	case http.StatusUnauthorized, http.StatusForbidden:
		err = fmt.Errorf("%w: check the secret and the header", err)
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone:
		err = fmt.Errorf("%w: check the URL", err)
	}
	if res.StatusCode/100 == 3 {
		err = fmt.Errorf("%w: it redirects, and redirects are not followed: use the URL it names", err)
	}
	if d, ok := retryAfter(res.Header.Get("Retry-After"), h.now()); ok {
		return &laterError{err, d}
	}
	return err
}

func retryAfter(s string, now time.Time) (time.Duration, bool) {
	if sec, err := strconv.Atoi(s); err == nil && sec >= 0 {
		return time.Duration(min(sec, 24*3600)) * time.Second, true
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(at.Sub(now), 0), true
	}
	return 0, false
}

// laterError is a failure with the wait that the receiver asked for.
type laterError struct {
	error
	wait time.Duration
}

func (e *laterError) Unwrap() error             { return e.error }
func (e *laterError) RetryAfter() time.Duration { return e.wait }

// Close closes idle connections.
func (h *Hook) Close() error {
	h.cfg.Client.CloseIdleConnections()
	return nil
}
