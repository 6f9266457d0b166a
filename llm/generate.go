package llm

import (
	"context"
	"fmt"
	"iter"
	"math"
	"strings"

	"github.com/lookout-video/lookout/internal/lane"
)

// Task is what a Request wants to know.
type Task int

// The tasks that the model is trained for.
const (
	// Describe says what the frames show now.
	Describe Task = iota
	// Changes says what happened, or nothing.
	Changes
	// Ask answers Request.Question.
	Ask
)

// Request asks about the frames in a Session.
type Request struct {
	Task Task
	// Question is for Ask. It is read in lower case, as the model was trained.
	Question string
	// MaxTokens bounds the answer. It defaults to the bundle's.
	MaxTokens int
	// Temperature above 0 draws at random; TopP (0 to 1, default 1) bounds what
	// is drawn from; Seed makes the draws repeatable. At 0 the answer is the
	// likeliest.
	Temperature, TopP float64
	Seed              uint64
}

// Stop tells why an answer ended.
type Stop string

// Why answers end.
const (
	StopEnd    Stop = "end"    // the model said so
	StopLength Stop = "length" // MaxTokens, or the context is full
	StopRepeat Stop = "repeat" // it went round in circles
)

// Piece is a part of an answer. The last piece has Stop, and may have no text.
type Piece struct {
	// Text is whole runes, to be put behind what came before.
	Text string
	// First is set on an answer's first piece.
	First bool
	// YesProb is the calibrated probability of yes against no at the answer's
	// first token. It counts when HasYes is set: the answer begins with one of
	// the two.
	YesProb float64
	HasYes  bool
	// Nothing is set when there is nothing new to tell, CannotTell when the
	// frames do not show the answer, or when each sentence of a description or
	// an answer was doubted. Either piece is the only one.
	Nothing, CannotTell bool
	// Tokens counts those made so far, for what was left out too.
	Tokens int
	// Doubted counts the sentences that were left out of the answer because the
	// model was not sure of them. It comes with the last piece.
	Doubted int
	Stop    Stop
}

// Generate answers req and leaves the session as it was, however the iteration
// ends. The session is taken until then: calling it from within the loop
// blocks for ever.
func (s *Session) Generate(ctx context.Context, req Request) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		if err := s.take(ctx); err != nil {
			yield(Piece{}, err)
			return
		}
		defer s.give()
		n := s.len
		defer func() { s.len = n }()
		if err := s.answer(ctx, req, func(p Piece) bool { return yield(p, nil) }); err != nil {
			yield(Piece{}, err)
		}
	}
}

// answer does not call give again once it returned false.
func (s *Session) answer(ctx context.Context, req Request, give func(Piece) bool) error {
	most := req.MaxTokens
	if most <= 0 {
		most = s.m.most
	}
	w, err := s.m.words(ctx, req)
	if err != nil {
		return err
	}
	n := len(w.ids)
	if room := s.m.dec.MaxContext - s.len - n; room < min(most, s.m.most) {
		return fmt.Errorf("%w: %d tokens, %d fit", ErrTooLong, n, n+room-min(most, s.m.most))
	} else if most > room {
		most = room
	}
	if err := s.hear(ctx, w); err != nil {
		return fmt.Errorf("llm: read the question: %w", err)
	}
	a := s.m.lanes.enter(s)
	defer s.m.lanes.leave(a)
	s.sampler.rng.Seed(req.Seed, 0)
	s.spoken = s.spoken[:0]
	t, text := s.m.ids, s.m.tok.Stream()
	first := Piece{First: true}
	logits := s.last(n)
	if req.Task == Ask {
		first.YesProb = 1 / (1 + math.Exp(float64(logits[t.No]-logits[t.Yes])/s.m.yesNo))
	}
	next := first // the piece being made
	var doubts doubts
	if req.Temperature <= 0 { // what is drawn at random is unlikely at times
		if doubts.least = s.m.sure[req.Task]; req.Task == Describe {
			doubts.relation = s.m.relation
		}
	}
	for {
		id, err := s.next(logits, req)
		if err != nil {
			return err
		}
		if len(s.spoken) == 0 {
			next.HasYes = req.Task == Ask && (id == t.Yes || id == t.No)
			next.Nothing, next.CannotTell = id == t.Nothing, id == t.CannotTell
			if next.HasYes {
				doubts.least = 0 // its probability goes with it
			}
		}
		if id == t.End || id == t.Nothing || id == t.CannotTell {
			next.Stop = StopEnd
		} else {
			s.spoken = append(s.spoken, id)
			next.add(doubts.hear(text.Add(id), id, logits))
			switch {
			case repeats(s.spoken):
				next.Stop = StopRepeat
			case len(s.spoken) >= most:
				next.Stop = StopLength
			}
		}
		if next.Stop != "" {
			next.add(doubts.end(text.Flush(), next.Stop == StopRepeat))
			next.Tokens, next.Doubted = len(s.spoken), doubts.n
			if next.First && next.Text == "" && doubts.n > 0 {
				next.Nothing, next.CannotTell = req.Task == Changes, req.Task != Changes
			}
			give(next)
			return nil
		}
		if next.Text != "" {
			next.Tokens = len(s.spoken)
			if !give(next) {
				return nil
			}
			next = Piece{YesProb: next.YesProb, HasYes: next.HasYes}
		}
		if logits, err = s.decode(ctx, a, id); err != nil {
			return fmt.Errorf("llm: decode: %w", err)
		}
	}
}

// add puts text behind the piece's; an answer does not begin with a space.
func (p *Piece) add(text string) {
	if p.Text += text; p.First {
		p.Text = strings.TrimLeft(p.Text, " ")
	}
}

// next picks a token from logits, never one that only the program writes.
func (s *Session) next(logits []float32, req Request) (int, error) {
	for _, id := range s.m.banned {
		if logits[id] == logits[id] {
			logits[id] = float32(math.Inf(-1))
		}
	}
	return s.sampler.pick(logits, req.Temperature, req.TopP)
}

// decode takes one token into the cache, or into the lane's copy of it, and
// gives the logits of the next. It allocates nothing.
func (s *Session) decode(ctx context.Context, a *lane.Lane, id int) ([]float32, error) {
	if a != nil {
		return a.Step(ctx, id)
	}
	if err := s.step(ctx, id); err != nil {
		return nil, err
	}
	return s.last(1), nil
}

// step takes one token into the cache. It allocates nothing.
func (s *Session) step(ctx context.Context, id int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.id[0] = int64(id)
	p, err := s.plan(1)
	if err != nil {
		return err
	}
	if err := p.embed.Step(ctx); err != nil {
		return err
	}
	return s.run(ctx, p, 1)
}
