// Package webrtc brings a stream's pictures and words to browsers over one
// connection, stamped with the same clock, so that words can be put on the
// picture they are about. It also takes cameras in the other direction.
package webrtc

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	pion "github.com/pion/webrtc/v4"

	"github.com/lookout-video/lookout/event"
)

// Action is what somebody may do with a stream.
type Action string

// The actions that access is given for.
const (
	View    Action = "view"
	Publish Action = "publish"
	Ask     Action = "ask" // also prompts and labels
)

// Server holds the sessions of viewers and publishers.
type Server struct {
	cfg     Config
	net     *network
	backend Backend
	bus     *event.Bus

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	sessions map[string]*session
	pending  int // slots taken by sessions that are being made
	closed   bool
	lost     Stats // of sessions that have ended
}

// Stats counts what the server has done. Viewers and Publishers are those
// there now, by stream; the rest only grow.
type Stats struct {
	Viewers, Publishers map[string]int
	// Sessions counts all that were made.
	Sessions uint64
	// Packets are those that slow viewers skipped; Events and Deltas those
	// that their data channels had no room for.
	LostPackets, LostEvents, LostDeltas uint64
}

// New makes a Server and opens its shared ports. Close ends it.
func New(cfg Config, backend Backend, bus *event.Bus) (*Server, error) {
	cfg.setDefaults()
	n, err := newNetwork(cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, net: n, backend: backend, bus: bus, sessions: map[string]*session{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Close ends all sessions and waits for them.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	s.net.close()
	return nil
}

// ICEServers are those that viewers should use too.
func (s *Server) ICEServers() []ICEServer { return s.cfg.ICEServers }

// Stats counts what the server has done.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.lost
	st.Viewers, st.Publishers = map[string]int{}, map[string]int{}
	for _, x := range s.sessions {
		if x.publishes {
			st.Publishers[x.stream]++
		} else {
			st.Viewers[x.stream]++
		}
		st.add(x)
	}
	return st
}

func (st *Stats) add(x *session) {
	st.Sessions++
	st.LostPackets += x.lostPackets.Load()
	st.LostEvents += x.lostEvents.Load()
	st.LostDeltas += x.lostDeltas.Load()
}

// Answer is the server's side of a new session.
type Answer struct {
	// Session names it for Patch and End; who knows the name may end it.
	Session string
	SDP     string
	// ETag names the ICE session that Patch's fragments must be for.
	ETag string
}

// reserve takes a place for one more session.
func (s *Server) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("webrtc: server closed: %w", ErrBusy)
	}
	if len(s.sessions)+s.pending >= s.cfg.MaxSessions {
		return fmt.Errorf("webrtc: %d sessions open, the most allowed: %w", s.cfg.MaxSessions, ErrBusy)
	}
	s.pending++
	s.wg.Add(1)
	return nil
}

// unreserve gives the place back, or to x when it is not nil.
func (s *Server) unreserve(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending--
	if x != nil {
		s.sessions[x.id] = x
		return
	}
	s.wg.Done()
}

func (s *Server) forget(x *session) {
	s.mu.Lock()
	delete(s.sessions, x.id)
	s.lost.add(x)
	s.mu.Unlock()
	s.wg.Done()
}

func (s *Server) find(id string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.sessions[id]; x != nil {
		return x, nil
	}
	return nil, fmt.Errorf("webrtc: session %w", ErrNotFound)
}

// Patch applies a fragment (application/trickle-ice-sdpfrag) to a session, as
// RFC 9725 has it: it adds candidates or, when the fragment brings other ICE
// credentials, restarts ICE. match is the request's If-Match: the ETag of the
// ICE session that the fragment is for, or "*". It returns the code
// precondition_required when match is empty and precondition_failed when it is
// of an earlier ICE session. SDP and ETag of the result are empty when
// candidates were added; after a restart SDP is the server's own fragment.
func (s *Server) Patch(ctx context.Context, session, match, fragment string) (Answer, error) {
	f, err := parseFragment(fragment)
	if err != nil {
		return Answer{}, err
	}
	x, err := s.find(session)
	if err != nil {
		return Answer{}, err
	}
	x.ice.Lock()
	defer x.ice.Unlock()
	switch match {
	case "":
		return Answer{}, &Error{"precondition_required", "send If-Match with the session's ETag, or * to restart ICE"}
	case "*", x.etag:
	default:
		return Answer{}, &Error{"precondition_failed", "the fragment is for an earlier ICE session; send it with the newest ETag, or restart ICE with If-Match: *"}
	}
	a := Answer{}
	if f.ufrag != "" && f.ufrag != x.remoteUfrag {
		if a, err = x.restart(ctx, f); err != nil {
			return Answer{}, err
		}
	}
	for _, c := range f.candidates {
		if err := x.pc.AddICECandidate(c); err != nil {
			return Answer{}, fmt.Errorf("%w candidate: %v", ErrInvalid, err)
		}
	}
	return a, nil
}

// End ends a session and waits until it is gone.
func (s *Server) End(ctx context.Context, session string) error {
	x, err := s.find(session)
	if err != nil {
		return err
	}
	x.end("viewer left")
	select {
	case <-x.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Owner is the stream that a session plays or publishes, and whether it
// publishes.
func (s *Server) Owner(session string) (stream string, publishes bool, err error) {
	x, err := s.find(session)
	if err != nil {
		return "", false, err
	}
	return x.stream, x.publishes, nil
}

// settle applies the offer and returns the complete answer. It is called once,
// and then by restart with x.ice held.
func (x *session) settle(ctx context.Context, offer string) (Answer, error) {
	if err := x.pc.SetRemoteDescription(pion.SessionDescription{Type: pion.SDPTypeOffer, SDP: offer}); err != nil {
		return Answer{}, fmt.Errorf("%w offer: %v", ErrInvalid, err)
	}
	x.offer, x.remoteUfrag = offer, sdpValue(offer, "a=ice-ufrag:")
	answer, err := x.pc.CreateAnswer(nil)
	if err != nil {
		return Answer{}, fmt.Errorf("%w offer: %v", ErrInvalid, err)
	}
	gathered := pion.GatheringCompletePromise(x.pc)
	if err := x.pc.SetLocalDescription(answer); err != nil {
		return Answer{}, fmt.Errorf("%w offer: %v", ErrInvalid, err)
	}
	// A STUN server that does not answer must not hold the viewer up: host
	// candidates are there at once.
	wait := time.NewTimer(2 * time.Second)
	defer wait.Stop()
	select {
	case <-gathered:
	case <-wait.C:
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
	local := x.pc.LocalDescription().SDP
	if x.srv.cfg.HideAddresses {
		local = hide(local)
	}
	x.etag = `"` + sdpValue(local, "a=ice-ufrag:") + `"`
	return Answer{Session: x.id, SDP: local, ETag: x.etag}, nil
}

// hide takes the addresses of this machine out of sdp. pion gives names in
// their place, but not where multicast DNS cannot be had; a viewer is then
// reached by its own candidates alone.
func hide(sdp string) string {
	var b strings.Builder
	for line := range strings.Lines(sdp) {
		f := strings.Fields(line)
		if strings.HasPrefix(line, "a=candidate:") && len(f) > 7 && f[7] == "host" && net.ParseIP(f[4]) != nil {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}

// restart begins a new ICE session under the old connection: the offer again,
// with the client's new credentials. Media goes on when a way is found.
func (x *session) restart(ctx context.Context, f fragment) (Answer, error) {
	offer, err := f.offer(x.offer)
	if err != nil {
		return Answer{}, err
	}
	a, err := x.settle(ctx, offer)
	if err != nil {
		return Answer{}, err
	}
	x.log.Info("ICE restarted")
	if a.SDP, err = fragmentOf(a.SDP); err != nil {
		return Answer{}, err
	}
	return a, nil
}

func newID() string { return rand.Text() }
