package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
)

// Errors that a caller decides on.
var (
	// ErrBusy: too many questions wait already.
	ErrBusy = errors.New("too many questions wait for this stream; ask again in a moment")
	// ErrNotFound: there is no such stream.
	ErrNotFound = errors.New("no such stream")
	// ErrExists: a stream has that name already.
	ErrExists = errors.New("a stream of that name runs already")
	// ErrEnded: the stream does not run any more.
	ErrEnded = errors.New("the stream has ended")
)

// Opener opens the source of a stream. It connects lazily and again after a
// failure, tells of it through onStatus, and publishes packets into tap.
type Opener func(c configs.Stream, info ModelInfo, tap *media.Tap, onStatus func(event.Status)) Source

// Deps is what all streams share.
type Deps struct {
	Models  *Models
	Batcher *Batcher
	Emitter *event.Emitter
	Bus     *event.Bus
	Open    Opener
	Log     *slog.Logger
	// Keep, when not nil, sees each event of s that rests on frames, with the
	// image embedding of the newest of them: for the search index and the
	// evidence. It must not block for long.
	Keep func(s *Stream, ev *event.Event, image []float32)
	// Past is how far back the packets of a stream with alerts are kept, for
	// clips; such alerts name theirs. It defaults to 0: no clips.
	Past time.Duration
	// Pick, when not nil, gives the Deps of a stream that names a model of its
	// own (configs.Stream.Model).
	Pick func(model string) (*Deps, error)
	// MaxTokens bounds each answer. It defaults to 0: the model's own bound.
	MaxTokens int
	// Lossless looks at every sampled frame, however long that takes: for files
	// that are not live. It defaults to false: the newest frame wins.
	Lossless bool
	// Calm leaves the pictures of a still scene undecoded although Lossless is
	// set, which else decodes all: when that begins depends on how far ahead of
	// the model the file is read, and what is said would not be repeatable.
	Calm bool
}

// Stream watches one source and says what it sees.
type Stream struct {
	cfg  configs.Stream
	deps *Deps
	tap  *media.Tap
	src  Source
	st   stats
	load load
	mail *mailbox
	past *past // nil when no clips are made
	err  error // why it cannot run at all

	failed time.Time // when the model failed last, zero when it works; the watcher's own

	recalling chan struct{}   // held by who looks through the past
	over      context.Context // ends when the stream does
	end       context.CancelFunc
	askers    sync.WaitGroup

	mu      sync.Mutex
	asks    []*ask
	labels  []string
	prompts map[string]string // viewer -> prompt
	ended   bool
	away    *time.Timer // runs while the source is away
	absent  bool        // it has been away for absentAfter, and the watcher does not know yet
	// sourceMu keeps the source from being closed under a Still.
	sourceMu sync.RWMutex
	closed   bool
	last     SourceCounters // when closed
}

// absentAfter is how long a source may be away before what was seen last counts
// no more, and recoveredAfter how long nothing may fail before that is over.
const absentAfter, recoveredAfter = 10 * time.Second, 10 * time.Second

// maxAsks and maxPrompts bound what viewers may load on a stream.
const (
	maxAsks    = 8
	maxPrompts = 16
)

type ask struct {
	prompt event.Prompt
	viewer string
	since  time.Duration
	done   chan askResult
}

type askResult struct {
	ev   *event.Event
	past []moment // instead of ev: what the asker is to look through itself
	err  error
}

// NewStream makes a stream; Run runs it.
func NewStream(cfg configs.Stream, deps *Deps) *Stream {
	var err error
	if cfg.Model != "" && deps.Pick != nil {
		var own *Deps
		if own, err = deps.Pick(cfg.Model); err == nil {
			deps = own
		}
	}
	s := &Stream{cfg: cfg, deps: deps, err: err, tap: media.NewTap(0), mail: newMailbox(!deps.Lossless), labels: cfg.Labels, prompts: map[string]string{}}
	if len(s.labels) == 0 {
		s.labels = deps.Models.Info.Labels
	}
	if err == nil && deps.Models.Labeler == nil && slices.ContainsFunc(cfg.Questions, func(q configs.Question) bool { return q.ZeroShot }) {
		s.err = fmt.Errorf("pipeline: stream %s: the model %s has no text tower, which zero-shot questions need; leave out zero_shot, or take a model with one (see `lookout models list`)", cfg.Name, deps.Models.Info.Name)
	}
	if i := slices.IndexFunc(cfg.Questions, func(q configs.Question) bool { return !q.ZeroShot }); err == nil && deps.Models.Info.Silent && i >= 0 {
		s.err = fmt.Errorf("pipeline: stream %s: the model %s compares pictures with texts and answers no questions: give the question %s `zero_shot: true` and a text that says what is to be seen, or take a model that speaks (see `lookout models list`)", cfg.Name, deps.Models.Info.Name, cfg.Questions[i].ID)
	}
	if deps.Past > 0 && slices.ContainsFunc(cfg.Questions, func(q configs.Question) bool { return q.Alert != nil }) {
		s.past = &past{length: deps.Past}
	}
	s.recalling = make(chan struct{}, 1)
	s.over, s.end = context.WithCancel(context.Background())
	s.st.state = event.Status{State: "connecting"}
	s.src = deps.Open(cfg, deps.Models.Info, s.tap, s.onStatus)
	return s
}

// Run watches until ctx ends or the source does.
func (s *Stream) Run(ctx context.Context) error {
	if s.err != nil {
		s.finish()
		return s.err
	}
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, s.mail.wake)
	g.Go(func() error { return s.read(ctx) })
	g.Go(func() error { return s.watch(ctx) })
	if s.past != nil {
		g.Go(func() error {
			s.past.run(ctx, s.tap)
			return nil
		})
	}
	err := g.Wait()
	stop()
	s.finish()
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// finish frees the source and answers those who still wait.
func (s *Stream) finish() {
	s.sourceMu.Lock()
	s.closed, s.last = true, s.src.Counters()
	s.src.Close()
	s.sourceMu.Unlock()
	s.tap.Close()
	s.end()
	s.mu.Lock()
	s.ended = true
	if s.away != nil {
		s.away.Stop()
	}
	for _, a := range s.asks {
		a.done <- askResult{err: ErrEnded}
	}
	s.asks = nil
	s.mu.Unlock()
	s.askers.Wait()
}

// read fills the mailbox: the newest frame wins.
func (s *Stream) read(ctx context.Context) error {
	for {
		f := s.mail.blank()
		if err := s.src.ReadFrame(ctx, f); err != nil {
			s.mail.giveBack(f)
			s.mail.end(err)
			return nil // the watcher ends the stream, after the last frame
		}
		if s.load.skipFrame() {
			s.st.skip(SkipDegraded, 1)
			s.mail.giveBack(f)
			continue
		}
		if err := s.mail.put(ctx, f); err != nil {
			return err
		}
	}
}

// watch looks at frames and answers questions, one at a time. A failure of the
// model costs the frame, not the stream.
func (s *Stream) watch(ctx context.Context) error {
	l, err := NewLooker(s.deps.Models, s.deps.Batcher, s.cfg.Gate)
	if err != nil {
		return err
	}
	defer l.Close()
	if l.thrifty != nil && s.cfg.Reduce > 0 {
		l.thrifty.Reduce(s.cfg.Reduce)
	}
	if rate := cmp.Or(s.cfg.Rate, s.deps.Models.Info.FPS); !s.deps.Lossless && rate > 0 {
		l.place.within, l.place.newer = time.Duration(float64(time.Second)/rate), s.mail.some
	}
	t := newTalker(s, l)
	defer t.close()
	var lost uint64
	for {
		f, err := s.mail.take(ctx, s.called)
		if err != nil {
			return err
		}
		if f == nil && s.takeAbsent() {
			t.absent()
		}
		if a := s.nextAsk(); a != nil {
			var r askResult
			if r.past, r.err = t.moments(a); r.err == nil && len(r.past) == 0 {
				r.ev, r.err = t.answer(ctx, a)
			}
			a.done <- r
		}
		if f == nil {
			continue
		}
		if n := s.mail.lost(); n > lost {
			s.st.skip(SkipBusy, n-lost)
			s.load.dropped(n - lost)
			lost = n
		}
		at := f.At
		err = t.frame(ctx, f)
		s.mail.giveBack(f)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errStopped) {
			return err
		}
		if err != nil {
			s.fail(ctx, err)
			t.failed(at)
			if err := l.Reset(); err != nil {
				return fmt.Errorf("pipeline: stream %s: reset after a failure: %w", s.cfg.Name, err)
			}
		} else {
			s.worked()
		}
		if ev, changed := s.load.judge(time.Now()); changed {
			s.emitStatus(ev)
		}
	}
}

// fail counts a failure of the model, and tells of the first in a row.
func (s *Stream) fail(ctx context.Context, err error) {
	s.deps.Log.ErrorContext(ctx, "looking failed; the stream goes on", "stream", s.cfg.Name, "error", err)
	s.st.mu.Lock()
	s.st.errors++
	first := s.st.failing == ""
	s.st.failing = "looking fails: " + err.Error()
	s.st.mu.Unlock()
	s.failed = time.Now()
	if first {
		s.emitStatus(event.Status{State: "degraded", Reason: err.Error(), Fix: "run `lookout doctor`"})
	}
}

// worked tells, once, that the model has not failed for a while.
func (s *Stream) worked() {
	if s.failed.IsZero() || time.Since(s.failed) < recoveredAfter {
		return
	}
	s.failed = time.Time{}
	s.st.mu.Lock()
	s.st.failing = ""
	s.st.mu.Unlock()
	s.emitStatus(event.Status{State: "recovered", Reason: "the model answers again"})
}

// called tells whether the watcher is wanted without a frame.
func (s *Stream) called() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asks) > 0 || s.absent
}

// takeAbsent tells, once, that the source has stayed away.
func (s *Stream) takeAbsent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	absent := s.absent
	s.absent = false
	return absent
}

// presence follows whether the source is there, from its state.
func (s *Stream) presence(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case state == "live":
		if s.away != nil {
			s.away.Stop()
		}
		s.away, s.absent = nil, false
	case state == "reconnecting" && s.away == nil && !s.ended:
		var t *time.Timer
		t = time.AfterFunc(absentAfter, func() {
			s.mu.Lock()
			s.absent = s.away == t
			s.mu.Unlock()
			s.mail.wake()
		})
		s.away = t
	}
}

func (s *Stream) nextAsk() *ask {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asks) == 0 {
		return nil
	}
	a := s.asks[0]
	s.asks = append(s.asks[:0], s.asks[1:]...)
	return a
}

// Ask answers a question about the newest frames or, with since, about what was
// seen in that time, of which a minute is kept. The deltas go out on the bus
// meanwhile, and the event too; viewer is copied into both.
func (s *Stream) Ask(ctx context.Context, p event.Prompt, viewer string, since time.Duration) (*event.Event, error) {
	a := &ask{prompt: p, viewer: viewer, since: since, done: make(chan askResult, 1)}
	s.mu.Lock()
	switch {
	case s.ended:
		s.mu.Unlock()
		return nil, ErrEnded
	case len(s.asks) >= maxAsks:
		s.mu.Unlock()
		return nil, ErrBusy
	}
	s.asks = append(s.asks, a)
	s.askers.Add(1) // the stream waits for who looks through the past
	s.mu.Unlock()
	defer s.askers.Done()
	s.mail.wake()
	select {
	case r := <-a.done:
		if r.past == nil {
			return r.ev, r.err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.over, cancel)()
		return s.remember(ctx, a, r.past)
	case <-ctx.Done():
		return nil, ctx.Err() // the answer still goes out as an event
	}
}

// SetPrompt lets the stream be described by text for one viewer; an empty text
// takes it back.
func (s *Stream) SetPrompt(viewer, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == "" {
		delete(s.prompts, viewer)
		return nil
	}
	if _, ok := s.prompts[viewer]; !ok && len(s.prompts) >= maxPrompts {
		return ErrBusy
	}
	s.prompts[viewer] = text
	return nil
}

// SetLabels replaces the zero-shot labels.
func (s *Stream) SetLabels(labels []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.labels = labels
}

func (s *Stream) currentLabels() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.labels
}

// Tap gives the source's packets before decoding. It lives as long as the
// stream, across reconnects.
func (s *Stream) Tap() *media.Tap { return s.tap }

// Config is what the stream runs with.
func (s *Stream) Config() configs.Stream { return s.cfg }

// Still is the JPEG of a recent frame, scaled down to width; frame 0 is the
// newest.
func (s *Stream) Still(frame uint64, width int) ([]byte, error) {
	s.sourceMu.RLock()
	defer s.sourceMu.RUnlock()
	if s.closed {
		return nil, ErrEnded
	}
	return s.src.Still(frame, width)
}

// Packets waits until the stream has come to the media time to, has ended, or
// ctx has, and gives its packets from the last key frame at or before from on,
// with the clockwise degrees by which their pictures are turned. It gives none
// for a stream without clips (Deps.Past).
func (s *Stream) Packets(ctx context.Context, from, to time.Duration) (packets []*media.Packet, rotation int) {
	if s.past == nil {
		return nil, 0
	}
	packets = s.past.between(ctx, from, to)
	return packets, s.Snapshot().Counters.Rotation
}

// Snapshot says how the stream does.
func (s *Stream) Snapshot() Snapshot {
	out := s.st.snapshot()
	out.Name, out.Codec, out.Degraded = s.cfg.Name, string(s.tap.Codec()), cmp.Or(out.Degraded, s.load.name())
	out.LabelNames = s.currentLabels()
	for _, q := range s.cfg.Questions {
		out.Prompts = append(out.Prompts, event.Prompt{ID: q.ID, Text: q.Text})
	}
	s.sourceMu.RLock()
	defer s.sourceMu.RUnlock()
	if out.Counters = s.last; !s.closed {
		out.Counters = s.src.Counters()
	}
	return out
}

// onStatus passes on what the source tells. The same trouble is told once.
func (s *Stream) onStatus(st event.Status) {
	s.st.mu.Lock()
	same := s.st.state.State == st.State && s.st.state.Reason == st.Reason
	s.st.state = st
	s.st.mu.Unlock()
	s.presence(st.State)
	if !same {
		s.emitStatus(st)
	}
}

func (s *Stream) emitStatus(st event.Status) {
	s.emit(event.New(event.TypeStatus, time.Now().UTC(), event.Data{Stream: s.cfg.Name, EventID: event.NewID(), Phase: event.Point, Status: &st}), nil)
}

// emit sends an event on its way. Delivery outlives the stream's context: what
// was said is not lost because the program ends.
func (s *Stream) emit(ev *event.Event, image []float32) {
	if s.past != nil && ev.Type == event.TypeAlert {
		ev.Data.Clip = event.ClipPath(s.cfg.Name, ev.Data.EventID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.deps.Emitter.Emit(ctx, ev); err != nil {
		s.deps.Log.Error("an event is not durable", "stream", s.cfg.Name, "error", err)
		s.st.mu.Lock()
		s.st.errors++
		s.st.mu.Unlock()
	}
	s.st.mu.Lock()
	s.st.events++
	s.st.seq = ev.Data.Seq
	s.st.mu.Unlock()
	if s.deps.Keep != nil && len(ev.Data.Evidence) > 0 {
		s.deps.Keep(s, ev, image)
	}
}
