package webrtc

import (
	"context"
	"errors"
	"time"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
)

// Errors that a Backend returns, wrapped, for the caller to decide on.
var (
	// ErrNotFound: there is no such stream, session or frame (any more).
	ErrNotFound = errors.New("not found")
	// ErrExists: the stream is there already, or somebody publishes to it.
	ErrExists = errors.New("exists already")
	// ErrInvalid: the request cannot be understood or is not allowed to be so.
	ErrInvalid = errors.New("invalid")
	// ErrBusy: a bound (sessions, questions waiting) is reached; try later.
	ErrBusy = errors.New("busy")
)

// Question is what somebody asks about a stream.
type Question struct {
	// ID becomes the Prompt.ID of the deltas and of the event that answer.
	ID     string
	Stream string
	Text   string
	// Viewer is copied to the deltas and the event; nobody else sees them.
	Viewer string
	// Since is how far back the question looks. 0 means now.
	Since time.Duration
}

// PushSink takes the access units of a published camera.
type PushSink interface {
	// Write hands over one packet, in the order of decoding. Its media time
	// begins at zero with each publication. Write must not block for long; p
	// is the sink's from then on.
	Write(p *media.Packet) error
	// Close ends the publication; the stream becomes a source that is away.
	Close() error
}

// Backend is what viewers and publishers need of the pipeline. Its methods are
// called by many goroutines at once.
type Backend interface {
	// Browser gives a tap whose packets a browser decodes: the camera's own
	// (H.264 without B-frames, VP8), else a VP8 transcode shared by all who
	// watch. release ends the watching and is called exactly once.
	Browser(ctx context.Context, stream string) (tap *media.Tap, release func(), err error)
	// Ask answers q. While it does, the deltas go out on the Bus with q's
	// Viewer and ID; the event goes there too and is returned.
	Ask(ctx context.Context, q Question) (*event.Event, error)
	// SetPrompt makes text what the stream is described by for this viewer
	// alone; an empty text takes it back. It ends with the viewer: a session
	// that ends calls SetPrompt with an empty text.
	SetPrompt(ctx context.Context, stream, viewer, text string) error
	// SetLabels replaces the stream's zero-shot labels.
	SetLabels(ctx context.Context, stream string, labels []string) error
	// Publish makes stream a source fed by the returned sink, adding the
	// stream when there is none. It returns ErrExists when the name belongs to
	// another kind of source or somebody publishes already.
	Publish(ctx context.Context, stream string, codec media.Codec) (PushSink, error)
}
