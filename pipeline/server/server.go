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
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
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
	// Load loads the model that a stream names for itself.
	// It defaults to none: such a stream fails, and says so.
	Load func(c configs.Config) (*pipeline.Models, error)
	// UntilDone ends Run when every stream has ended. It defaults to false: a
	// server waits for streams that are added.
	UntilDone bool
	// Version is shown on the page.
	Version string
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
	holding  *event.Holding
	boxes    []box
	redis    *redis.Client // nil when it is not set up
	index    *search.Index
	evidence *evidence.Store
	batcher  *pipeline.Batcher
	deps     *pipeline.Deps
	manager  *pipeline.Manager
	registry *prometheus.Registry
	web      *web.Server

	ctx     context.Context // of Run
	kept    chan keepJob
	keepers sync.WaitGroup
	clips   errgroup.Group // the alerts whose clip is not complete yet
	shots   shots

	picking sync.Mutex
	picked  map[string]*pipeline.Deps // by the model's name
	back    context.Context           // of what outlives the streams
	behind  errgroup.Group
}

// pick gives the Deps of a stream with a model of its own. A model is loaded
// once, and encodes for all its streams.
func (s *Server) pick(name string) (*pipeline.Deps, error) {
	s.picking.Lock()
	defer s.picking.Unlock()
	if d := s.picked[name]; d != nil {
		return d, nil
	}
	if s.o.Load == nil {
		return nil, fmt.Errorf("model %s: a model for one stream cannot be loaded here", name)
	}
	c := s.o.Config
	c.Model = name
	m, err := s.o.Load(c)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", name, err)
	}
	d := *s.deps
	d.Models, d.Batcher, d.Pick = m, pipeline.NewBatcher(m.Encoder, m.Info, min(len(c.Streams), m.Info.Batch)), nil
	s.behind.Go(func() error { return d.Batcher.Run(s.back) })
	s.picked[name] = &d
	return &d, nil
}

// box is the outbox in front of one sink.
type box struct {
	name string
	*outbox.Outbox
}

// evidenceWidth is that of the snapshots, in pixels.
const evidenceWidth = 640

// maxClips is how many clips may wait for their end at once.
const maxClips = 64

// keepJob is an event on its way to the index and the evidence on disk.
type keepJob struct {
	s     *pipeline.Stream
	ev    *event.Event
	image []float32
}

// New opens everything that can fail before the first frame: files, the
// listening address, the sinks' configuration.
func New(o Options) (_ *Server, err error) {
	if o.History <= 0 {
		o.History = 500
	}
	s := &Server{o: o, bus: event.NewBus(o.History), kept: make(chan keepJob, 256), registry: prometheus.NewRegistry(), picked: map[string]*pipeline.Deps{}}
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
	if s.holding, err = event.OpenHolding(filepath.Join(c.StateDir, "alerts.json")); err != nil {
		o.Log.Warn("alerts that a crash left open are not ended", "error", err)
	}
	outs = append(append([]event.Publisher{s.holding.Begins()}, outs...), s.holding.Ends())
	s.emitter = event.NewEmitter(s.seq, s.bus, outs...)
	if !c.Search.Off {
		if s.index, err = search.Open(search.Config{Path: filepath.Join(c.StateDir, "search.db"), MaxEvents: c.Search.MaxEvents, MaxAge: c.Search.MaxAge, Log: o.Log, Model: o.Models.Info.Hash}); err != nil {
			return nil, err
		}
	}
	if !c.Evidence.Off {
		if s.evidence, err = evidence.Open(evidence.Config{Dir: filepath.Join(c.StateDir, "evidence"), MaxBytes: c.Evidence.MaxBytes, MaxAge: c.Evidence.MaxAge}); err != nil {
			return nil, err
		}
	}
	s.batcher = pipeline.NewBatcher(o.Models.Encoder, o.Models.Info, min(len(c.Streams), o.Models.Info.Batch))
	s.deps = &pipeline.Deps{Models: o.Models, Batcher: s.batcher, Emitter: s.emitter, Bus: s.bus, Open: o.Open, Log: o.Log, Keep: s.keep, Pick: s.pick, MaxTokens: c.LLM.MaxTokens}
	s.clips.SetLimit(maxClips)
	if s.evidence != nil && c.Evidence.Alerts != configs.KeepSnapshot {
		s.deps.Past = c.Evidence.Before + c.Evidence.After + clipSlack
	}
	s.manager = pipeline.NewManager(s.deps, c.StateDir)
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), metrics{s})
	return s, s.openWeb()
}

// openSinks opens an outbox in front of each sink that is set up.
func (s *Server) openSinks() ([]event.Publisher, error) {
	c := s.o.Config
	var outs []event.Publisher
	add := func(name string, sink outbox.Sink, linger time.Duration) error {
		o, err := outbox.Open(outbox.Config{Path: filepath.Join(c.StateDir, "outbox-"+name+".db"), Name: name, MaxEvents: c.Outbox.MaxEvents, MaxBytes: c.Outbox.MaxBytes,
			Linger: linger, Lost: s.lost, Log: s.o.Log}, sink)
		if err != nil {
			return errors.Join(err, sink.Close())
		}
		s.boxes = append(s.boxes, box{name, o})
		outs = append(outs, chosen{s, o, name})
		return nil
	}
	if c.Redis.URL != "" || len(c.Redis.Addrs) > 0 {
		r, err := redis.Open(RedisConfig(c.Redis))
		if err != nil {
			return nil, err
		}
		s.redis = r
		// A server that fails over may have lost its last second.
		if err := add("redis", r, 30*time.Second); err != nil {
			return nil, err
		}
	}
	if c.Webhook.URL != "" {
		w, err := webhook.Open(webhook.Config{URL: c.Webhook.URL, Secret: os.Getenv(c.Webhook.SecretEnv), Types: c.Webhook.Types})
		if err != nil {
			return nil, err
		}
		if err := add("webhook", w, 0); err != nil {
			return nil, err
		}
	}
	if c.MQTT.URL != "" {
		m, err := mqtt.Open(mqtt.Config{URL: c.MQTT.URL, Topic: c.MQTT.Topic, Username: c.MQTT.Username, Password: os.Getenv(c.MQTT.PasswordEnv),
			CAFile: c.MQTT.CAFile, CertFile: c.MQTT.CertFile, KeyFile: c.MQTT.KeyFile, Retain: c.MQTT.Retain})
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
	return redis.Config{URL: c.URL, Addrs: c.Addrs, Cluster: c.Cluster, MasterName: c.SentinelMaster, Username: c.Username, Password: c.Password,
		SentinelUsername: c.SentinelUsername, SentinelPassword: c.SentinelPassword, DB: c.DB,
		TLS: c.TLS, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, ServerName: c.ServerName, NoAll: c.NoAll,
		Prefix: c.Prefix, MaxLen: c.MaxLen, AllMaxLen: 10 * c.MaxLen, MaxAge: c.MaxAge, Notify: c.Notify}
}

// chosen passes on the events of the streams that want this sink.
type chosen struct {
	s    *Server
	box  *outbox.Outbox
	name string
}

func (c chosen) Publish(ctx context.Context, ev *event.Event) error {
	if conf, ok := c.s.manager.Config(ev.Data.Stream); ok && len(conf.Sinks) > 0 && !slices.Contains(conf.Sinks, c.name) {
		return nil
	}
	return c.box.Publish(ctx, ev)
}

// lost tells that events did not reach a sink, as an event like any other: the
// outbox makes room for it, and a report that is lost itself makes no other.
func (s *Server) lost(stream string, n uint64, reason string) {
	if stream == "" {
		return // a damaged file does not tell whose they were; the log has it
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.emitter.Emit(ctx, event.New(event.TypeStatus, time.Now().UTC(), event.Data{Stream: stream, EventID: event.NewID(), Phase: event.Point,
		Status: &event.Status{State: "lost_events", Count: n, Reason: reason, Fix: "see that the sink is reachable, or raise outbox.max_events"}}))
	if err != nil {
		s.o.Log.Error("a report of lost events is not durable", "stream", stream, "error", err)
	}
}

// keep queues an event for the index and the snapshots. It never waits: pictures
// are made of the frames by the keeper, off the streams' own time.
func (s *Server) keep(stream *pipeline.Stream, ev *event.Event, image []float32) {
	if ev.Type == event.TypeLabel || ev.Data.Phase == event.End {
		return
	}
	if m := ev.Data.Model; m != nil && m.Hash != s.o.Models.Info.Hash {
		image = nil // the stream has a model of its own: its embeddings compare with nothing in the index
	}
	job := keepJob{s: stream, ev: ev, image: slices.Clone(image)}
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
		if s.evidence == nil {
			continue
		}
		if job.ev.Data.Clip != "" && job.ev.Data.Phase == event.Start {
			s.startClip(job)
		}
		if job.ev.Data.Clip == "" || s.o.Config.Evidence.Alerts == configs.KeepBoth {
			s.keepSnapshot(job)
		}
	}
}

func (s *Server) keepSnapshot(job keepJob) {
	d := job.ev.Data
	frame := d.Evidence[len(d.Evidence)-1]
	jpeg, err := job.s.Still(frame.Frame, evidenceWidth)
	if err != nil {
		return // the source has ended, or has let go of the frame
	}
	shot, err := s.evidence.Put(d.Stream, d.EventID, frame, jpeg)
	if err != nil {
		s.o.Log.Error("a snapshot is not kept", "event", job.ev.ID, "error", err)
		return
	}
	s.shots.add(shotKey{d.Stream, frame.Frame}, shotPlace{d.EventID, shot.Name})
}

// clipSlack is what a stream keeps of its packets beyond the length of a clip:
// what passes between a frame and the event that rests on it.
const clipSlack = 10 * time.Second

// startClip keeps the clip of an alert once all of it has happened.
func (s *Server) startClip(job keepJob) {
	c := s.o.Config.Evidence
	d := job.ev.Data
	at := time.Duration(d.Evidence[len(d.Evidence)-1].MediaMS) * time.Millisecond
	waits := s.clips.TryGo(func() error {
		// A camera that stops has no more to wait for than one that goes on.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), c.After+clipSlack)
		defer cancel()
		packets, rotation := job.s.Packets(ctx, at-c.Before, at+c.After)
		video, format, start, err := s.o.Sources.Clip(packets, rotation)
		if err == nil {
			_, err = s.evidence.PutClip(d.Stream, d.EventID, start.Capture, format, video)
		}
		if err != nil {
			s.o.Log.Error("a clip is not kept", "stream", d.Stream, "event", job.ev.ID, "error", err)
		}
		return nil
	})
	if !waits {
		s.o.Log.Warn("too many alerts at once: a clip is not kept", "stream", d.Stream, "event", job.ev.ID)
	}
}

// iceServer takes the user and the password of a TURN server out of its
// address: turn:user:password@host:port.
func iceServer(u string) webrtc.ICEServer {
	scheme, rest, _ := strings.Cut(u, ":")
	at := strings.LastIndex(rest, "@")
	if at < 0 {
		return webrtc.ICEServer{URLs: []string{u}}
	}
	user, password, _ := strings.Cut(rest[:at], ":")
	return webrtc.ICEServer{URLs: []string{scheme + ":" + rest[at+1:]}, Username: user, Credential: password}
}

// openWeb opens the page's address; an empty web.listen leaves it out.
func (s *Server) openWeb() error {
	c := s.o.Config.Web
	if c.Listen == "" {
		return nil
	}
	conf := web.Config{Listen: c.Listen, Insecure: c.Insecure, TLSCert: c.TLSCert, TLSKey: c.TLSKey, StateDir: s.o.Config.StateDir, Origins: c.Origins,
		Version: s.o.Version, Registry: s.registry, Log: s.o.Log,
		WebRTC: webrtc.Config{Addresses: c.WebRTC.Addresses, UDPPort: c.WebRTC.UDPPort, UDPPortMin: c.WebRTC.PortMin, UDPPortMax: c.WebRTC.PortMax, TCPPort: c.WebRTC.TCPPort,
			NATAddresses: c.WebRTC.NATAddresses, HideAddresses: c.WebRTC.HideAddresses, MaxSessions: c.WebRTC.MaxSessions, Log: s.o.Log}}
	if host, _, err := net.SplitHostPort(c.Listen); err == nil && len(conf.WebRTC.Addresses) == 0 {
		if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
			conf.WebRTC.Addresses = []string{host} // media goes where the page does
		} else if host == "localhost" {
			conf.WebRTC.Addresses = []string{"127.0.0.1"}
		}
	}
	for _, u := range c.WebRTC.ICEServers {
		conf.WebRTC.ICEServers = append(conf.WebRTC.ICEServers, iceServer(u))
	}
	if c.Token != "" {
		conf.Accounts = append(conf.Accounts, web.Account{User: "token", Token: c.Token})
	}
	for _, a := range c.Accounts {
		acc := web.Account{User: a.User, Hash: a.PasswordHash, Token: os.Getenv(a.TokenEnv)}
		if len(a.Allow) > 0 {
			acc.Allow = map[string][]webrtc.Action{}
			for stream, acts := range a.Allow {
				for _, act := range acts {
					acc.Allow[stream] = append(acc.Allow[stream], webrtc.Action(act))
				}
			}
		}
		conf.Accounts = append(conf.Accounts, acc)
	}
	var err error
	s.web, err = web.New(conf, &backend{s: s, transcod: map[string]*transcode{}}, s.bus)
	return err
}

// URL is the page's address, empty when it is not served.
func (s *Server) URL() string {
	if s.web == nil {
		return ""
	}
	return s.web.URL()
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
	s.back = back
	s.behind.Go(func() error { return s.batcher.Run(back) })
	for _, b := range s.boxes {
		s.behind.Go(func() error { return b.Run(back) })
	}
	s.endLeft()
	front, fctx := errgroup.WithContext(ctx)
	if s.web != nil {
		front.Go(func() error { return s.web.Run(fctx) })
	}
	front.Go(func() error {
		defer cancel()
		return s.manager.Run(fctx, s.o.Config.Streams, s.o.UntilDone)
	})
	err := front.Wait()
	flush, done := context.WithTimeout(context.Background(), 2*time.Second)
	_ = s.Flush(flush) // what does not get out now waits in the outbox
	done()
	stopBack()
	return errors.Join(err, s.behind.Wait())
}

// endLeft ends the alerts that held when the program was killed.
func (s *Server) endLeft() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.emitter.Emit(ctx, s.holding.Left()...); err != nil {
		s.o.Log.Error("the end of an alert that a crash left open is not durable", "error", err)
	}
}

// Close frees all. Run must have returned.
func (s *Server) Close() error {
	var errs []error
	if s.web != nil {
		errs = append(errs, s.web.Close())
	}
	close(s.kept)
	s.keepers.Wait()
	_ = s.clips.Wait() // the streams have ended: none waits for more
	for _, b := range s.boxes {
		errs = append(errs, b.Close())
	}
	if s.index != nil {
		errs = append(errs, s.index.Close())
	}
	s.bus.Close()
	if s.seq != nil {
		errs = append(errs, s.seq.Close())
	}
	return errors.Join(errs...)
}
