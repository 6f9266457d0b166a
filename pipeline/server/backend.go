package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/evidence"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/output/web"
	"github.com/lookout-video/lookout/output/webrtc"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/search"
)

// Sources is what viewers, publishers and clips need of the ingest stage.
type Sources interface {
	// Transcoder makes VP8 of in's packets: the tap it publishes into, which
	// stays open, and the function that does it until ctx or the stream ends.
	Transcoder(stream string, in *media.Tap, rotation int) (*media.Tap, func(ctx context.Context) error)
	// Publish feeds the stream whose URL is configs.Push. It returns
	// pipeline.ErrExists while somebody else publishes.
	Publish(stream string, codec media.Codec) (webrtc.PushSink, error)
	// Clip puts packets into a file that plays, of the format mp4 or webm; start is
	// the time of its first picture.
	Clip(packets []*media.Packet, rotation int) (video []byte, format string, start media.Timestamp, err error)
}

// backend is the pipeline as the page and its API see it.
type backend struct {
	s *Server

	mu       sync.Mutex
	transcod map[string]*transcode
}

var _ web.Backend = (*backend)(nil)

// transcode is one stream's VP8, shared by all who watch.
type transcode struct {
	tap    *media.Tap
	users  int
	cancel context.CancelFunc
	done   chan struct{}
}

// fault maps the pipeline's errors to those that outputs decide on.
func fault(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pipeline.ErrNotFound), errors.Is(err, pipeline.ErrEnded):
		return fmt.Errorf("%w: %w", webrtc.ErrNotFound, err)
	case errors.Is(err, pipeline.ErrExists):
		return fmt.Errorf("%w: %w", webrtc.ErrExists, err)
	case errors.Is(err, pipeline.ErrPast):
		return invalid(err)
	case errors.Is(err, pipeline.ErrBusy):
		return fmt.Errorf("%w: %w", webrtc.ErrBusy, err)
	}
	return err
}

func invalid(err error) error { return fmt.Errorf("%w: %w", webrtc.ErrInvalid, err) }

// firstPacket bounds the wait for a camera that is just connecting.
const firstPacket = 5 * time.Second

func (b *backend) Browser(ctx context.Context, name string) (*media.Tap, func(), error) {
	select { // who comes before the streams are there waits for them
	case <-b.s.manager.Started():
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	s, err := b.s.manager.Get(name)
	if err != nil {
		return nil, nil, fault(err)
	}
	codec, err := b.codec(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	if codec == media.VP8 || codec == media.H264 && !s.Snapshot().Counters.Reordered {
		return s.Tap(), func() {}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.transcod[name]
	if t == nil {
		tctx, cancel := context.WithCancel(b.s.ctx)
		tap, run := b.s.o.Sources.Transcoder(name, s.Tap(), s.Snapshot().Counters.Rotation)
		t = &transcode{tap: tap, cancel: cancel, done: make(chan struct{})}
		b.transcod[name] = t
		go func() {
			defer close(t.done)
			defer t.tap.Close()
			if err := run(tctx); err != nil && tctx.Err() == nil {
				b.s.o.Log.Error("transcoding for viewers stopped", "stream", name, "error", err)
			}
			b.mu.Lock() // whoever comes next starts it anew
			if b.transcod[name] == t {
				delete(b.transcod, name)
			}
			b.mu.Unlock()
		}()
	}
	t.users++
	return t.tap, func() { b.release(t) }, nil
}

func (b *backend) release(t *transcode) {
	b.mu.Lock()
	t.users--
	last := t.users == 0
	b.mu.Unlock()
	if last {
		t.cancel()
		<-t.done
	}
}

// codec waits for the first packet.
func (b *backend) codec(ctx context.Context, s *pipeline.Stream) (media.Codec, error) {
	ctx, cancel := context.WithTimeout(ctx, firstPacket)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if c := s.Tap().Codec(); c != "" {
			return c, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("%w: no video of stream %s yet", webrtc.ErrNotFound, s.Config().Name)
		}
	}
}

func (b *backend) Ask(ctx context.Context, q webrtc.Question) (*event.Event, error) {
	s, err := b.s.manager.Get(q.Stream)
	if err != nil {
		return nil, fault(err)
	}
	ev, err := s.Ask(ctx, event.Prompt{ID: q.ID, Text: q.Text}, q.Viewer, q.Since)
	return ev, fault(err)
}

func (b *backend) SetPrompt(_ context.Context, stream, viewer, text string) error {
	s, err := b.s.manager.Get(stream)
	if err != nil {
		return fault(err)
	}
	return fault(s.SetPrompt(viewer, text))
}

func (b *backend) SetLabels(_ context.Context, stream string, labels []string) error {
	s, err := b.s.manager.Get(stream)
	if err != nil {
		return fault(err)
	}
	if b.s.o.Models.Labeler == nil && len(labels) > 0 {
		return invalid(errors.New("the model has no text tower: it gives no labels"))
	}
	s.SetLabels(labels)
	return nil
}

func (b *backend) Publish(_ context.Context, stream string, codec media.Codec) (webrtc.PushSink, error) {
	s, err := b.s.manager.Get(stream)
	switch {
	case errors.Is(err, pipeline.ErrNotFound):
		c := configs.DefaultStream()
		c.Name, c.URL = stream, configs.Push
		if err := b.s.manager.Add(c); err != nil {
			return nil, invalid(err)
		}
	case err != nil:
		return nil, fault(err)
	case s.Config().URL != configs.Push:
		return nil, fault(fmt.Errorf("%s has a source of its own: %w", stream, pipeline.ErrExists))
	}
	sink, err := b.s.o.Sources.Publish(stream, codec)
	return sink, fault(err)
}

func (b *backend) Streams() []web.StreamInfo {
	all := b.s.manager.All()
	out := make([]web.StreamInfo, 0, len(all))
	for _, s := range all {
		out = append(out, info(s))
	}
	return out
}

func info(s *pipeline.Stream) web.StreamInfo {
	sn := s.Snapshot()
	c := s.Config()
	return web.StreamInfo{Name: sn.Name, Source: media.RedactURL(c.URL), Loop: c.Loop, Prompt: c.Describe.Prompt, State: sn.Status.State, Reason: sn.Status.Reason, Fix: sn.Status.Fix,
		Codec: sn.Codec, Width: sn.Counters.Width, Height: sn.Counters.Height, FPS: sn.Counters.FPS, LookFPS: sn.LookFPS,
		GlassToWordMS: pipeline.Percentile(sn.GlassToWord, 0.5), Skipped: sn.Skipped, Degraded: sn.Degraded, Seq: sn.Seq,
		Labels: sn.LabelNames, Scores: sn.Labels, Alerts: sn.Prompts}
}

func (b *backend) AddStream(_ context.Context, config json.RawMessage) (web.StreamInfo, error) {
	c, err := configs.ParseStream(config, configs.DefaultStream())
	if err != nil {
		return web.StreamInfo{}, invalid(err)
	}
	return b.apply(c, b.s.manager.Add)
}

func (b *backend) ChangeStream(_ context.Context, stream string, patch json.RawMessage) (web.StreamInfo, error) {
	s, err := b.s.manager.Get(stream)
	if err != nil {
		return web.StreamInfo{}, fault(err)
	}
	c, err := configs.ParseStream(patch, s.Config())
	if err != nil {
		return web.StreamInfo{}, invalid(err)
	}
	if c.Name != stream {
		return web.StreamInfo{}, invalid(errors.New("a stream keeps its name; remove it and add another"))
	}
	return b.apply(c, b.s.manager.Change)
}

func (b *backend) apply(c configs.Stream, do func(configs.Stream) error) (web.StreamInfo, error) {
	if err := c.Validate(); err != nil {
		return web.StreamInfo{}, invalid(err)
	}
	if err := do(c); err != nil {
		return web.StreamInfo{}, fault(err)
	}
	s, err := b.s.manager.Get(c.Name)
	if err != nil {
		return web.StreamInfo{}, fault(err)
	}
	return info(s), nil
}

func (b *backend) RemoveStream(_ context.Context, stream string) error {
	return fault(b.s.manager.Remove(stream))
}

func (b *backend) Still(_ context.Context, stream string, frame uint64, width int) ([]byte, error) {
	s, err := b.s.manager.Get(stream)
	if err != nil {
		return nil, fault(err)
	}
	jpeg, err := s.Still(frame, width)
	if err == nil {
		return jpeg, nil
	}
	if b.s.evidence != nil {
		if at, ok := b.s.shots.get(shotKey{stream, frame}); ok {
			if jpeg, err := b.s.evidence.Read(at.event, at.name); err == nil {
				return jpeg, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: frame %d of stream %s is not kept any more", webrtc.ErrNotFound, frame, stream)
}

func (b *backend) Clip(_ context.Context, stream, eventID string) (*web.Clip, error) {
	if b.s.evidence == nil {
		return nil, fmt.Errorf("%w: no evidence is kept (evidence.off)", webrtc.ErrNotFound)
	}
	f, c, err := b.s.evidence.OpenClip(stream, eventID)
	if errors.Is(err, evidence.ErrNotFound) {
		return nil, fmt.Errorf("%w: event %s of stream %s has no clip, not yet or not any more", webrtc.ErrNotFound, eventID, stream)
	}
	if err != nil {
		return nil, err
	}
	return &web.Clip{ReadSeekCloser: f, Start: c.Start, Format: c.Format}, nil
}

func (b *backend) Search(ctx context.Context, query, stream string, k int) ([]web.Hit, error) {
	hits, err := b.s.Search(ctx, query, stream, k)
	if err != nil {
		return nil, err
	}
	out := make([]web.Hit, 0, len(hits))
	for _, h := range hits {
		out = append(out, web.Hit{Event: h.Event, Score: h.Score})
	}
	return out, nil
}

func (b *backend) Ready() error {
	select {
	case <-b.s.manager.Started():
		return nil
	default:
		return errors.New("the streams are being started")
	}
}

// Search finds past events by their words and, when the model has a text tower,
// by their pictures.
func (s *Server) Search(ctx context.Context, query, stream string, k int) ([]search.Hit, error) {
	if s.index == nil {
		return nil, invalid(errors.New("the search index is switched off (search.off)"))
	}
	var vec []float32
	if l := s.o.Models.Labeler; l != nil {
		var err error
		if vec, err = l.Text(ctx, query); err != nil {
			return nil, err
		}
	}
	return s.index.Search(search.Query{Text: query, Image: vec, Stream: stream, K: k})
}
