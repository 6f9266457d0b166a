package webrtc

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pion "github.com/pion/webrtc/v4"
)

// session is what viewers and publishers have in common: a connection, the
// goroutines that serve it, and one way to end. Callbacks of the connection
// never wait; they only call end or hand things to those goroutines.
type session struct {
	id        string
	stream    string
	publishes bool
	srv       *Server
	log       *slog.Logger
	pc        *pion.PeerConnection

	ice         sync.Mutex // held while the ICE session is looked at or changed
	offer       string     // the one in force
	remoteUfrag string
	etag        string // of the ICE session

	connected chan struct{} // closed once
	done      chan struct{} // closed when all is over

	ctx context.Context
	end func(reason string)

	mu    sync.Mutex
	ended bool // guarded by mu: nothing is spawned any more
	wg    sync.WaitGroup

	lostPackets, lostEvents, lostDeltas atomic.Uint64
}

func (s *Server) newSession(stream string, publishes bool) *session {
	ctx, cancel := context.WithCancelCause(s.ctx)
	x := &session{
		id: newID(), stream: stream, publishes: publishes, srv: s,
		connected: make(chan struct{}), done: make(chan struct{}),
		ctx: ctx, end: func(reason string) { cancel(&Error{"ended", reason}) },
	}
	// The id lets its holder end the session, so the log gets its head only.
	x.log = s.cfg.Log.With("stream", stream, "session", x.id[:6])
	return x
}

// open makes the connection and watches its state.
func (x *session) open(o offered) error {
	pc, err := x.srv.net.connect(o)
	if err != nil {
		return err
	}
	x.pc = pc
	var once sync.Once
	pc.OnConnectionStateChange(func(st pion.PeerConnectionState) {
		switch st {
		case pion.PeerConnectionStateConnected:
			once.Do(func() { close(x.connected) })
		case pion.PeerConnectionStateFailed:
			x.end("connection lost")
		case pion.PeerConnectionStateClosed:
			x.end("viewer left")
		}
	})
	return nil
}

// run lives as long as the session and takes it apart.
func (x *session) run(cleanup func()) {
	defer close(x.done)
	defer x.srv.forget(x)
	timeout := time.NewTimer(x.srv.cfg.ConnectTimeout)
	defer timeout.Stop()
	select {
	case <-x.connected:
		x.log.Info("connected", "publishes", x.publishes)
	case <-timeout.C:
		x.end("never connected")
	case <-x.ctx.Done():
	}
	<-x.ctx.Done()
	x.mu.Lock()
	x.ended = true
	x.mu.Unlock()
	x.log.Info("ended", "why", context.Cause(x.ctx).Error())
	_ = x.pc.GracefulClose()
	x.wg.Wait()
	cleanup()
}

// spawn runs f beside the session, unless that has ended. f ends with ctx.
func (x *session) spawn(f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.ended {
		x.wg.Go(f)
	}
}

// abandon undoes what was made of a session that did not come to be.
func (x *session) abandon() {
	x.end("not begun")
	x.mu.Lock()
	x.ended = true
	x.mu.Unlock()
	if x.pc != nil {
		_ = x.pc.GracefulClose()
	}
	x.wg.Wait()
}

// sdpValue is the rest of the first line that begins with prefix.
func sdpValue(sdp, prefix string) string {
	for line := range strings.SplitSeq(sdp, "\n") {
		if v, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimRight(v, "\r")
		}
	}
	return ""
}
