package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The tests' world: a frame is filled with one value, its scene, and the model
// knows the words for each scene.
var words = map[uint8]string{0: "The yard is empty.", 10: "A dog runs.", 20: "A red van stands. A dog runs.", 30: "A red van stands."}

const strange = 200 // a scene that the model was not trained on

var testInfo = ModelInfo{Name: "test", Hash: "sha256:00", Width: 64, Height: 32, FPS: 4, Window: 4, Patches: 2, Dim: 2, Embed: 2, DomainThreshold: 100, Domain: "numbers", SpeakAt: 0.01}

type testModel struct {
	mu      sync.Mutex
	calls   int
	largest int
	fail    atomic.Int32 // the scene on which encoding fails
	changes map[uint8]string
	unsure  bool          // it gives no probabilities
	deaf    atomic.Bool   // it cannot be asked
	gate    chan struct{} // when not nil, an encode waits for it
}

func (m *testModel) Encode(_ context.Context, frames []*media.Frame, dst *Encoded) error {
	if m.gate != nil {
		<-m.gate
	}
	m.mu.Lock()
	m.calls++
	m.largest = max(m.largest, len(frames))
	m.mu.Unlock()
	for i, f := range frames {
		v := f.Pix[0]
		if int32(v) == m.fail.Load() && v != 0 {
			return errors.New("bad tensor")
		}
		for j := range 4 {
			dst.Tokens.Data[i*4+j] = float32(v)
		}
		dst.Image.Data[2*i] = float32(v)
		dst.Distance[i] = float32(v)
	}
	return nil
}

type testMemory struct{ last float32 }

func (m *testMemory) Step(_ context.Context, _ media.Timestamp, tokens tensor.View[float32]) (Step, error) {
	n := float32(0)
	if tokens.Data[0] != m.last {
		n = 1
	}
	m.last = tokens.Data[0]
	return Step{Visual: tokens, Novelty: n}, nil
}
func (m *testMemory) Reset()       { m.last = -1 }
func (m *testMemory) Close() error { return nil }

type testSession struct {
	m     *testModel
	scene uint8
	asked *atomic.Int32
}

func (s *testSession) Append(_ context.Context, _ *media.Frame, v tensor.View[float32]) error {
	s.scene = uint8(v.Data[0])
	return nil
}

func (s *testSession) Generate(_ context.Context, r Request) iter.Seq2[Piece, error] {
	s.asked.Add(1)
	return func(yield func(Piece, error) bool) {
		if s.m.deaf.Load() {
			yield(Piece{}, errors.New("no route to the model"))
			return
		}
		text := words[s.scene]
		first := Piece{}
		switch r.Task {
		case Changes:
			if text = s.m.changes[s.scene]; text == "" {
				yield(Piece{Nothing: true}, nil)
				return
			}
		case Ask:
			yes := strings.Contains(words[s.scene], r.Text)
			first = Piece{HasYes: true, YesProb: 0.05}
			text = "no"
			if yes {
				first.YesProb, text = 0.95, "yes"
			}
			if s.m.unsure {
				first, text = Piece{}, strings.ToUpper(text[:1])+text[1:]+", I think so."
			}
		}
		for i, w := range strings.SplitAfter(text, " ") {
			p := Piece{Text: w}
			if i == 0 {
				p.HasYes, p.YesProb = first.HasYes, first.YesProb
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}
func (s *testSession) Reset() error { s.scene = 0; return nil }
func (s *testSession) Close() error { return nil }

// testSource plays scenes at 4 frames a second of media time, as fast as they
// are taken, or paced by a channel.
type testSource struct {
	scenes []uint8
	n      int
	pace   chan struct{}
	fail   int // the frame at which reading fails for good; 0: none
	closed atomic.Bool
	calm   atomic.Int32 // times that it was told of a still scene
}

var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (s *testSource) ReadFrame(ctx context.Context, f *media.Frame) error {
	if s.pace != nil {
		select {
		case <-s.pace:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if s.fail > 0 && s.n == s.fail {
		return errors.New("camera on fire")
	}
	if s.n == len(s.scenes) {
		return io.EOF
	}
	f.Reset(testInfo.Width, testInfo.Height)
	for i := range f.Pix {
		f.Pix[i] = s.scenes[s.n]
	}
	d := time.Duration(s.n) * 250 * time.Millisecond
	f.Seq, f.At = uint64(s.n+1), media.At(day.Add(d), d)
	s.n++
	return nil
}
func (s *testSource) Still(seq uint64, _ int) ([]byte, error) {
	return fmt.Appendf(nil, "jpeg %d", seq), nil
}
func (s *testSource) Calm(still bool) {
	if still {
		s.calm.Add(1)
	}
}
func (s *testSource) Counters() SourceCounters { return SourceCounters{} }
func (s *testSource) Close() error             { s.closed.Store(true); return nil }

type world struct {
	model *testModel
	asked atomic.Int32
	deps  *Deps
	sub   *event.Subscription
}

// newWorld starts a model and a bus; sources maps a stream's URL to what it plays.
func newWorld(t *testing.T, sources map[string]*testSource) *world {
	t.Helper()
	w := &world{model: &testModel{changes: map[uint8]string{}}}
	bus := event.NewBus(1000)
	seq, err := event.OpenSequencer("")
	if err != nil {
		t.Fatal(err)
	}
	m := &Models{Info: testInfo, Encoder: w.model, NewMemory: func() (StreamMemory, error) { return &testMemory{last: -1}, nil },
		NewSession: func() (Session, error) { return &testSession{m: w.model, asked: &w.asked}, nil }}
	b := NewBatcher(w.model, testInfo, 4)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Run(ctx) })
	w.deps = &Deps{Models: m, Batcher: b, Bus: bus, Emitter: event.NewEmitter(seq, bus), Log: slog.New(slog.DiscardHandler),
		Open: func(c configs.Stream, _ ModelInfo, tap *media.Tap, onStatus func(event.Status)) Source {
			onStatus(event.Status{State: "live"})
			return sources[c.URL]
		}}
	w.sub = bus.Subscribe(event.SubOptions{Queue: 1000})
	t.Cleanup(func() { cancel(); wg.Wait(); bus.Close() })
	return w
}

// lockstep makes a stream look at every frame: tests of what is said must not
// depend on how fast the machine is.
func (w *world) lockstep(c configs.Stream) *Stream {
	deps := *w.deps
	deps.Lossless, deps.Calm = true, true
	return NewStream(c, &deps)
}

func stream(name string) configs.Stream {
	c := configs.DefaultStream()
	c.Name, c.URL = name, name
	c.Describe.Every = 250 * time.Millisecond
	return c
}

// said drains the bus and writes each event down as "type phase text".
func (w *world) said(stream string) (events []string, deltas string) {
	for {
		select {
		case it := <-w.sub.C():
			switch {
			case it.Event != nil && it.Event.Data.Stream == stream:
				d := it.Event.Data
				kind := strings.TrimSuffix(strings.TrimPrefix(it.Event.Type, "video.lookout."), ".v1")
				if d.Status != nil {
					d.Text = d.Status.State
				}
				events = append(events, fmt.Sprintf("%s %s %s", kind, d.Phase, d.Text))
			case it.Delta != nil && it.Delta.Stream == stream:
				deltas += it.Delta.Text
				if it.Delta.Done {
					deltas += "|"
				}
			}
		default:
			return events, deltas
		}
	}
}

func repeat(n int, v ...uint8) []uint8 {
	var out []uint8
	for _, x := range v {
		out = append(out, slices.Repeat([]uint8{x}, n)...)
	}
	return out
}

func TestDescriptionsHaveALife(t *testing.T) {
	w := newWorld(t, map[string]*testSource{"a": {scenes: append(repeat(4, 10, 20, 30), repeat(40, 30)...)}})
	if err := w.lockstep(stream("a")).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, deltas := w.said("a")
	want := []string{"status point live", "description start A dog runs.", "description update A red van stands. A dog runs.", "description update A red van stands.", "description end A red van stands."}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if deltas != "A dog runs.|A red van stands. A dog runs.|A red van stands.|" {
		t.Errorf("deltas %q", deltas)
	}
}

func TestNothingIsSpentOnNothing(t *testing.T) {
	src := &testSource{scenes: repeat(200, 10)}
	w := newWorld(t, map[string]*testSource{"a": src})
	s := w.lockstep(stream("a"))
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := src.calm.Load(); n < 150 || n == 200 {
		t.Errorf("the source was told of a still scene at %d of 200 frames, want all once the window is full", n)
	}
	if w.model.calls != 1 {
		t.Errorf("encoded %d frames of a still scene, want 1", w.model.calls)
	}
	if n := w.asked.Load(); n > 2 {
		t.Errorf("asked the model %d times about a still scene", n)
	}
	if sn := s.Snapshot(); sn.Skipped[SkipStill] != 199 {
		t.Errorf("skipped %v", sn.Skipped)
	}
}

func TestChangesAreToldOnce(t *testing.T) {
	w := newWorld(t, map[string]*testSource{"a": {scenes: repeat(4, 10, 20)}})
	w.deps.Models.Info.Changes = true
	w.model.changes[20] = "The dog barks. The van arrives."
	c := stream("a")
	if err := w.lockstep(c).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, _ := w.said("a")
	n := 0
	for _, e := range got {
		if e == "description point The dog barks. The van arrives." {
			n++
		}
	}
	if n != 1 {
		t.Errorf("told %d times: %q", n, got)
	}
}

func TestOutOfDomainIsToldAndNothingInvented(t *testing.T) {
	w := newWorld(t, map[string]*testSource{"a": {scenes: append(repeat(6, 10, strange, 190, strange, 190), repeat(12, 10, 20, 10)...)}})
	if err := w.lockstep(stream("a")).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, _ := w.said("a")
	want := []string{"status point live", "description start A dog runs.", "description end A dog runs.", "status point out_of_domain", "status point in_domain"}
	if len(got) < 6 || !slices.Equal(got[:2], want[:2]) || slices.Index(got, want[3]) < 0 || slices.Index(got, want[4]) < slices.Index(got, want[3]) {
		t.Fatalf("got %q", got)
	}
	count := 0
	for i, e := range got {
		if strings.HasPrefix(e, "status point out_of_domain") {
			count++
		}
		if i > slices.Index(got, want[3]) && i < slices.Index(got, want[4]) {
			t.Errorf("said %q while out of its domain", e)
		}
	}
	if count != 1 {
		t.Errorf("told %d times", count)
	}
}

func TestStandingQuestionsAndAlerts(t *testing.T) {
	w := newWorld(t, map[string]*testSource{"a": {scenes: repeat(8, 10, 20, 30, 10)}})
	c := stream("a")
	c.Describe.Off = true
	c.Questions = []configs.Question{{ID: "van", Text: "red van", Every: 250 * time.Millisecond, Alert: &configs.Alert{On: 0.8, Off: 0.5, For: 500 * time.Millisecond}},
		{ID: "dog", Text: "dog", Every: 250 * time.Millisecond}}
	if err := w.lockstep(c).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, _ := w.said("a")
	want := []string{"status point live", "answer start yes", "alert start yes", "answer update no", "answer update yes", "alert end no", "answer end yes"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestOneStreamsFailureIsItsOwn(t *testing.T) {
	scenes := repeat(4, 10, 20, 30, 10, 20)
	alone := func() []string {
		w := newWorld(t, map[string]*testSource{"a": {scenes: scenes}})
		_ = w.lockstep(stream("a")).Run(t.Context())
		got, _ := w.said("a")
		return got
	}()
	w := newWorld(t, map[string]*testSource{"a": {scenes: scenes}, "fire": {scenes: scenes, fail: 3}, "bad": {scenes: repeat(4, 10, 77, 20)}})
	w.model.fail.Store(77) // the encoder fails on a frame of stream "bad"
	var wg sync.WaitGroup
	for _, n := range []string{"a", "fire", "bad"} {
		s := w.lockstep(stream(n))
		wg.Go(func() { _ = s.Run(t.Context()) })
	}
	wg.Wait()
	got := map[string][]string{}
	for len(w.sub.C()) > 0 {
		it := <-w.sub.C()
		if ev := it.Event; ev != nil {
			text := ev.Data.Text
			if ev.Data.Status != nil {
				text = ev.Data.Status.State
			}
			kind := strings.TrimSuffix(strings.TrimPrefix(ev.Type, "video.lookout."), ".v1")
			got[ev.Data.Stream] = append(got[ev.Data.Stream], fmt.Sprintf("%s %s %s", kind, ev.Data.Phase, text))
		}
	}
	if !slices.Equal(got["a"], alone) {
		t.Errorf("beside failing streams %q\nalone %q", got["a"], alone)
	}
	if !slices.Contains(got["bad"], "status point degraded") || !slices.ContainsFunc(got["bad"], func(s string) bool { return strings.HasSuffix(s, "A red van stands. A dog runs.") }) {
		t.Errorf("the stream with a bad frame did not tell of it and go on: %q", got["bad"])
	}
}

func TestAsk(t *testing.T) {
	src := &testSource{scenes: repeat(4, 20), pace: make(chan struct{})}
	w := newWorld(t, map[string]*testSource{"a": src})
	s := NewStream(stream("a"), w.deps)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ev, err := s.Ask(ctx, event.Prompt{ID: "q", Text: "red van"}, "me", 0)
	if err != nil || !ev.Data.Abstained {
		t.Errorf("asked before the first frame: %+v, %v", ev, err)
	}
	src.pace <- struct{}{}
	src.pace <- struct{}{}
	waitFor(t, func() bool { return s.Snapshot().Looked > 0 })
	ev, err = s.Ask(ctx, event.Prompt{ID: "q", Text: "red van"}, "me", 0)
	if err != nil || ev.Data.Text != "yes" || ev.Data.Viewer != "me" || ev.Data.Probability == nil || *ev.Data.Probability != 0.95 || len(ev.Data.Evidence) == 0 {
		t.Errorf("got %+v, %v", ev, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := s.Ask(t.Context(), event.Prompt{}, "", 0); !errors.Is(err, ErrEnded) {
		t.Errorf("asked after the end: %v", err)
	}
	if !src.closed.Load() {
		t.Error("the source was not closed")
	}
	if _, err := s.Still(0, 0); !errors.Is(err, ErrEnded) {
		t.Errorf("still after the end: %v", err)
	}
}

// A viewer's own prompt is answered to that viewer, when the answer is another
// than before, until it is taken back.
func TestAViewersOwnPrompt(t *testing.T) {
	src := &testSource{scenes: slices.Concat(repeat(4, 10), repeat(4, 20), repeat(4, 10), repeat(8, 20)), pace: make(chan struct{})}
	w := newWorld(t, map[string]*testSource{"a": src})
	s := w.lockstep(stream("a"))
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	if err := s.SetPrompt("me", "red van"); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		src.pace <- struct{}{}
	}
	waitFor(t, func() bool { return s.Snapshot().Looked == 12 })
	if err := s.SetPrompt("me", ""); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		src.pace <- struct{}{}
	}
	close(src.pace)
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.sub.Close()
	var got []string
	for it := range w.sub.C() {
		if ev := it.Event; ev != nil && ev.Type == event.TypeAnswer {
			got = append(got, ev.Data.Viewer+" "+ev.Data.Prompt.Text+" "+ev.Data.Text)
		}
	}
	if want := []string{"me red van no", "me red van yes", "me red van no"}; !slices.Equal(got, want) {
		t.Errorf("answers %q, want %q", got, want)
	}
	for n := range maxPrompts + 1 {
		if err := s.SetPrompt(fmt.Sprint(n), "x"); (err != nil) != (n == maxPrompts) {
			t.Errorf("prompt %d: %v", n, err)
		}
	}
}

// A question may look back: what has left the window is still known for a while.
func TestAskAboutThePast(t *testing.T) {
	src := &testSource{scenes: slices.Concat(repeat(8, 10), repeat(4, 30), repeat(12, 10), repeat(300, 0)), pace: make(chan struct{})}
	w := newWorld(t, map[string]*testSource{"a": src})
	s := w.lockstep(stream("a"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	next := func(frames int) {
		looked := s.Snapshot().Looked
		for range frames {
			src.pace <- struct{}{}
		}
		waitFor(t, func() bool { return s.Snapshot().Looked == looked+uint64(frames) })
	}
	ask := func(text string, since time.Duration) event.Data {
		t.Helper()
		ev, err := s.Ask(ctx, event.Prompt{ID: "q", Text: text}, "me", since)
		if err != nil {
			t.Fatal(err)
		}
		return ev.Data
	}
	next(24) // the van stood there from 2 s to 3 s, of 6 s
	if d := ask("red van", 0); d.Text != "no" {
		t.Errorf("now: %+v", d)
	}
	d := ask("red van", 10*time.Second)
	if d.Text != "yes" || d.Viewer != "me" || d.Probability == nil || *d.Probability != 0.95 || len(d.Evidence) != 4 {
		t.Fatalf("the last 10 s: %+v", d)
	}
	if first, last := d.Evidence[0].MediaMS, d.Evidence[3].MediaMS; first > 2750 || last < 2000 {
		t.Errorf("it rests on %d ms to %d ms", first, last)
	}
	if d := ask("red van", 2*time.Second); d.Text != "no" {
		t.Errorf("the last 2 s: %+v", d)
	}
	if d := ask("elephant", 10*time.Second); d.Text != "no" || *d.Probability != 0.05 {
		t.Errorf("never seen: %+v", d)
	}
	next(1)
	if d := ask("dog", 10*time.Second); d.Text != "yes" {
		t.Errorf("a dog: %+v", d)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := s.Ask(t.Context(), event.Prompt{}, "", time.Minute); !errors.Is(err, ErrEnded) {
		t.Errorf("asked after the end: %v", err)
	}

	var r recall
	for n := range 1000 { // a minute is kept, and no more
		r.add(4, event.Evidence{MediaMS: int64(n) * 250}, tensor.View[float32]{Data: []float32{float32(n)}})
	}
	if m := r.since(0, 4); len(m) != 240 || m[0].visual.Data[0] != 760 || m[239].visual.Data[0] != 999 {
		t.Errorf("%d moments are kept", len(m))
	}
	if m := r.since(1e9, 4); len(m) != 4 || m[3].evidence.MediaMS != 999*250 {
		t.Errorf("what stands: %+v", m)
	}
	var big recall
	for range 100 {
		big.add(4, event.Evidence{}, tensor.View[float32]{Data: make([]float32, 1<<20)})
	}
	if len(big.ring) != 4 {
		t.Errorf("%d moments of 4 MB are kept", len(big.ring))
	}
}

// The first strange frame is enough to abstain, before the scene is judged.
func TestAskAboutAStrangeFrame(t *testing.T) {
	src := &testSource{scenes: repeat(2, strange), pace: make(chan struct{})}
	w := newWorld(t, map[string]*testSource{"a": src})
	s := NewStream(stream("a"), w.deps)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	src.pace <- struct{}{}
	waitFor(t, func() bool { return s.Snapshot().Looked > 0 })
	if ev, err := s.Ask(ctx, event.Prompt{ID: "q", Text: "red van"}, "me", 0); err != nil || !ev.Data.Abstained || ev.Data.Probability != nil {
		t.Errorf("got %+v, %v", ev, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAskIsBounded(t *testing.T) {
	src := &testSource{scenes: repeat(4, 20)}
	w := newWorld(t, map[string]*testSource{"a": src})
	s := NewStream(stream("a"), w.deps) // not running: nothing is answered
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range maxAsks {
		wg.Go(func() { _, _ = s.Ask(ctx, event.Prompt{}, "", 0) })
	}
	waitFor(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.asks) == maxAsks })
	if _, err := s.Ask(ctx, event.Prompt{}, "", 0); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
	cancel()
	wg.Wait()
}

// encodeAll lets one frame of each value into the encoder, the first alone and
// the others while it runs, and gives each frame's error.
func encodeAll(t *testing.T, m *testModel, limit int, values ...uint8) map[uint8]error {
	t.Helper()
	errs := map[uint8]error{}
	synctest.Test(t, func(t *testing.T) {
		m.gate = make(chan struct{})
		b := NewBatcher(m, testInfo, limit)
		ctx, cancel := context.WithCancel(t.Context())
		var wg, run sync.WaitGroup
		var mu sync.Mutex
		run.Go(func() { _ = b.Run(ctx) })
		for _, v := range values {
			wg.Go(func() {
				f := &media.Frame{}
				f.Reset(8, 8)
				f.Pix[0] = v
				e := Encoded{Tokens: tensor.Make[float32](1, 2, 2), Image: tensor.Make[float32](1, 2), Distance: make([]float32, 1)}
				err := b.Encode(t.Context(), f, &e)
				if err == nil && (e.Tokens.Data[3] != float32(v) || e.Distance[0] != float32(v)) {
					t.Errorf("frame %d got another's tokens: %v", v, e)
				}
				mu.Lock()
				errs[v] = err
				mu.Unlock()
			})
		}
		synctest.Wait() // one is in the encoder, the others wait for it
		close(m.gate)
		wg.Wait()
		cancel()
		run.Wait()
		if err := b.Encode(t.Context(), nil, nil); !errors.Is(err, errStopped) {
			t.Errorf("after the end: %v", err)
		}
	})
	return errs
}

func TestBatcherGathersAndEndsClean(t *testing.T) {
	m := &testModel{}
	for v, err := range encodeAll(t, m, 3, 1, 2, 3, 4, 5, 6, 7) {
		if err != nil {
			t.Errorf("frame %d: %v", v, err)
		}
	}
	if m.largest != 3 || m.calls != 3 {
		t.Errorf("%d calls, the largest of %d; want 1, 3 and 3 frames", m.calls, m.largest)
	}
}

func TestABadFrameCostsItsBatchNothing(t *testing.T) {
	m := &testModel{}
	m.fail.Store(3)
	for v, err := range encodeAll(t, m, 8, 1, 2, 3, 4) {
		if (err != nil) != (v == 3) {
			t.Errorf("frame %d: %v", v, err)
		}
	}
}

func TestNewestFrameWins(t *testing.T) {
	m := newMailbox(true)
	for i := range uint64(5) {
		f := m.blank()
		f.Seq = i
		if err := m.put(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	f, err := m.take(t.Context(), func() bool { return false })
	if err != nil || f.Seq != 4 || m.lost() != 4 {
		t.Errorf("got frame %d, lost %d, %v", f.Seq, m.lost(), err)
	}
}

func TestGate(t *testing.T) {
	frame := func(v uint8) *media.Frame {
		f := &media.Frame{}
		f.Reset(64, 64)
		for i := range f.Pix {
			f.Pix[i] = v
		}
		return f
	}
	g := gate{threshold: 2}
	if !g.pass(frame(100)) || g.pass(frame(101)) {
		t.Error("the first frame must pass and one like it must not")
	}
	passed := 0
	for v := uint8(101); v < 121; v++ { // one level a frame: each step is small, the sum is not
		if g.pass(frame(v)) {
			passed++
		}
	}
	if passed < 8 || passed > 11 {
		t.Errorf("a slow drift over 20 levels passed %d times, want about 10", passed)
	}
	f := frame(120)
	for y := range 8 {
		for x := range 8 {
			copy(f.Pix[(y*64+x)*3:], []byte{255, 0, 0})
		}
	}
	if !g.pass(f) {
		t.Error("a small bright thing was held back")
	}
}

func TestLoadStepsDownAndRecovers(t *testing.T) {
	var l load
	now := day
	window := func(frames, drops uint64) (event.Status, bool) {
		for range frames {
			l.skipFrame()
		}
		l.dropped(drops)
		now = now.Add(loadWindow)
		return l.judge(now)
	}
	window(0, 0)
	for range 5 {
		window(10, 9)
	}
	if l.name() != levels[3] || l.maxTokens(0) == 0 || l.slower(time.Second) != 2*time.Second {
		t.Errorf("under load: %q", l.name())
	}
	ups := 0
	for range 3 * loadRecover {
		if st, ok := window(10, 0); ok && st.State == "recovered" {
			ups++
		}
	}
	if ups != 3 || l.name() != "" {
		t.Errorf("recovered %d steps, now %q", ups, l.name())
	}
}

func TestManagerKeepsWhatIsChanged(t *testing.T) {
	dir := t.TempDir()
	never := func() *testSource { return &testSource{pace: make(chan struct{})} }
	w := newWorld(t, map[string]*testSource{"a": never(), "b": never(), "c": never()})
	start := func(untilDone bool) (*Manager, func()) {
		m := NewManager(w.deps, dir)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx, []configs.Stream{stream("a"), stream("b")}, untilDone) }()
		waitFor(t, func() bool { return len(m.All()) >= 1 })
		return m, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	names := func(m *Manager) string {
		var n []string
		for _, s := range m.All() {
			n = append(n, s.Config().Name)
		}
		return strings.Join(n, " ")
	}
	m, stop := start(false)
	waitFor(t, func() bool { return names(m) == "a b" })
	if err := m.Add(stream("c")); err != nil {
		t.Fatal(err)
	}
	if err := m.Add(stream("c")); !errors.Is(err, ErrExists) {
		t.Errorf("added twice: %v", err)
	}
	if err := m.Remove("a"); err != nil {
		t.Fatal(err)
	}
	changed := stream("b")
	changed.Rate = 7
	if err := m.Change(changed); err != nil {
		t.Fatal(err)
	}
	if err := m.Change(stream("none")); !errors.Is(err, ErrNotFound) {
		t.Errorf("changed what is not there: %v", err)
	}
	if err := m.Add(configs.Stream{Name: "no url"}); err == nil {
		t.Error("a bad stream was added")
	}
	// What cannot be kept is not done, and not kept later either.
	m.path = filepath.Join(dir, "streams.json", "no folder")
	if err := m.Add(stream("a")); err == nil {
		t.Error("a stream was added that is not kept")
	}
	if err := m.Remove("b"); err == nil {
		t.Error("a stream was removed that will come back")
	}
	m.path = filepath.Join(dir, "streams.json")
	if err := m.Change(changed); err != nil {
		t.Error(err)
	}
	stop()
	m, stop = start(false)
	defer stop()
	waitFor(t, func() bool { return names(m) == "b c" })
	if s, err := m.Get("b"); err != nil || s.Config().Rate != 7 {
		t.Errorf("the change was forgotten: %v", err)
	}
}

func TestManagerEndsWhenEveryStreamHas(t *testing.T) {
	w := newWorld(t, map[string]*testSource{"a": {scenes: repeat(4, 10)}, "b": {scenes: repeat(2, 20)}})
	if err := NewManager(w.deps, "").Run(t.Context(), []configs.Stream{stream("a"), stream("b")}, true); err != nil {
		t.Fatal(err)
	}
}

func TestManagerEndsWithoutStreams(t *testing.T) {
	if err := NewManager(newWorld(t, nil).deps, "").Run(t.Context(), nil, true); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
		time.Sleep(time.Millisecond)
	}
}
