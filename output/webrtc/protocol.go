package webrtc

import (
	"context"
	_ "embed"
	"errors"
	"time"

	"github.com/lookout-video/lookout/event"
)

// Protocol is the version of the data-channel protocol (docs/protocol.md).
const Protocol = 1

// Schema is the JSON Schema of every message of the protocol.
//
//go:embed protocol.schema.json
var Schema []byte

// The data channels, by label. The viewer opens those it wants.
const (
	ChannelEvents  = "events"  // reliable, ordered: Message hello, event, lost
	ChannelText    = "text"    // may be unordered: Message delta, lost
	ChannelControl = "control" // reliable, ordered: Request; Message accepted, reply
)

// Message is what the server sends on a data channel; Type says which fields
// it has.
type Message struct {
	Type string `json:"type"` // hello, event, delta, lost, accepted, reply

	// hello
	Protocol int    `json:"protocol,omitempty"`
	Viewer   string `json:"viewer,omitempty"`
	Stream   string `json:"stream,omitempty"` // hello, and lost when it is one stream's

	Event *event.Event `json:"event,omitempty"` // event, and the reply to ask
	Delta *event.Delta `json:"delta,omitempty"`

	// lost: how many events, deltas or pictures this viewer missed, and why:
	// "slow" (its own connection) or "history" (older than what is kept).
	Events   uint64 `json:"events,omitempty"`
	Deltas   uint64 `json:"deltas,omitempty"`
	Pictures uint64 `json:"pictures,omitempty"`
	Reason   string `json:"reason,omitempty"`

	// accepted and reply: ID is the request's. Prompt marks the deltas and the
	// event that answer a question. A reply without Error is a success.
	ID     int64      `json:"id,omitempty"`
	Prompt string     `json:"prompt,omitempty"`
	Error  *Error     `json:"error,omitempty"`
	Time   *time.Time `json:"time,omitempty"` // the server's clock, in the reply to ping
}

// Request is what a viewer sends on the control channel.
type Request struct {
	// ID comes back in the reply. It is positive.
	ID int64 `json:"id"`
	// Op is ask, prompt, labels, subscribe, unsubscribe or ping.
	Op string `json:"op"`
	// Stream is the stream of ask, prompt and labels. It defaults to the one
	// that the session plays.
	Stream string `json:"stream,omitempty"`
	// Question and SinceMS (how far back it looks; 0: now) belong to ask.
	Question string `json:"question,omitempty"`
	SinceMS  int64  `json:"since_ms,omitempty"`
	// Text is this viewer's own prompt; empty takes it back.
	Text string `json:"text,omitempty"`
	// Labels replace the stream's zero-shot labels.
	Labels []string `json:"labels,omitempty"`
	// Streams of subscribe and unsubscribe; "*" is all. After holds, by stream,
	// the last Seq that the viewer has: what came later is sent first. A stream
	// that is not in it starts with its newest events.
	Streams []string          `json:"streams,omitempty"`
	After   map[string]uint64 `json:"after,omitempty"`
}

// Error says why a request failed.
type Error struct {
	// Code is invalid, forbidden, not_found, exists, busy, rate_limited,
	// timeout or internal; of Patch also precondition_required and
	// precondition_failed.
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Is lets errors.Is find the sentinel that the code stands for.
func (e *Error) Is(target error) bool {
	for _, c := range codes {
		if c.code == e.Code {
			return c.err == target
		}
	}
	return false
}

var codes = []struct {
	err  error
	code string
}{{ErrNotFound, "not_found"}, {ErrExists, "exists"}, {ErrInvalid, "invalid"}, {ErrBusy, "busy"}}

// Fault turns err into what an outsider may be told: the whole text of the
// errors that a caller can act on, and nothing of the others.
func Fault(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return &Error{c.code, err.Error()}
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &Error{"timeout", "no answer in time; try again"}
	}
	return &Error{"internal", "failed inside; the server's log says why"}
}
