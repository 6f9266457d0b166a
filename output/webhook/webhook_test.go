package webhook

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ev(seq uint64, typ string) *event.Event {
	return event.New(typ, time.Unix(1e9, 0).UTC(), event.Data{Stream: "a", Seq: seq, EventID: fmt.Sprint("e", seq), Phase: event.Point,
		Status: &event.Status{State: "live"}, Prompt: &event.Prompt{ID: "p"}})
}

// TestSignatureVector is the example of the Standard Webhooks specification's
// reference libraries.
func TestSignatureVector(t *testing.T) {
	key, _ := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	got := Sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestThroughTheOutbox(t *testing.T) {
	var (
		mu    sync.Mutex
		got   []string
		calls int
	)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls++
		body, _ := io.ReadAll(r.Body)
		id := r.Header.Get("webhook-id")
		sec, _ := strconv.ParseInt(r.Header.Get("webhook-timestamp"), 10, 64)
		if r.Header.Get("webhook-signature") != Sign([]byte("pw"), id, time.Unix(sec, 0), body) {
			t.Errorf("%s: wrong signature", id)
		}
		if r.Header.Get("X-Token") != "t" || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents+json") {
			t.Errorf("header %v", r.Header)
		}
		e, err := event.Parse(body)
		if err != nil || e.ID != id {
			t.Errorf("body of %s: %v", id, err)
		}
		switch {
		case calls%4 == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case calls%7 == 0:
			panic(http.ErrAbortHandler) // the connection breaks
		case id == "e5.0":
			http.Error(w, "no such camera", http.StatusUnprocessableEntity)
		default:
			if len(got) == 0 || got[len(got)-1] != id {
				got = append(got, id)
			}
		}
	}))
	defer srv.Close()
	h, err := Open(Config{URL: srv.URL + "/hook", Secret: "pw", Header: http.Header{"X-Token": {"t"}}, Types: []string{"status"}})
	if err != nil {
		t.Fatal(err)
	}
	box, err := outbox.Open(outbox.Config{Path: filepath.Join(t.TempDir(), "w.db"), MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond, Batch: 3}, h)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	for i := range uint64(10) {
		typ := event.TypeStatus
		if i == 2 { // number 3 is of a type that is not wanted
			typ = event.TypeAnswer
		}
		if err := box.Publish(t.Context(), ev(i+1, typ)); err != nil {
			t.Fatal(err)
		}
	}
	go func() { _ = box.Run(t.Context()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := box.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	// A failed batch comes again from its beginning, so ids may repeat, but each
	// first appears in order.
	seen, first := map[string]bool{}, []string{}
	for _, id := range got {
		if !seen[id] {
			first = append(first, id)
		}
		seen[id] = true
	}
	if s := strings.Join(first, " "); s != "e1.0 e2.0 e4.0 e6.0 e7.0 e8.0 e9.0 e10.0" {
		t.Errorf("received %s", s)
	}
	if st := box.Stats(); st.Refused != 1 || st.Pending != 0 {
		t.Errorf("%+v", st)
	}
}

func TestFailures(t *testing.T) {
	var status int
	var after string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}))
	defer srv.Close()
	h, err := Open(Config{URL: srv.URL + "/hook?token=s3cret"})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	h.now = func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		status  int
		after   string
		refused bool
		wait    time.Duration
		says    string
	}{
		{400, "", true, 0, ""}, {413, "", true, 0, ""}, {415, "", true, 0, ""}, {422, "", true, 0, ""},
		{401, "", false, 0, "check the secret"}, {404, "", false, 0, "check the URL"}, {410, "", false, 0, "check the URL"},
		{429, "120", false, 2 * time.Minute, ""}, {503, "Thu, 01 Jan 2026 00:01:00 GMT", false, time.Minute, ""},
		{503, "soon", false, 0, ""}, {500, "", false, 0, ""}, {302, "", false, 0, "not followed"},
	} {
		status, after = c.status, c.after
		err := h.Deliver(t.Context(), []*event.Event{ev(1, event.TypeStatus)})
		if err == nil || errors.Is(err, outbox.ErrRefused) != c.refused || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%d: %v", c.status, err)
		}
		var ra interface{ RetryAfter() time.Duration }
		if got := errors.As(err, &ra); got != (c.wait > 0) || got && ra.RetryAfter() != c.wait {
			t.Errorf("%d: waits %v, want %v", c.status, err, c.wait)
		}
		if strings.Contains(fmt.Sprint(err), "s3cret") {
			t.Errorf("the token is in: %v", err)
		}
	}
	srv.Close()
	if err := h.Deliver(t.Context(), []*event.Event{ev(1, event.TypeStatus)}); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []Config{{}, {URL: "ftp://x"}, {URL: "host/path"}, {URL: "http://x", Secret: "whsec_!"}} {
		if _, err := Open(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}
