package pipeline

import (
	"context"
	"io"
	"sync"

	"github.com/lookout-video/lookout/media"
)

// mailbox hands frames from a reader to a looker. When it is lossy the newest
// frame wins: one that was not taken in time is given back to the reader and
// counted. Three frames go round, so that nothing is allocated.
type mailbox struct {
	lossy bool

	mu      sync.Mutex
	cond    *sync.Cond
	free    []*media.Frame
	waiting *media.Frame
	err     error // no frame follows
	dropped uint64
}

func newMailbox(lossy bool) *mailbox {
	m := &mailbox{lossy: lossy, free: []*media.Frame{{}, {}, {}}}
	m.cond = sync.NewCond(&m.mu)
	return m
}

// blank gives a frame to fill. It never waits: of three, one may be in the
// looker's hands and one waiting.
func (m *mailbox) blank() *media.Frame {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.free[len(m.free)-1]
	m.free = m.free[:len(m.free)-1]
	return f
}

// put offers a filled frame.
func (m *mailbox) put(ctx context.Context, f *media.Frame) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lossy && m.waiting != nil {
		m.free = append(m.free, m.waiting)
		m.waiting = nil
		m.dropped++
	}
	for m.waiting != nil && m.err == nil && ctx.Err() == nil {
		m.cond.Wait()
	}
	if err := ctx.Err(); err != nil {
		m.free = append(m.free, f)
		return err
	}
	m.waiting = f
	m.cond.Broadcast()
	return nil
}

// take waits for a frame, at most until ready says that something else is due.
// It returns nil without an error then, and the end's error after the last frame.
func (m *mailbox) take(ctx context.Context, ready func() bool) (*media.Frame, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		switch {
		case m.waiting != nil:
			f := m.waiting
			m.waiting = nil
			m.cond.Broadcast()
			return f, nil
		case m.err != nil:
			return nil, m.err
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case ready():
			return nil, nil
		}
		m.cond.Wait()
	}
}

// some tells whether a frame waits.
func (m *mailbox) some() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waiting != nil
}

// wake makes take look at ready and ctx again.
func (m *mailbox) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cond.Broadcast()
}

// giveBack returns a frame that was taken.
func (m *mailbox) giveBack(f *media.Frame) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = append(m.free, f)
}

// end says that no frame follows; err may be io.EOF.
func (m *mailbox) end(err error) {
	if err == nil {
		err = io.EOF
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
	m.cond.Broadcast()
}

func (m *mailbox) lost() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dropped
}
