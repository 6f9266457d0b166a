// Package eval scores what was said of a video against what happened in it. It
// reads sentences the way a strict person would, so that a model can be
// compared with the truth instead of with another text.
package eval

import (
	"context"
	"time"
)

// Mode says how an Engine feeds a clip's frames to the temporal module.
type Mode int

const (
	// Normal is the shipped way: frames in order, state kept.
	Normal Mode = iota
	// Reset clears the temporal state, and what the session holds, before each
	// frame: the model sees pictures, never a video.
	Reset
	// Shuffled feeds the window's frames in an order drawn from a fixed seed.
	Shuffled
)

func (m Mode) String() string {
	return [...]string{"normal", "reset", "shuffled"}[m]
}

// Engine is what is scored: the shipped model behind the shipped pipeline.
type Engine interface {
	// Open starts at the beginning of the video file.
	Open(ctx context.Context, video string, mode Mode) (Stream, error)
	// Skills tells what a Stream may be asked for: other scores have an n of 0.
	Skills() Skills
}

// Skills are what a model can do.
type Skills struct {
	Words   bool // Describe and Ask
	Changes bool
	Labels  bool
	Domain  bool // knows what is unlike its training
}

// Stream is one run of an Engine through one video.
type Stream interface {
	// Advance feeds the frames sampled at a media time up to until that were not
	// fed yet, and returns how many. It returns io.EOF, with the count, when the
	// video has no more frames; the other methods still work then.
	Advance(ctx context.Context, until time.Duration) (frames int, err error)
	// Describe says what is seen, Changes what happened in the last second
	// (Answer.Nothing when the pipeline would stay silent).
	Describe(ctx context.Context) (Answer, error)
	Changes(ctx context.Context) (Answer, error)
	Ask(ctx context.Context, question string) (Answer, error)
	// Labels gives each label's zero-shot score for the newest frame; only their
	// order is used.
	Labels(ctx context.Context, labels []string) ([]float64, error)
	// OutOfDomain tells whether the stream was flagged as unlike the training.
	OutOfDomain() bool
	Close() error
}

// Answer is one text that an Engine gave.
type Answer struct {
	Text string
	// YesProb is the probability of "yes", from 0 to 1. It is read only when
	// HasYes is set; else the text counts as certain.
	HasYes  bool
	YesProb float64
	// Nothing means there was nothing to tell, CannotTell that it can't be seen.
	Nothing    bool
	CannotTell bool
	// Took is the time from the request to the last word.
	Took time.Duration
}
