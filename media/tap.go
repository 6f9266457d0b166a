package media

import (
	"context"
	"errors"
	"sync"
)

// ErrTapClosed is returned by Sub.Next when the tap has ended and everything
// queued has been read, or when the subscriber closed itself.
var ErrTapClosed = errors.New("media: tap closed")

// Tap fans one stream's packets out to any number of readers. It keeps the
// packets since the last key frame, so a reader that joins late starts at a
// picture it can decode. A reader that falls behind loses packets up to the
// next key frame, never the others' time.
type Tap struct {
	queue int

	mu     sync.Mutex
	gop    []*Packet
	codec  Codec
	subs   map[*Sub]struct{}
	closed bool
}

// NewTap makes a Tap whose readers may each fall queue packets behind; the
// group of pictures kept for joiners is bounded by the same number. It
// defaults to 512 when queue is not positive.
func NewTap(queue int) *Tap {
	if queue <= 0 {
		queue = 512
	}
	return &Tap{queue: queue, subs: map[*Sub]struct{}{}}
}

// Publish hands p to every reader. It never blocks. Packets after Close are
// ignored.
func (t *Tap) Publish(p *Packet) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.codec = p.Codec
	switch {
	case p.Key:
		clear(t.gop)
		t.gop = append(t.gop[:0], p)
	case len(t.gop) == t.queue:
		// A joiner could not decode a group with a hole: it waits for the next.
		clear(t.gop)
		t.gop = t.gop[:0]
	case len(t.gop) > 0:
		t.gop = append(t.gop, p)
	}
	for s := range t.subs {
		s.push(p)
	}
}

// Cut says that what is published next does not go on from what was published
// before: the source was connected again. Readers get what is queued, then go
// on at the next key frame.
func (t *Tap) Cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.gop)
	t.gop = t.gop[:0]
	for s := range t.subs {
		s.waitKey = true
	}
}

// Codec is that of the last packet, or empty before the first.
func (t *Tap) Codec() Codec {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.codec
}

// Readers is the number of open subscriptions.
func (t *Tap) Readers() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.subs)
}

// Subscribe starts a reader at the last key frame.
func (t *Tap) Subscribe() *Sub {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &Sub{tap: t, wake: make(chan struct{}, 1), closed: t.closed, waitKey: len(t.gop) == 0}
	s.queue = append(make([]*Packet, 0, t.queue), t.gop...)
	if !t.closed {
		t.subs[s] = struct{}{}
	}
	return s
}

// Close ends the stream: readers get what is queued, then ErrTapClosed.
func (t *Tap) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for s := range t.subs {
		s.closed = true
		s.signal()
	}
	clear(t.subs)
	t.gop = nil
}

// Sub is one reader of a Tap.
type Sub struct {
	tap     *Tap
	wake    chan struct{}
	queue   []*Packet // guarded by tap.mu, as all below
	waitKey bool
	dropped uint64
	closed  bool
}

func (s *Sub) push(p *Packet) {
	switch {
	case s.waitKey && !p.Key:
		s.dropped++
		return
	case len(s.queue) == cap(s.queue):
		// Behind by a whole queue: what waits is stale. Start over at a key frame.
		s.dropped += uint64(len(s.queue))
		clear(s.queue)
		s.queue = s.queue[:0]
		if s.waitKey = !p.Key; s.waitKey {
			s.dropped++
			return
		}
	}
	s.waitKey = false
	s.queue = append(s.queue, p)
	s.signal()
}

func (s *Sub) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next waits for the next packet. The first one is always a key frame.
func (s *Sub) Next(ctx context.Context) (*Packet, error) {
	for {
		s.tap.mu.Lock()
		if len(s.queue) > 0 {
			p := s.queue[0]
			n := copy(s.queue, s.queue[1:])
			s.queue[n] = nil
			s.queue = s.queue[:n]
			s.tap.mu.Unlock()
			return p, nil
		}
		closed := s.closed
		s.tap.mu.Unlock()
		if closed {
			return nil, ErrTapClosed
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Queued is the number of packets that wait to be read.
func (s *Sub) Queued() int {
	s.tap.mu.Lock()
	defer s.tap.mu.Unlock()
	return len(s.queue)
}

// Dropped counts the packets this reader lost by being slow, or that came
// before its first key frame.
func (s *Sub) Dropped() uint64 {
	s.tap.mu.Lock()
	defer s.tap.mu.Unlock()
	return s.dropped
}

// Close ends the subscription and drops what is queued.
func (s *Sub) Close() {
	s.tap.mu.Lock()
	defer s.tap.mu.Unlock()
	delete(s.tap.subs, s)
	s.closed = true
	clear(s.queue)
	s.queue = s.queue[:0]
	s.signal()
}
