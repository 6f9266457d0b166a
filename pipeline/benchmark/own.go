package benchmark

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lookout-video/lookout/bench"
	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/ingest"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/tensor"
)

// cycle is how many frames are shown again and again where decoding is not
// measured: a minute of one a second, so that each minute shows the same.
const cycle = 60

// pictures are frames for the embedded model, at rate a second.
func (r *Runner) pictures(ctx context.Context, rate float64) ([]*media.Frame, error) {
	i := r.models.Info
	return frames(ctx, ingest.Config{Name: "bench", URL: r.cfg.Video, Width: i.Width, Height: i.Height, SampleRate: rate, Stills: -1}, cycle)
}

func (r *Runner) encode(ctx context.Context, n int) error {
	if err := r.useOwn(); err != nil {
		return err
	}
	i := r.models.Info
	show, err := r.pictures(ctx, i.FPS)
	if err != nil {
		return err
	}
	memory, err := r.models.NewMemory()
	if err != nil {
		return err
	}
	defer memory.Close()
	out := pipeline.Encoded{Tokens: tensor.Make[float32](1, i.Patches, i.Dim)}
	for k := range n {
		if err := r.models.Encoder.Encode(ctx, show[k%len(show):][:1], &out); err != nil {
			return err
		}
		at := media.At(time.Time{}, time.Duration(float64(k)/i.FPS*float64(time.Second)))
		if _, err := memory.Step(ctx, at, out.Tokens.At(0)); err != nil {
			return err
		}
	}
	return nil
}

// timing is one description: when its newest frame was captured, its first
// word came, and it was complete.
type timing struct{ capture, first, last time.Time }

// timed is a session that notes when descriptions come.
type timed struct {
	pipeline.Session
	capture time.Time
	note    func(timing)
}

func (t *timed) Append(ctx context.Context, f *media.Frame, visual tensor.View[float32]) error {
	t.capture = f.At.Capture
	return t.Session.Append(ctx, f, visual)
}

func (t *timed) Generate(ctx context.Context, req pipeline.Request) iter.Seq2[pipeline.Piece, error] {
	answer := t.Session.Generate(ctx, req)
	if req.Task != pipeline.Describe {
		return answer
	}
	return func(yield func(pipeline.Piece, error) bool) {
		at := timing{capture: t.capture}
		for p, err := range answer {
			if at.first.IsZero() && p.Text != "" {
				at.first = time.Now()
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
		if at.last = time.Now(); !at.first.IsZero() {
			t.note(at)
		}
	}
}

// live plays the video at its own speed as n streams of rate frames a second,
// begun one after the other within a second as cameras are, until ctx ends or
// the video does, and returns when the descriptions came.
func (r *Runner) live(ctx context.Context, video string, n int, rate float64, loop bool) ([]timing, error) {
	var mu sync.Mutex
	var all []timing
	m := *r.models
	m.Info.SpeakAt = -1
	m.NewSession = func() (pipeline.Session, error) {
		s, err := r.models.NewSession()
		return &timed{Session: s, note: func(t timing) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, t)
		}}, err
	}
	deps, done, err := r.deps(&m)
	if err != nil {
		return nil, err
	}
	defer done()
	deps.Open = r.own.Opener(r.cfg.Log)
	g, gctx := errgroup.WithContext(ctx)
	for i := range n {
		c := stream(fmt.Sprintf("bench-%d", i), video)
		c.Rate, c.Loop, c.Gate = rate, loop, 0
		c.Describe.Every = time.Duration(float64(time.Second) / rate / 2)
		g.Go(func() error {
			select {
			case <-time.After(time.Second * time.Duration(i) / time.Duration(n)):
			case <-gctx.Done():
				return nil
			}
			return pipeline.NewStream(c, deps).Run(gctx)
		})
	}
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return nil, err
	}
	return all, nil
}

// stream is a user's stream, without labels.
func stream(name, video string) configs.Stream {
	c := configs.DefaultStream()
	c.Name, c.URL = name, video
	return c
}

// deps are those of a pipeline whose events go nowhere.
func (r *Runner) deps(m *pipeline.Models) (*pipeline.Deps, func(), error) {
	seq, err := event.OpenSequencer("")
	if err != nil {
		return nil, nil, err
	}
	bus := event.NewBus(0)
	return &pipeline.Deps{Models: m, Batcher: r.batch, Bus: bus, Emitter: event.NewEmitter(seq, bus, nowhere{}), Log: r.cfg.Log}, bus.Close, nil
}

type nowhere struct{}

func (nowhere) Publish(context.Context, *event.Event) error { return nil }

func (r *Runner) streams(ctx context.Context, video string, n int, d time.Duration) ([]time.Duration, error) {
	if err := r.useOwn(); err != nil {
		return nil, err
	}
	playing, cancel := context.WithTimeout(ctx, d+time.Second) // the last begins after a second
	defer cancel()
	all, err := r.live(playing, video, n, 1, true)
	if err != nil || ctx.Err() != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	var took []time.Duration
	for _, t := range all {
		took = append(took, t.last.Sub(t.capture))
	}
	return took, nil
}

// firstWordFPS is the rate of the stream that FirstWord plays.
const firstWordFPS = 10

func (r *Runner) firstWord(ctx context.Context, video string) ([]time.Duration, error) {
	if err := r.useOwn(); err != nil {
		return nil, err
	}
	playing, cancel := context.WithTimeout(ctx, r.playFor)
	defer cancel()
	all, err := r.live(playing, video, 1, firstWordFPS, true)
	if err != nil || ctx.Err() != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	var took []time.Duration
	for _, t := range all {
		took = append(took, t.first.Sub(t.capture))
	}
	return took, nil
}

// looker is a stream's seeing half that lets every frame pass.
func (r *Runner) looker(ctx context.Context) (*pipeline.Looker, error) {
	if err := r.useOwn(); err != nil {
		return nil, err
	}
	return pipeline.NewLooker(r.models, r.batch, 0)
}

// describeTokens bounds the descriptions of fastForward, so that what the
// frames show does not decide the cost.
const describeTokens = 12

// A stream is young for a minute, of which the first seconds fill its window. As
// many updates are measured after each hour.
const (
	young  = 60
	filled = 10
)

// album is an encoder that keeps what the pictures of a cycle gave. The encoder
// has no memory: what it does for a picture is the same at each hour, so the
// hours between two measurements need not do it again.
type album struct {
	pipeline.VisualEncoder
	open bool // what is kept may be given
	kept map[*uint8]pipeline.Encoded
}

func (a *album) Encode(ctx context.Context, frames []*media.Frame, dst *pipeline.Encoded) error {
	key := &frames[0].Pix[0] // one frame a call
	if e, ok := a.kept[key]; ok && a.open {
		copy(dst.Tokens.Data, e.Tokens.Data)
		copy(dst.Image.Data, e.Image.Data)
		copy(dst.Patch.Data, e.Patch.Data)
		copy(dst.Distance, e.Distance)
		return nil
	}
	if err := a.VisualEncoder.Encode(ctx, frames, dst); err != nil {
		return err
	}
	e := *dst
	e.Tokens.Data, e.Image.Data, e.Patch.Data = slices.Clone(e.Tokens.Data), slices.Clone(e.Image.Data), slices.Clone(e.Patch.Data)
	e.Distance = slices.Clone(e.Distance)
	a.kept[key] = e
	return nil
}

// watched is a stream that is fed a frame a second.
type watched struct {
	l     *pipeline.Looker
	show  []*media.Frame
	began time.Time
	n     int
}

func (w *watched) look(ctx context.Context) error {
	f := *w.show[w.n%len(w.show)]
	w.n++
	at := time.Duration(w.n) * time.Second
	f.Seq, f.At = uint64(w.n), media.At(w.began.Add(at), at)
	_, err := w.l.Look(ctx, &f)
	return err
}

// update looks and speaks, and tells what that cost.
func (w *watched) update(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := w.look(ctx); err != nil {
		return 0, err
	}
	_, err := w.l.Say(ctx, pipeline.Request{Task: pipeline.Describe, MaxTokens: describeTokens}, nil)
	return time.Since(began), err
}

func (w *watched) updates(ctx context.Context, n int) ([]time.Duration, error) {
	var all []time.Duration
	for range n {
		d, err := w.update(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// resident is the memory in use: what the collector has yet to free depends on
// when it ran last.
func resident() uint64 {
	debug.FreeOSMemory()
	return bench.RSS()
}

func (r *Runner) fastForward(ctx context.Context, length time.Duration) (out bench.Aging, err error) {
	if err := r.useOwn(); err != nil {
		return out, err
	}
	show, err := r.pictures(ctx, 1)
	if err != nil {
		return out, err
	}
	a := &album{VisualEncoder: r.models.Encoder, kept: map[*uint8]pipeline.Encoded{}}
	m := *r.models
	m.Encoder = a
	serving, stop := context.WithCancel(ctx)
	batch := pipeline.NewBatcher(a, m.Info, 1)
	var wg sync.WaitGroup
	wg.Go(func() { _ = batch.Run(serving) }) // returns no error
	defer wg.Wait()
	defer stop()
	begin := func() (*watched, error) {
		l, err := pipeline.NewLooker(&m, batch, 0)
		return &watched{l: l, show: show, began: time.Now()}, err
	}
	old, err := begin()
	if err != nil {
		return out, err
	}
	defer old.l.Close()
	for hour := 0; ; hour++ {
		a.open = false
		if _, err := old.updates(ctx, filled); err != nil {
			return out, err
		}
		costs, err := old.updates(ctx, young-filled)
		if err != nil {
			return out, err
		}
		out.Hours = append(out.Hours, median(costs))
		if hour == 0 {
			out.Early = resident()
		}
		next := min(time.Duration(hour+1)*time.Hour, length)
		for a.open = true; time.Duration(old.n)*time.Second < next; {
			if err := old.look(ctx); err != nil {
				return out, err
			}
		}
		if next == length {
			break
		}
	}
	out.Late = resident()
	a.open = false
	fresh, err := begin()
	if err != nil {
		return out, err
	}
	defer fresh.l.Close()
	fresh.n = old.n // the same pictures
	for k := range young {
		pair := []*watched{old, fresh}
		if k%2 == 1 { // neither is always the first
			slices.Reverse(pair)
		}
		for _, w := range pair {
			cost, err := w.update(ctx)
			switch {
			case err != nil:
				return out, err
			case k < filled:
			case w == old:
				out.Old = append(out.Old, cost)
			default:
				out.Young = append(out.Young, cost)
			}
		}
	}
	return out, nil
}

// questions are the standing prompts.
var questions = []string{"is there a red van?", "is the gate open?", "how many people are there?", "is somebody walking?"}

func (r *Runner) prompts(ctx context.Context, video string, n int) (bench.PromptCost, error) {
	l, err := r.looker(ctx)
	if err != nil {
		return bench.PromptCost{}, err
	}
	defer l.Close()
	i := r.models.Info
	show, err := frames(ctx, ingest.Config{Name: "bench", URL: video, Width: i.Width, Height: i.Height, SampleRate: i.FPS, Stills: -1}, cycle/2)
	if err != nil {
		return bench.PromptCost{}, err
	}
	var visual, total []time.Duration
	// Frames come at one distance, as a stream's do, whether few questions or many follow them: shown at once they cost less, as
	// other guests take less of the machine's caches in between.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, f := range show {
		<-tick.C
		began := time.Now()
		if _, err := l.Look(ctx, f); err != nil {
			return bench.PromptCost{}, err
		}
		visual = append(visual, time.Since(began))
		for k := range n {
			if _, err := l.Say(ctx, pipeline.Request{Task: pipeline.Ask, Text: questions[k%len(questions)], MaxTokens: describeTokens}, nil); err != nil {
				return bench.PromptCost{}, err
			}
		}
		total = append(total, time.Since(began))
	}
	return bench.PromptCost{Visual: median(visual), Total: median(total)}, nil
}

// agree compares a stream's answers with the default gate to those with none.
func (r *Runner) agree(ctx context.Context, dir, video string) (out bench.Agreement, err error) {
	if dir != "" {
		return r.agreePublic(ctx, dir, video)
	}
	if err := r.useOwn(); err != nil {
		return out, err
	}
	i := r.models.Info
	show, err := frames(ctx, ingest.Config{Name: "bench", URL: video, Width: i.Width, Height: i.Height, SampleRate: i.FPS, Stills: -1}, 2*cycle)
	if err != nil {
		return out, err
	}
	var sides []*pipeline.Looker
	for _, gate := range []float64{0, configs.DefaultStream().Gate} {
		l, err := pipeline.NewLooker(r.models, r.batch, gate)
		if err != nil {
			return out, err
		}
		defer l.Close()
		sides = append(sides, l)
	}
	held := 0
	for n, f := range show {
		for k, l := range sides {
			seen, err := l.Look(ctx, f)
			if err != nil {
				return out, err
			}
			if k == 1 && !seen.Encoded {
				held++
			}
		}
		if n%4 != 3 { // once a second
			continue
		}
		for k := range len(questions) + 1 {
			req := pipeline.Request{Task: pipeline.Describe}
			if k > 0 {
				req = pipeline.Request{Task: pipeline.Ask, Text: questions[k-1]}
			}
			a, err := sides[0].Say(ctx, req, nil)
			if err != nil {
				return out, err
			}
			b, err := sides[1].Say(ctx, req, nil)
			if err != nil {
				return out, err
			}
			out.Asked++
			if a.Text == b.Text && a.CannotTell == b.CannotTell {
				out.Same++
			}
		}
	}
	out.Spared = float64(held) / float64(len(show))
	return out, nil
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func (r *Runner) watch(ctx context.Context, video string) error {
	if err := r.useOwn(); err != nil {
		return err
	}
	deps, done, err := r.deps(r.models)
	if err != nil {
		return err
	}
	defer done()
	c := stream("bench", video)
	src, err := r.own.OpenSource(ctx, c, media.NewTap(1))
	if err != nil {
		return err
	}
	deps.Lossless, deps.Calm = true, true
	deps.Open = func(configs.Stream, pipeline.ModelInfo, *media.Tap, func(event.Status)) pipeline.Source { return src }
	if err := pipeline.NewStream(c, deps).Run(ctx); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return ctx.Err()
}
