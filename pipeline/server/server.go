// Package server puts a whole Lookout together: the streams of a configuration,
// the sinks behind their outboxes, the page and its API.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/evidence"
	"github.com/lookout-video/lookout/output/mqtt"
	"github.com/lookout-video/lookout/output/outbox"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/output/web"
	"github.com/lookout-video/lookout/output/webhook"
	"github.com/lookout-video/lookout/output/webrtc"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/search"
)

// Options is what a Server is made of.
type Options struct {
	Config  configs.Config
	Models  *pipeline.Models
	Open    pipeline.Opener
	Sources Sources
	Log     *slog.Logger
	// UntilDone ends Run when every stream has ended. It defaults to false: a
	// server waits for streams that are added.
	UntilDone bool
	// History is how many events of each stream late joiners can get.
	// It defaults to 500.
	History int
}

// Server is a running Lookout. Make it with New, run it with Run, then Close it.
type Server struct {
	o        Options
	bus      *event.Bus
	seq      *event.Sequencer
	emitter  *event.Emitter
	boxes    []*outbox.Outbox
	index    *search.Index
	evidence *evidence.Store
	batcher  *pipeline.Batcher
	manager  *pipeline.Manager
	rtc      *webrtc.Server
	web      *web.Server
	listener net.Listener

	ctx     context.Context // of Run
	ready   chan struct{}
	kept    chan keepJob
	keepers sync.WaitGroup
}

// keepJob is an event on its way to the index and the evidence on disk.
type keepJob struct {
	ev    *event.Event
	image []float32
	jpeg  []byte
}

// New opens everything that can fail before the first frame: files, the
// listening address, the sinks' configuration.
func New(o Options) (_ *Server, err error) {
	if o.History <= 0 {
		o.History = 500
	}
	s := &Server{o: o, bus: event.NewBus(o.History), ready: make(chan struct{}), kept: make(chan keepJob, 256)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	c := o.Config
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("server: state_dir: %w", err)
	}
	if s.seq, err = event.OpenSequencer(filepath.Join(c.StateDir, "sequence.json")); err != nil {
		return nil, err
	}
	outs, err := s.openSinks()
	if err != nil {
		return nil, err
	}
	s.emitter = event.NewEmitter(s.seq, s.bus, outs...)
	if !c.Search.Off {
		if s.index, err = search.Open(search.Config{Path: filepath.Join(c.StateDir, "search.db"), MaxEvents: c.Search.MaxEvents, MaxAge: c.Search.MaxAge}); err != nil {
			return nil, err
		}
	}
	if !c.Evidence.Off {
		if s.evidence, err = evidence.Open(evidence.Config{Dir: filepath.Join(c.StateDir, "evidence"), MaxBytes: c.Evidence.MaxBytes, MaxAge: c.Evidence.MaxAge}); err != nil {
			return nil, err
		}
	}
	s.batcher = pipeline.NewBatcher(o.Models.Encoder, o.Models.Info, min(max(len(c.Streams), 1), 8))
	s.manager = pipeline.NewManager(&pipeline.Deps{Models: o.Models, Batcher: s.batcher, Emitter: s.emitter, Bus: s.bus, Open: o.Open, Log: o.Log, Keep: s.keep,
		MaxTokens: c.LLM.MaxTokens}, c.StateDir)
	return s, s.openWeb()
}

// openSinks opens an outbox in front of each sink that is set up.
func (s *Server) openSinks() ([]event.Publisher, error) {
	c := s.o.Config
	var outs []event.Publisher
	add := func(name string, sink outbox.Sink, linger time.Duration) error {
		box, err := outbox.Open(outbox.Config{Path: filepath.Join(c.StateDir, "outbox-"+name+".db"), Name: name, MaxEvents: c.Outbox.MaxEvents, MaxBytes: c.Outbox.MaxBytes,
			Linger: linger, Lost: s.lost, Log: s.o.Log}, sink)
		if err != nil {
			return errors.Join(err, sink.Close())
		}
		s.boxes = append(s.boxes, box)
		outs = append(outs, chosen{box, name, c.Streams})
		return nil
	}
	if c.Redis.URL != "" || len(c.Redis.Addrs) > 0 {
		r, err := redis.Open(RedisConfig(c.Redis))
		if err != nil {
			return nil, err
		}
		// A server that fails over may have lost its last second.
		if err := add("redis", r, 30*time.Second); err != nil {
			return nil, err
		}
	}
	if c.Webhook.URL != "" {
		w, err := webhook.Open(webhook.Config{URL: c.Webhook.URL, Secret: os.Getenv(c.Webhook.SecretEnv), Timeout: c.Webhook.Timeout})
		if err != nil {
			return nil, err
		}
		if err := add("webhook", w, 0); err != nil {
			return nil, err
		}
	}
	if c.MQTT.URL != "" {
		m, err := mqtt.Open(mqtt.Config{URL: c.MQTT.URL, Topic: c.MQTT.Topic, Username: c.MQTT.Username, Password: os.Getenv(c.MQTT.PasswordEnv)})
		if err != nil {
			return nil, err
		}
		if err := add("mqtt", m, 0); err != nil {
			return nil, err
		}
	}
	return outs, nil
}

// RedisConfig is the sink's configuration as the user wrote it.
func RedisConfig(c configs.Redis) redis.Config {
	return redis.Config{URL: c.URL, Addrs: c.Addrs, MasterName: c.SentinelMaster, Username: c.Username, Password: c.Password, CAFile: c.CAFile,
		Prefix: c.Prefix, MaxLen: c.MaxLen, AllMaxLen: 10 * c.MaxLen, MaxAge: c.MaxAge, Notify: c.Notify}
}

// chosen passes on the events of the streams that want this sink.
type chosen struct {
	box     *outbox.Outbox
	name    string
	streams []configs.Stream
}

func (c chosen) Publish(ctx context.Context, ev *event.Event) error {
	for i := range c.streams {
		if s := &c.streams[i]; s.Name == ev.Data.Stream && len(s.Sinks) > 0 && !slices.Contains(s.Sinks, c.name) {
			return nil
		}
	}
	return c.box.Publish(ctx, ev)
}

// lost tells viewers that events did not reach a sink. It goes to the bus
// alone: what is full must not be filled further.
func (s *Server) lost(stream string, n uint64, reason string) {
	s.bus.Publish(event.New(event.TypeStatus, time.Now().UTC(), event.Data{Stream: stream, EventID: event.NewID(), Phase: event.Point,
		Status: &event.Status{State: "lost_events", Count: n, Reason: reason, Fix: "see that the sink is reachable, or raise outbox.max_events"}}))
}

// keep queues an event for the index and, when somebody may want to see what it
// rests on, its picture. It never waits.
func (s *Server) keep(ev *event.Event, image []float32, still func(int) ([]byte, error)) {
	if ev.Type == event.TypeLabel || ev.Data.Phase == event.End {
		return
	}
	job := keepJob{ev: ev, image: slices.Clone(image)}
	if s.evidence != nil {
		if jpeg, err := still(640); err == nil {
			job.jpeg = jpeg
		}
	}
	select {
	case s.kept <- job:
	default:
		s.o.Log.Warn("the disk is too slow: an event is not indexed", "stream", ev.Data.Stream, "event", ev.ID)
	}
}

func (s *Server) keeper() {
	for job := range s.kept {
		if s.index != nil {
			if err := s.index.Add(job.ev, job.image); err != nil {
				s.o.Log.Error("an event is not indexed", "event", job.ev.ID, "error", err)
			}
		}
		if s.evidence != nil && len(job.jpeg) > 0 {
			if _, err := s.evidence.Save(job.ev, job.jpeg); err != nil {
				s.o.Log.Error("a snapshot is not kept", "event", job.ev.ID, "error", err)
			}
		}
	}
}

// Addr is the address that the page is served at, empty when it is not.
func (s *Server) Addr() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Bus carries all events and deltas.
func (s *Server) Bus() *event.Bus { return s.bus }

// Manager runs the streams.
func (s *Server) Manager() *pipeline.Manager { return s.manager }

// Flush waits until the sinks have what was said, or ctx ends.
func (s *Server) Flush(ctx context.Context) error {
	var errs []error
	for _, b := range s.boxes {
		errs = append(errs, b.Flush(ctx))
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends or, with UntilDone, every stream has.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.ctx = ctx
	s.keepers.Go(s.keeper)
	// What encodes and delivers outlives the streams: they finish first.
	back, stopBack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBack()
	var behind errgroup.Group
	behind.Go(func() error { return s.batcher.Run(back) })
	for _, b := range s.boxes {
		behind.Go(func() error { return b.Run(back) })
	}
	front, fctx := errgroup.WithContext(ctx)
	if s.web != nil {
		front.Go(func() error { return s.web.Serve(fctx, s.listener) })
	}
	front.Go(func() error {
		defer cancel()
		close(s.ready)
		return s.manager.Run(fctx, s.o.Config.Streams, s.o.UntilDone)
	})
	err := front.Wait()
	flush, done := context.WithTimeout(context.Background(), 2*time.Second)
	_ = s.Flush(flush) // what does not get out now waits in the outbox
	done()
	stopBack()
	return errors.Join(err, behind.Wait())
}

// Close frees all. Run must have returned.
func (s *Server) Close() error {
	var errs []error
	if s.rtc != nil {
		errs = append(errs, s.rtc.Close())
	}
	if s.listener != nil {
		if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	close(s.kept)
	s.keepers.Wait()
	for _, b := range s.boxes {
		errs = append(errs, b.Close())
	}
	if s.index != nil {
		errs = append(errs, s.index.Close())
	}
	if s.evidence != nil {
		errs = append(errs, s.evidence.Close())
	}
	s.bus.Close()
	if s.seq != nil {
		errs = append(errs, s.seq.Close())
	}
	return errors.Join(errs...)
}
