package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

// ErrPast tells that the model's sessions read pictures, which are not kept.
var ErrPast = errors.New("this model answers about now only")

// Bounds of what a stream recalls.
const (
	recallFor     = time.Minute
	recallBytes   = 16 << 20
	recallMoments = 32 // that one question is asked of
)

// recall keeps the visual tokens of the last minute, so that a question can be
// asked of moments that have left the window. While nothing moves nothing is
// added: what is newest stands.
type recall struct {
	ring []moment // the oldest is at next once it is full
	next int
}

// moment is one frame as the session got it.
type moment struct {
	evidence event.Evidence
	visual   tensor.View[float32]
}

// add copies visual into the ring, which it makes when it is called first.
func (r *recall) add(fps float64, e event.Evidence, visual tensor.View[float32]) {
	if r.ring == nil {
		n := min(int(recallFor.Seconds()*fps), recallBytes/(4*max(1, len(visual.Data))))
		r.ring = make([]moment, 0, max(1, n))
	}
	if len(r.ring) < cap(r.ring) {
		r.ring = append(r.ring, moment{})
		r.next = len(r.ring) - 1
	}
	m := &r.ring[r.next]
	m.evidence = e
	m.visual = tensor.View[float32]{Shape: visual.Shape, Data: append(m.visual.Data[:0], visual.Data...)}
	r.next = (r.next + 1) % cap(r.ring)
}

// since copies the moments after from (media time in ms), oldest first, and as
// many before them as make least.
func (r *recall) since(from int64, least int) []moment {
	all := make([]moment, 0, len(r.ring))
	if len(r.ring) == cap(r.ring) {
		all = append(all, r.ring[r.next:]...)
		all = append(all, r.ring[:r.next]...)
	} else {
		all = append(all, r.ring...)
	}
	begin := len(all)
	for begin > 0 && (all[begin-1].evidence.MediaMS > from || len(all)-begin < least) {
		begin--
	}
	all = all[begin:]
	for i := range all {
		all[i].visual.Data = append([]float32(nil), all[i].visual.Data...)
	}
	return all
}

// remember answers q about moments, in a session of its own, beside the stream.
// A yes/no question is answered yes when it was so at any of the moments, with
// the probability of the one that it fits best; any other by the newest moment
// that can tell. The evidence is that moment's.
func (s *Stream) remember(ctx context.Context, q *ask, moments []moment) (_ *event.Event, err error) {
	select { // one at a time
	case s.recalling <- struct{}{}:
		defer func() { <-s.recalling }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	models := s.deps.Models
	session, err := models.NewSession()
	if err != nil {
		return nil, fmt.Errorf("pipeline: stream %s: session for the past: %w", s.cfg.Name, err)
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	l := &Looker{info: models.Info, session: session}
	began := time.Now()
	var best Answer
	var seen []moment
	window := max(1, models.Info.Window)
	step := max(window, (len(moments)+recallMoments-1)/recallMoments)
	for end := (len(moments)-1)%step + 1; end <= len(moments); end += step {
		these := moments[max(0, end-window):end]
		for _, m := range these {
			if err := session.Append(ctx, &media.Frame{At: media.Timestamp{Media: time.Duration(m.evidence.MediaMS) * time.Millisecond}}, m.visual); err != nil {
				return nil, fmt.Errorf("pipeline: stream %s: recall a frame: %w", s.cfg.Name, err)
			}
		}
		a, err := l.Say(ctx, Request{Task: Ask, Text: q.prompt.Text, MaxTokens: s.load.maxTokens(s.deps.MaxTokens)}, nil)
		if err != nil {
			return nil, err
		}
		better := seen == nil || !a.CannotTell && (best.CannotTell || !a.HasYes || a.YesProb >= best.YesProb)
		if better {
			best, seen = a, these
		}
	}
	if seen == nil {
		best.CannotTell = true
	}
	return s.tellPast(q, best, seen, time.Since(began)), nil
}

// tellPast says the answer and emits its event.
func (s *Stream) tellPast(q *ask, a Answer, seen []moment, took time.Duration) *event.Event {
	t := &talker{s: s, model: modelOf(s)} // its voice, without its eyes
	for _, m := range seen {
		t.evidence = append(t.evidence, m.evidence)
	}
	sp := &speaker{t: t, id: event.NewID(), prompt: &q.prompt, viewer: q.viewer}
	d := t.answerData(a, q.prompt, q.viewer, nil)
	d.Latency = &event.Latency{GenerateMS: float64(took.Microseconds()) / 1000}
	sp.say(d.Text)
	sp.done()
	d.EventID, d.Phase = sp.id, event.Point
	ev := event.New(event.TypeAnswer, time.Now().UTC(), d)
	s.emit(ev, nil)
	return ev
}
