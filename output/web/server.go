// Package web serves what people and programs see of Lookout: the page, the
// API, server-sent events, health and metrics, behind one gate.
package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/webrtc"
)

// OpenAPI describes the API; it is served at /api/openapi.yaml.
//
//go:embed openapi.yaml
var OpenAPI []byte

//go:embed page
var page embed.FS

// Server is the HTTP server and the WebRTC sessions behind it.
type Server struct {
	cfg     Config
	backend Backend
	bus     *event.Bus
	rtc     *webrtc.Server
	gate    *gate
	log     *slog.Logger
	http    *http.Server
	listen  net.Listener
	routes  []string

	ctx    context.Context // ends streams of events
	cancel context.CancelFunc

	subscribers atomic.Int64
	lostSSE     atomic.Uint64
}

// New checks cfg, opens the listening socket and the ports of WebRTC. Run
// serves; Close gives everything back when Run is not called.
func New(cfg Config, backend Backend, bus *event.Bus) (_ *Server, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, backend: backend, bus: bus, gate: newGate(cfg), log: cfg.Log}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if s.rtc, err = webrtc.New(cfg.WebRTC, backend, bus); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if err := cfg.Registry.Register(metrics{s}); err != nil {
		return nil, fmt.Errorf("web: metrics: %w", err)
	}
	if s.listen, err = net.Listen("tcp", cfg.Listen); err != nil {
		return nil, fmt.Errorf("web: listen on %s: %w; choose another address with web.listen", cfg.Listen, err)
	}
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
	}
	if cfg.TLSCert != "" {
		cert, err := certificate(cfg)
		if err != nil {
			return nil, err
		}
		s.http.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	return s, nil
}

// URL is the page's address.
func (s *Server) URL() string {
	scheme := "http"
	if s.cfg.TLSCert != "" {
		scheme = "https"
	}
	host, port, _ := net.SplitHostPort(s.listen.Addr().String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// WebRTC gives the sessions' counters.
func (s *Server) WebRTC() *webrtc.Server { return s.rtc }

// Run serves until ctx ends, then ends all sessions and returns nil.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() {
		if s.http.TLSConfig != nil {
			served <- s.http.ServeTLS(s.listen, "", "")
		} else {
			served <- s.http.Serve(s.listen)
		}
	}()
	select {
	case <-ctx.Done():
		_ = s.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("web: serve: %w", err)
		}
		return nil
	case err := <-served:
		_ = s.Close()
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("web: serve: %w", err)
	}
}

// Close ends the server and waits for its sessions. Requests that are being
// answered get three seconds.
func (s *Server) Close() error {
	s.cancel()
	s.cfg.Registry.Unregister(metrics{s})
	if s.http != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if s.http.Shutdown(ctx) != nil {
			_ = s.http.Close()
		}
	}
	if s.listen != nil {
		_ = s.listen.Close()
	}
	return s.rtc.Close()
}

// Routes lists the patterns that are served, as "METHOD /path".
func (s *Server) Routes() []string { return s.routes }

// handler routes all requests. Each pattern is in openapi.yaml.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	open := func(pattern string, h http.HandlerFunc) {
		s.routes = append(s.routes, pattern)
		mux.HandleFunc(pattern, h)
	}
	in := func(pattern string, h http.HandlerFunc) { open(pattern, s.gate.inside(h)) }

	open("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	open("GET /readyz", s.readyz)
	in("GET /metrics", promhttp.HandlerFor(s.cfg.Registry, promhttp.HandlerOpts{}).ServeHTTP)

	in("GET /api/session", s.session)
	open("POST /api/session", s.login)
	open("DELETE /api/session", func(w http.ResponseWriter, r *http.Request) {
		s.gate.logout(w, r)
		w.WriteHeader(http.StatusNoContent)
	})
	in("GET /api/streams", s.streams)
	in("POST /api/streams", s.addStream)
	in("GET /api/streams/{stream}", s.stream)
	in("PATCH /api/streams/{stream}", s.changeStream)
	in("DELETE /api/streams/{stream}", s.removeStream)
	in("POST /api/streams/{stream}/ask", s.ask)
	in("PUT /api/streams/{stream}/labels", s.labels)
	in("GET /api/streams/{stream}/frames/{frame}", s.still)
	in("GET /api/streams/{stream}/clips/{event}", s.clip)
	in("GET /api/events", s.events)
	in("GET /api/search", s.search)
	open("GET /api/openapi.yaml", static("application/yaml", OpenAPI))
	open("GET /api/protocol.schema.json", static("application/schema+json", webrtc.Schema))

	in("POST /whep/{stream}", s.whep)
	in("PATCH /whep/{stream}/{session}", s.patch)
	in("DELETE /whep/{stream}/{session}", s.endSession)
	in("POST /whip/{stream}", s.whip)
	in("PATCH /whip/{stream}/{session}", s.patch)
	in("DELETE /whip/{stream}/{session}", s.endSession)

	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	assets := http.FileServerFS(files)
	open("GET /", func(w http.ResponseWriter, r *http.Request) {
		// Unchanged within one build; a new build must be seen at once.
		w.Header().Set("Cache-Control", "no-cache")
		assets.ServeHTTP(w, r)
	})
	return s.outer(mux)
}

const csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; " +
	"connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// outer is what holds for every request: its host and origin, headers, size.
func (s *Server) outer(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	for _, o := range s.cfg.Origins {
		_ = cross.AddTrustedOrigin(o) // checked by Config.check
	}
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fail(w, &webrtc.Error{Code: "forbidden", Message: "a page of another origin may not do this; add it to web.origins"})
	}))
	guarded := cross.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", csp)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(self), microphone=(), geolocation=()")
		if s.gate.secure && s.cfg.TLSCert != "self" {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if !s.gate.hostAllowed(r.Host) {
			fail(w, &webrtc.Error{Code: "forbidden", Message: "unknown host name; add it to web.origins"})
			return
		}
		if o := r.Header.Get("Origin"); o != "" && slices.Contains(s.cfg.Origins, o) {
			h.Set("Access-Control-Allow-Origin", o)
			h.Set("Access-Control-Expose-Headers", "Location, ETag, Link")
			h.Add("Vary", "Origin")
			if r.Method == http.MethodOptions {
				h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
				h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, If-Match, Last-Event-ID")
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		if err := swallow(w, r); err != nil {
			fail(w, err)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

// swallow reads the whole body, which is small, within a bounded time. A bound
// on the whole request would end streams of events.
func swallow(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(15 * time.Second))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 256<<10))
	if err != nil {
		return fmt.Errorf("%w body: %w", webrtc.ErrInvalid, err)
	}
	_ = c.SetReadDeadline(time.Time{})
	r.Body = io.NopCloser(bytes.NewReader(b))
	return nil
}

func static(contentType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	}
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := s.backend.Ready(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// fail answers with the error's code and what may be told of it.
func fail(w http.ResponseWriter, err error) {
	f := webrtc.Fault(err)
	if f.Code == "busy" || f.Code == "rate_limited" {
		w.Header().Set("Retry-After", "2")
	}
	reply(w, status(f.Code), map[string]any{"error": f})
}

// fail is the same, and logs what the client is not told.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if isCanceled(err) && r.Context().Err() != nil {
		return
	}
	if webrtc.Fault(err).Code == "internal" {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	fail(w, err)
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-store")
	}
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// body reads a request's JSON into v, strictly.
func body(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w JSON: %v", webrtc.ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w JSON: more than one value", webrtc.ErrInvalid)
	}
	return nil
}

// metrics is the server as a collector.
type metrics struct{ s *Server }

var (
	descViewers     = prometheus.NewDesc("lookout_web_viewers", "Viewers over WebRTC, by stream.", []string{"stream"}, nil)
	descPublishers  = prometheus.NewDesc("lookout_web_publishers", "Cameras published over WebRTC, by stream.", []string{"stream"}, nil)
	descSessions    = prometheus.NewDesc("lookout_web_sessions_total", "WebRTC sessions made.", nil, nil)
	descSubscribers = prometheus.NewDesc("lookout_web_sse_subscribers", "Readers of server-sent events.", nil, nil)
	descLost        = prometheus.NewDesc("lookout_web_lost_total", "What slow viewers missed, by kind.", []string{"kind"}, nil)
)

func (metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descViewers, descPublishers, descSessions, descSubscribers, descLost} {
		ch <- d
	}
}

func (m metrics) Collect(ch chan<- prometheus.Metric) {
	st := m.s.rtc.Stats()
	for stream, n := range st.Viewers {
		ch <- prometheus.MustNewConstMetric(descViewers, prometheus.GaugeValue, float64(n), stream)
	}
	for stream, n := range st.Publishers {
		ch <- prometheus.MustNewConstMetric(descPublishers, prometheus.GaugeValue, float64(n), stream)
	}
	ch <- prometheus.MustNewConstMetric(descSessions, prometheus.CounterValue, float64(st.Sessions))
	ch <- prometheus.MustNewConstMetric(descSubscribers, prometheus.GaugeValue, float64(m.s.subscribers.Load()))
	for kind, n := range map[string]uint64{"packets": st.LostPackets, "events": st.LostEvents + m.s.lostSSE.Load(), "deltas": st.LostDeltas} {
		ch <- prometheus.MustNewConstMetric(descLost, prometheus.CounterValue, float64(n), kind)
	}
}
