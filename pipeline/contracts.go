// Package pipeline wires the stages of one stream together (frames, visual
// tokens, stream memory, words, events), runs many such streams on one
// machine, and reloads them. It alone knows the stages; they do not know
// each other. The stages' cgo stays behind the interfaces below; package
// pipeline/engine fills them in.
package pipeline

import (
	"context"
	"iter"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

// Source gives sampled, scaled frames. ReadFrame fills dst, reusing its buffer,
// and returns io.EOF at the end of a source that ends. Still is safe beside it.
type Source interface {
	ReadFrame(ctx context.Context, dst *media.Frame) error
	// Still is the JPEG of a recent sampled frame, scaled down to width.
	Still(seq uint64, width int) ([]byte, error)
	// Calm tells how the newest frame was found: still when neither it nor those
	// before it showed anything new. The source may spare itself what a still scene
	// does not need. It is safe beside ReadFrame.
	Calm(still bool)
	// Counters says what was read so far.
	Counters() SourceCounters
	Close() error
}

// SourceCounters counts what a source has read since it was first opened.
type SourceCounters struct {
	Packets, Decoded, Sampled, DecodeErrors, Reconnects uint64
	// Undecoded frames of a still scene were known to be as those before.
	Undecoded uint64
	// Width and Height are the source's own; FPS is its frame rate as it comes.
	Width, Height int
	FPS           float64
	// Rotation is by how many degrees, clockwise, the coded picture is turned.
	Rotation int
	// Reordered says that pictures are not coded in the order they are shown
	// (B-frames): browsers cannot play that as it is.
	Reordered bool
}

// Encoded is what the visual encoder says of a batch of frames. The slices
// are the caller's; a nil slice is not computed or not copied out.
type Encoded struct {
	Tokens   tensor.View[float32] // [frames, patches, dim]
	Image    tensor.View[float32] // [frames, embed], unit length
	Patch    tensor.View[float32] // [frames, patches, embed], unit length
	Distance []float32            // [frames], distance from the training domain; larger is stranger
}

// VisualEncoder turns frames into visual tokens. It is shared by all streams.
type VisualEncoder interface {
	Encode(ctx context.Context, frames []*media.Frame, dst *Encoded) error
}

// Step is what one new frame adds to what is known of the stream. Its data is
// valid until the next Step.
type Step struct {
	Visual  tensor.View[float32] // [tokens, width], for the session
	Novelty float32              // 0: as before, 1: all new
}

// StreamMemory is one stream's temporal attention: the frames before, as keys
// and values.
type StreamMemory interface {
	Step(ctx context.Context, at media.Timestamp, tokens tensor.View[float32]) (Step, error)
	Reset()
	Close() error
}

// Task is what a session is asked to do.
type Task int

// The tasks.
const (
	Describe Task = iota // say what is there
	Changes              // say what happened just now, or that nothing did
	Ask                  // answer Request.Text
)

// Request is one thing to say.
type Request struct {
	Task Task
	// Text is the question, or the prompt of a description for models that
	// take one.
	Text string
	// MaxTokens bounds the answer. It defaults to 0: the model's own bound.
	MaxTokens int
}

// Piece is a part of an answer. The flags and YesProb come with the first.
type Piece struct {
	Text       string
	HasYes     bool    // the question is a yes/no one
	YesProb    float64 // calibrated probability of "yes"
	Nothing    bool    // the model says that nothing is new
	CannotTell bool    // the model abstains
	Doubted    int     // sentences left out, which the model was not sure of; with the last piece
}

// Session is one stream's conversation with the language model: its KV cache
// and the frames in it. It is for one goroutine.
type Session interface {
	// Append adds one frame, as visual tokens [tokens, width] for a local model
	// and as the picture for a remote one, evicting the oldest frames when the
	// window is full.
	Append(ctx context.Context, f *media.Frame, visual tensor.View[float32]) error
	// Generate answers after a mark and rewinds to it when the iteration ends,
	// however it ends: the answer's cost is the question and the answer.
	Generate(ctx context.Context, r Request) iter.Seq2[Piece, error]
	Reset() error
	Close() error
}

// Thrifty is a Session that can leave out visual tokens that tell nothing new.
type Thrifty interface {
	Session
	// Reduce sets the cosine above which it does, as configs.Stream.Reduce.
	Reduce(above float64)
	// Reduced tells what became of the tokens so far.
	Reduced() VisualTokens
}

// VisualTokens counts the visual tokens of the frames before the newest, in a
// stream whose session leaves some out: those that stay in the window, and those
// that the next frame's stand for.
type VisualTokens struct{ Kept, Merged uint64 }

// Labeler gives zero-shot labels from an image embedding.
type Labeler interface {
	// Text gives the unit-length embedding of a text.
	Text(ctx context.Context, text string) ([]float32, error)
	// Classify gives cosine and probability of each label, in their order.
	Classify(ctx context.Context, p Picture, labels []string) ([]event.Label, error)
}

// Picture is what one frame looks like, in the space that texts share.
type Picture struct {
	Image []float32 // [embed], unit length
	// Patch is [patches, embed], unit length; without data when the model places
	// whole pictures only.
	Patch tensor.View[float32]
}

// Models is a loaded model: what is shared by all streams, and how a stream
// gets its own part.
type Models struct {
	Info    ModelInfo
	Encoder VisualEncoder
	// Labeler is nil when the model has no text tower.
	Labeler Labeler
	// NewMemory is nil when the model has no temporal module: the encoder's
	// tokens go to the session as they are.
	NewMemory  func() (StreamMemory, error)
	NewSession func() (Session, error)
}

// ModelInfo is what the pipeline has to know of a model.
type ModelInfo struct {
	Name, Hash    string
	Width, Height int     // of the frames it takes
	FPS           float64 // at which it was made to look
	Window        int     // frames that an answer can rest on
	Patches, Dim  int     // of the encoder's tokens for one frame
	Embed         int     // of the image embedding; 0: none
	Batch         int     // frames for which one call of the encoder costs less than a call each; 0: it never does
	Patched       bool    // each patch has an embedding too
	Changes       bool    // knows the Changes task
	Silent        bool    // has no language model: labels and search only
	Pictures      bool    // its sessions read the frames' pictures, not the tokens
	SpeakAt       float32 // novelty under which nothing is said; 0: there is no such measure
	Labels        []string
	// DomainThreshold is the Distance above which a frame is unlike the
	// training's. It defaults to 0: the model has no such measure.
	DomainThreshold float32
	// Domain says what the model was trained on, for people.
	Domain string
}
