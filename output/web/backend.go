package web

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/webrtc"
)

// Backend is what the server needs of the pipeline. Its methods are called by
// many goroutines at once and return webrtc.ErrNotFound, ErrExists, ErrInvalid
// or ErrBusy, wrapped, where those apply.
type Backend interface {
	webrtc.Backend

	// Streams lists all streams, in the order of the configuration.
	Streams() []StreamInfo
	// AddStream starts a stream from its configuration (the keys of one entry
	// of `streams` in lookout.yaml, as JSON) and keeps it across restarts.
	AddStream(ctx context.Context, config json.RawMessage) (StreamInfo, error)
	// ChangeStream lays the keys of patch over the stream's configuration.
	ChangeStream(ctx context.Context, stream string, patch json.RawMessage) (StreamInfo, error)
	// RemoveStream stops a stream and forgets it.
	RemoveStream(ctx context.Context, stream string) error

	// Still gives a picture as JPEG, scaled down to width pixels (0: as it is).
	// frame is Evidence.Frame of an event; 0 is the newest picture.
	Still(ctx context.Context, stream string, frame uint64, width int) ([]byte, error)
	// Clip opens the video around an alert's start. The caller closes it.
	Clip(ctx context.Context, stream, eventID string) (*Clip, error)
	// Search finds past events by their words and pictures, best first, at most
	// k; an empty stream searches all.
	Search(ctx context.Context, query, stream string, k int) ([]Hit, error)
	// Ready is nil once the model is loaded and streams may run; else it says
	// what is missing.
	Ready() error
}

// StreamInfo is one stream as viewers see it. It holds no secret: Source has
// its password taken out.
type StreamInfo struct {
	Name   string `json:"name"`
	Title  string `json:"title,omitempty"`
	Source string `json:"source,omitempty"`
	Loop   bool   `json:"loop,omitempty"`   // a file begins again at its end
	Prompt string `json:"prompt,omitempty"` // what a public model is asked for its description
	// State is that of event.Status: connecting, live, reconnecting, ended,
	// failed; Reason and Fix explain it.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	Fix    string `json:"fix,omitempty"`

	Codec  string `json:"codec,omitempty"` // of the camera
	Width  int    `json:"width,omitempty"`
	Height int    `json:"height,omitempty"`

	// FPS is the camera's frame rate as it arrives; LookFPS how many frames a
	// second the model looks at.
	FPS     float64 `json:"fps"`
	LookFPS float64 `json:"look_fps"`
	// GlassToWordMS is the recent median from capture to the first word.
	GlassToWordMS float64 `json:"glass_to_word_ms"`
	// Skipped counts frames that were not looked at, by reason (sampled,
	// still, busy, ...).
	Skipped map[string]uint64 `json:"skipped,omitempty"`
	// Degraded says which cuts are in force under load, empty when none.
	Degraded string `json:"degraded,omitempty"`
	Viewers  int    `json:"viewers"`
	Seq      uint64 `json:"seq"` // of the stream's newest event

	Labels []string       `json:"labels,omitempty"` // zero-shot labels in force
	Scores []event.Label  `json:"scores,omitempty"` // their newest probabilities
	Alerts []event.Prompt `json:"alerts,omitempty"` // standing yes/no questions
}

// Clip is the video around an alert's start.
type Clip struct {
	io.ReadSeekCloser
	Start  time.Time // capture of its first picture
	Format string    // mp4 or webm
}

// Hit is one past event that a search found.
type Hit struct {
	Event *event.Event `json:"event"`
	Score float64      `json:"score"` // larger is better
}
