// Package pipeline wires the stages of one stream together (frames, visual
// tokens, stream memory, words, events), runs many such streams on one
// machine, and reloads them. It alone knows the stages; they do not know
// each other.
package pipeline

import (
	"context"
	"iter"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

// FrameSource gives sampled, scaled frames. ReadFrame fills dst, reusing its
// buffer, and returns io.EOF at the end of a source that ends.
type FrameSource interface {
	ReadFrame(ctx context.Context, dst *media.Frame) error
	Close() error
}

// Encoded is what the visual encoder says of a batch of frames. The slices
// are the caller's; a nil slice is not computed or not copied out.
type Encoded struct {
	Tokens   tensor.View[float32] // [frames, patches, dim]
	Image    tensor.View[float32] // [frames, embed], unit length
	Distance []float32            // [frames], novelty of domain; larger is stranger
}

// VisualEncoder turns frames into visual tokens.
type VisualEncoder interface {
	Encode(ctx context.Context, frames []*media.Frame, dst *Encoded) error
}

// Session is one stream's conversation with the language model: its KV cache
// and the frames in it.
type Session interface {
	// AppendFrame adds one frame's visual tokens, [tokens, width], evicting
	// the oldest frames when the window is full.
	AppendFrame(ctx context.Context, tokens tensor.View[float32]) error
	// Ask generates the answer to prompt after a mark and rewinds to it when
	// the iteration ends, however it ends.
	Ask(ctx context.Context, prompt string) iter.Seq2[string, error]
	Close() error
}

// Sink delivers events to the outside. Publish may block only as long as its
// own bounded queue or outbox needs.
type Sink interface {
	Publish(ctx context.Context, ev *event.Event) error
	Close() error
}
