package pipeline

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/lookout-video/lookout/media"
)

// maxPast bounds the packets that a stream keeps for its clips: a minute at
// 8 Mbit/s.
const maxPast = 64 << 20

// past keeps a stream's newest packets, so that the clip of an alert begins
// before the alert did. It holds whole groups of pictures: the oldest goes when
// the next one is old enough to begin with.
type past struct {
	length time.Duration

	mu      sync.Mutex
	packets []*media.Packet // begins with a key frame
	bytes   int
	newest  time.Duration
	ended   bool
	more    chan struct{} // closed and replaced when more came; nil when nobody waits
}

// run records what tap gives until ctx or the stream ends.
func (p *past) run(ctx context.Context, tap *media.Tap) {
	sub := tap.Subscribe()
	defer sub.Close()
	for {
		pkt, err := sub.Next(ctx)
		if err != nil {
			break
		}
		p.add(pkt)
	}
	for sub.Queued() > 0 { // what came before the end belongs to the last clip
		pkt, err := sub.Next(context.Background())
		if err != nil {
			break
		}
		p.add(pkt)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.tell()
}

func (p *past) tell() {
	if p.more != nil {
		close(p.more)
		p.more = nil
	}
}

func (p *past) add(pkt *media.Packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.tell()
	p.newest = max(p.newest, pkt.At.Media)
	if len(p.packets) == 0 && !pkt.Key {
		return
	}
	p.packets = append(p.packets, pkt)
	p.bytes += len(pkt.Data)
	if !pkt.Key && p.bytes <= maxPast {
		return
	}
	for {
		// Packets before the next key frame are one group.
		next := slices.IndexFunc(p.packets[1:], func(q *media.Packet) bool { return q.Key }) + 1
		old := next > 0 && p.packets[next].At.Media <= p.newest-p.length
		if !old && p.bytes <= maxPast {
			return
		}
		if next == 0 { // one group is more than may be kept
			next = len(p.packets)
		}
		for _, q := range p.packets[:next] {
			p.bytes -= len(q.Data)
		}
		p.packets = slices.Delete(p.packets, 0, next)
		if len(p.packets) == 0 {
			return
		}
	}
}

// between waits until the stream has come to the media time to, has ended, or
// ctx has, and gives the packets from the last key frame at or before from, or
// from the oldest that is kept.
func (p *past) between(ctx context.Context, from, to time.Duration) []*media.Packet {
	for {
		p.mu.Lock()
		if p.newest >= to || p.ended || ctx.Err() != nil {
			break
		}
		if p.more == nil {
			p.more = make(chan struct{})
		}
		more := p.more
		p.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
	defer p.mu.Unlock()
	first, last := 0, 0
	for i, q := range p.packets {
		if q.Key && q.At.Media <= from {
			first = i
		}
		if q.At.Media <= to {
			last = i + 1
		}
	}
	return slices.Clone(p.packets[first:max(first, last)])
}
