package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

// Looker is the seeing half of a stream: gate, encoder, temporal memory, and
// the session that the frames go into. It says nothing of its own accord. It is
// for one goroutine.
type Looker struct {
	info    ModelInfo
	batch   *Batcher
	memory  StreamMemory // nil when the model has none
	session Session
	thrifty Thrifty // the session, when it can leave out tokens

	place  place // in the encoder's queue
	gate   gate
	enc    Encoded
	expect *media.Frame // what Expect told, until its encoding has begun
	begun  begun
	spare  Encoded              // where that is encoded
	tokens tensor.View[float32] // [patches, dim] of the last encoded frame
	recent []bool               // of the last frames: unlike the training
	at     int
	ood    bool
	novel  float32
}

// begun is a frame that is encoded before its Look: frame is nil when there is none.
type begun struct {
	frame   *media.Frame
	pass    bool           // the gate lets it through
	held    int            // frames that the gate has held back until then
	request *encodeRequest // nil when it does not pass
}

// domainWindow is how many frames decide whether the scene is known, and
// domainLeast how many it takes at least.
const domainWindow, domainLeast = 8, 3

// NewLooker makes a Looker with its own memory and session. gateThreshold is
// configs.Stream.Gate.
func NewLooker(m *Models, b *Batcher, gateThreshold float64) (*Looker, error) {
	s, err := m.NewSession()
	if err != nil {
		return nil, fmt.Errorf("pipeline: new session: %w", err)
	}
	i := m.Info
	l := &Looker{info: i, batch: b, session: s, gate: gate{threshold: gateThreshold}, recent: make([]bool, 0, domainWindow), enc: oneEncoded(i)}
	if m.NewMemory != nil {
		if l.memory, err = m.NewMemory(); err != nil {
			return nil, errors.Join(fmt.Errorf("pipeline: new memory: %w", err), s.Close())
		}
	}
	l.tokens = l.enc.Tokens.At(0)
	l.thrifty, _ = s.(Thrifty)
	return l, nil
}

// oneEncoded has room for one frame.
func oneEncoded(i ModelInfo) Encoded {
	e := Encoded{Tokens: tensor.Make[float32](1, i.Patches, i.Dim)}
	if i.Embed > 0 {
		e.Image = tensor.Make[float32](1, i.Embed)
	}
	if i.Patched {
		e.Patch = tensor.Make[float32](1, i.Patches, i.Embed)
	}
	if i.DomainThreshold > 0 {
		e.Distance = make([]float32, 1)
	}
	return e
}

// Seen is what one frame showed.
type Seen struct {
	// Encoded is false for a frame that the gate held back: nothing in it was
	// new. Settled says that so many were held back in a row that the window
	// holds nothing else.
	Encoded, Settled bool
	// Novelty is 0 for a frame as those before and 1 for one that is all new.
	Novelty float32
	// Distance is that from the training's domain, Strange whether this frame is
	// too far, OutOfDomain the verdict over the last frames.
	Distance             float32
	Strange, OutOfDomain bool
	// Picture is what it looks like, valid until the next Look; empty when the
	// model has no such space.
	Picture Picture
	// Visual is what the session got, valid until the next Look; empty when that
	// was nothing.
	Visual tensor.View[float32]
	// EncodeTime is what encoder and memory took.
	EncodeTime time.Duration
}

// Look takes in the next frame. A frame that shows nothing new costs no
// encoding: the tokens before stand for it, until the window is full of them
// and nothing more is to be done.
func (l *Looker) Look(ctx context.Context, f *media.Frame) (Seen, error) {
	began := time.Now()
	pass, held, err := l.encode(ctx, f)
	seen := Seen{Encoded: pass, Settled: held > 2*l.info.Window, OutOfDomain: l.ood, Picture: l.picture(), Novelty: l.novel}
	if err != nil {
		if errors.Is(err, errLate) {
			l.gate.forget()
		}
		return seen, fmt.Errorf("encode: %w", err)
	}
	if l.expect != nil {
		l.begin(l.expect)
		l.expect = nil
	}
	if len(l.enc.Distance) > 0 {
		seen.Distance = l.enc.Distance[0]
		seen.Strange = seen.Distance > l.info.DomainThreshold
		seen.OutOfDomain = l.judge(seen.Strange)
	}
	if seen.Settled {
		return seen, nil
	}
	visual := l.tokens
	if l.memory != nil {
		step, err := l.memory.Step(ctx, f.At, l.tokens)
		if err != nil {
			return seen, fmt.Errorf("temporal step: %w", err)
		}
		visual, seen.Novelty = step.Visual, step.Novelty
		l.novel = step.Novelty
	}
	seen.EncodeTime, seen.Visual = time.Since(began), visual
	if err := l.session.Append(ctx, f, visual); err != nil {
		return seen, fmt.Errorf("append a frame: %w", err)
	}
	return seen, nil
}

// Expect tells which frame comes after that of the next Look: it is encoded while
// that one is remembered and read, so that a file takes less time. It must not
// change before its own Look.
func (l *Looker) Expect(f *media.Frame) { l.expect = f }

// encode leaves in l.enc what f looks like, or what the last one did that passed
// the gate. held is how many the gate has held back since.
func (l *Looker) encode(ctx context.Context, f *media.Frame) (pass bool, held int, err error) {
	if l.begun.frame != f {
		l.drop()
		if pass = l.gate.pass(f); pass {
			err = l.batch.encodeAt(ctx, f, &l.enc, &l.place)
		}
		return pass, l.gate.held, err
	}
	b := l.begun
	l.begun = begun{}
	if b.request != nil {
		err = l.batch.end(ctx, b.request)
		l.enc, l.spare = l.spare, l.enc
		l.tokens = l.enc.Tokens.At(0)
	}
	return b.pass, b.held, err
}

// begin begins to encode a frame whose Look is the next.
func (l *Looker) begin(f *media.Frame) {
	if l.spare.Tokens.Data == nil {
		l.spare = oneEncoded(l.info)
	}
	l.begun = begun{frame: f, pass: l.gate.pass(f), held: l.gate.held}
	if l.begun.pass {
		l.begun.request = l.batch.begin(f, &l.spare, &l.place)
	}
}

// drop lets go of a frame that was expected and did not come.
func (l *Looker) drop() {
	if l.begun.request != nil {
		l.batch.drop(l.begun.request)
		l.gate.forget()
	}
	l.begun = begun{}
}

func (l *Looker) picture() Picture {
	p := Picture{Image: l.enc.Image.Data}
	if len(l.enc.Patch.Data) > 0 {
		p.Patch = l.enc.Patch.At(0)
	}
	return p
}

// judge decides over the last frames, with hysteresis, so that one odd frame
// neither raises nor clears the alarm.
func (l *Looker) judge(strange bool) bool {
	if len(l.recent) < domainWindow {
		l.recent = append(l.recent, strange)
	} else {
		l.recent[l.at] = strange
		l.at = (l.at + 1) % domainWindow
	}
	n := 0
	for _, s := range l.recent {
		if s {
			n++
		}
	}
	switch {
	case len(l.recent) < domainLeast:
	case n*4 >= len(l.recent)*3:
		l.ood = true
	case n*4 <= len(l.recent):
		l.ood = false
	}
	return l.ood
}

// Answer is a whole answer.
type Answer struct {
	Text       string
	HasYes     bool
	YesProb    float64
	Nothing    bool
	CannotTell bool
	Doubted    int // sentences left out
	// First and Took are from the asking to the first piece and to the last.
	First, Took time.Duration
}

// Say lets the session answer r. on, when not nil, gets each piece as it comes.
func (l *Looker) Say(ctx context.Context, r Request, on func(Piece)) (Answer, error) {
	var a Answer
	var text strings.Builder
	began := time.Now()
	first := true
	for p, err := range l.session.Generate(ctx, r) {
		if err != nil {
			return a, fmt.Errorf("generate: %w", err)
		}
		if first {
			a.First, first = time.Since(began), false
			a.HasYes, a.YesProb = p.HasYes, p.YesProb
		}
		a.Nothing, a.CannotTell = a.Nothing || p.Nothing, a.CannotTell || p.CannotTell
		a.Doubted += p.Doubted
		text.WriteString(p.Text)
		if on != nil {
			on(p)
		}
	}
	a.Text, a.Took = strings.TrimSpace(text.String()), time.Since(began)
	return a, nil
}

// Forget drops the temporal memory, keeping the session: what a model without
// a memory of the frames before would see.
func (l *Looker) Forget() {
	if l.memory != nil {
		l.memory.Reset()
	}
}

// Reset makes the Looker as new: for a source that came back as another scene.
func (l *Looker) Reset() error {
	l.Forget()
	l.drop()
	l.expect = nil
	l.gate = gate{threshold: l.gate.threshold}
	l.recent, l.at, l.ood, l.novel = l.recent[:0], 0, false, 0
	return l.session.Reset()
}

// Close frees the session and the memory.
func (l *Looker) Close() error {
	l.drop()
	err := l.session.Close()
	if l.memory != nil {
		err = errors.Join(err, l.memory.Close())
	}
	return err
}
