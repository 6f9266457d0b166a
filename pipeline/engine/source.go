package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/ingest"
	"github.com/lookout-video/lookout/media"
	"github.com/lookout-video/lookout/output/webrtc"
	"github.com/lookout-video/lookout/pipeline"
)

// reader is what ingest.Reader and ingest.Supervised share.
type reader interface {
	ReadFrame(ctx context.Context, dst *media.Frame) error
	Still(seq uint64, width int) ([]byte, error)
	Calm(still bool)
	Info() ingest.Info
	Stats() ingest.Stats
	Close() error
}

// Source is an open source of frames of the model's size and rate.
type Source struct {
	reader
	back func() // returns its decoding threads
}

// Close closes the source.
func (s Source) Close() error {
	defer s.back()
	return s.reader.Close()
}

// Counters says what was read so far.
func (s Source) Counters() pipeline.SourceCounters {
	st, i := s.Stats(), s.Info()
	return pipeline.SourceCounters{Packets: st.Packets, Decoded: st.Decoded, Undecoded: st.Undecoded, Sampled: st.Sampled, DecodeErrors: st.DecodeErrors, Reconnects: st.Reconnects,
		Width: i.Width, Height: i.Height, FPS: st.FPS, Rotation: i.Rotation, Reordered: i.Reorders}
}

// Duration is the length of a file; 0 when there is no end or none is known.
func (s Source) Duration() time.Duration { return s.Info().Duration }

func sourceConfig(c configs.Stream, i pipeline.ModelInfo, tap *media.Tap) ingest.Config {
	rate := c.Rate
	if rate == 0 {
		rate = i.FPS
	}
	return ingest.Config{Name: c.Name, URL: c.URL, Loop: c.Loop, SampleRate: rate, Width: i.Width, Height: i.Height, RTSPTransport: c.Transport,
		ReadTimeout: c.Timeout, Decoder: c.Decoder, Tap: tap}
}

// OpenSource opens a source once, as fast as it can be read: for commands that
// work through a file, and must say at once when it cannot be opened.
func (e *Engine) OpenSource(ctx context.Context, c configs.Stream, tap *media.Tap) (Source, error) {
	conf := sourceConfig(c, e.Models.Info, tap)
	var back func()
	conf.Threads, back = e.Runtime.Lend(max(c.Threads, 2)) // one scales what the other decodes
	r, err := ingest.Open(ctx, conf)
	if err != nil {
		back()
		return Source{}, err
	}
	return Source{r, back}, nil
}

// Opener opens the sources of streams: paced as cameras are, connected again
// after each failure.
func (e *Engine) Opener(log *slog.Logger) pipeline.Opener {
	return func(c configs.Stream, info pipeline.ModelInfo, tap *media.Tap, onStatus func(event.Status)) pipeline.Source {
		conf := sourceConfig(c, info, tap)
		conf.Live = true
		var back func()
		conf.Threads, back = e.Runtime.Lend(c.Threads)
		conf.OnStatus = func(st ingest.Status) {
			out := status(st, c.URL == configs.Push)
			log.Info("source", "stream", c.Name, "state", out.State, "reason", out.Reason)
			onStatus(out)
		}
		if c.URL == configs.Push {
			conf.Packets = e.push.tap(c.Name)
			conf.URL = ""
		}
		return Source{ingest.Supervise(conf), back}
	}
}

// status says in an event's words what ingest says.
func status(st ingest.Status, push bool) event.Status {
	out := event.Status{State: string(st.State), Reason: st.Note}
	if st.Err == nil {
		return out
	}
	out.Reason = st.Err.Error()
	switch {
	case push:
		out.Reason, out.Fix = "nobody publishes to this stream", "publish a camera from the page, or with any WHIP client"
	case errors.Is(st.Err, ingest.ErrAuth):
		out.Fix = "write user and password into the stream's url"
	case errors.Is(st.Err, ingest.ErrNotFound):
		out.Fix = "check the path in the stream's url"
	case errors.Is(st.Err, ingest.ErrUnreachable), errors.Is(st.Err, ingest.ErrTimeout):
		out.Fix = "check that the camera is on and can be reached from here"
	default:
		out.Fix = "look at the source with `lookout describe`; it is tried again meanwhile"
	}
	return out
}

// Transcoder makes VP8 of in's packets: the tap it publishes into, and the
// function that does it until its context or the stream ends.
func (e *Engine) Transcoder(stream string, in *media.Tap, rotation int) (*media.Tap, func(context.Context) error) {
	t := ingest.NewTranscoder(ingest.TranscodeConfig{Name: stream, Rotation: rotation}, in)
	return t.Tap(), t.Run
}

// Clip puts packets into a file that plays, without encoding anew.
func (e *Engine) Clip(packets []*media.Packet, rotation int) (video []byte, format string, start media.Timestamp, err error) {
	return ingest.Clip(packets, rotation)
}

// pushes are the taps of the streams that are published to.
type pushes struct {
	mu sync.Mutex
	m  map[string]*pushed
}

type pushed struct {
	tap  *media.Tap
	busy atomic.Bool // somebody publishes
}

func (p *pushes) get(stream string) *pushed {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.m[stream]
	if s == nil {
		s = &pushed{tap: media.NewTap(0)}
		p.m[stream] = s
	}
	return s
}

func (p *pushes) tap(stream string) *media.Tap { return p.get(stream).tap }

// Publish gives the sink that feeds a stream whose URL is configs.Push.
func (e *Engine) Publish(stream string, _ media.Codec) (webrtc.PushSink, error) {
	p := e.push.get(stream)
	if !p.busy.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("somebody publishes to %s already: %w", stream, pipeline.ErrExists)
	}
	return &pushSink{p: p}, nil
}

type pushSink struct {
	p    *pushed
	once sync.Once
}

func (s *pushSink) Write(p *media.Packet) error {
	s.p.tap.Publish(p)
	return nil
}

func (s *pushSink) Close() error {
	s.once.Do(func() {
		s.p.tap.Cut() // what was sent last is no picture of now, nor of the next publisher's
		s.p.busy.Store(false)
	})
	return nil
}
