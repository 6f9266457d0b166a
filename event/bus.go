package event

import "sync"

// Item is what a subscriber gets: an event or a delta, never both.
type Item struct {
	Event *Event
	Delta *Delta
}

// SubOptions says what a subscriber wants.
type SubOptions struct {
	// Stream is the stream to follow. It defaults to all.
	Stream string
	// Queue is how many items the subscriber may fall behind. It defaults to 256.
	Queue int
	// Replay is how many of the newest past events come first. It defaults to
	// none, and is bounded by the bus's history and by Queue.
	Replay int
}

// Bus fans events and deltas out to any number of subscribers. Publishing never
// waits: a subscriber whose queue is full loses the new item, and it is counted.
// The history keeps the newest events of each stream for those who come late.
type Bus struct {
	keep int

	mu      sync.Mutex
	history []*Event // of all streams, oldest first; at most keep of each
	count   map[string]int
	subs    map[*Subscription]struct{}
	closed  bool
}

// NewBus makes a Bus that remembers the newest history events of each stream.
func NewBus(history int) *Bus {
	return &Bus{keep: history, count: map[string]int{}, subs: map[*Subscription]struct{}{}}
}

// Publish hands ev to every subscriber of its stream. ev must not change after.
func (b *Bus) Publish(ev *Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.remember(ev)
	for s := range b.subs {
		s.offer(ev.Data.Stream, Item{Event: ev})
	}
}

func (b *Bus) remember(ev *Event) {
	if b.keep <= 0 {
		return
	}
	stream := ev.Data.Stream
	if b.count[stream] < b.keep {
		b.count[stream]++
	} else {
		for i, old := range b.history {
			if old.Data.Stream == stream {
				n := copy(b.history[i:], b.history[i+1:])
				b.history[i+n] = nil
				b.history = b.history[:i+n]
				break
			}
		}
	}
	b.history = append(b.history, ev)
}

// PublishDelta hands d to every subscriber of its stream. Deltas are not kept:
// the event that follows carries the whole text.
func (b *Bus) PublishDelta(d *Delta) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.offer(d.Stream, Item{Delta: d})
	}
}

// Subscribe starts a subscription: past events first, then all that comes, with
// neither a gap nor a repetition between them.
func (b *Bus) Subscribe(o SubOptions) *Subscription {
	if o.Queue <= 0 {
		o.Queue = 256
	}
	s := &Subscription{bus: b, stream: o.Stream, c: make(chan Item, o.Queue)}
	b.mu.Lock()
	defer b.mu.Unlock()
	var past []*Event
	for i := len(b.history) - 1; i >= 0 && len(past) < min(o.Replay, o.Queue); i-- {
		if ev := b.history[i]; o.Stream == "" || ev.Data.Stream == o.Stream {
			past = append(past, ev)
		}
	}
	for i := len(past) - 1; i >= 0; i-- {
		s.c <- Item{Event: past[i]}
	}
	if b.closed {
		s.closed = true
		close(s.c)
		return s
	}
	b.subs[s] = struct{}{}
	return s
}

// Close ends every subscription once its queue is read.
func (b *Bus) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subs {
		s.end()
	}
}

// Subscription is one reader of a Bus.
type Subscription struct {
	bus    *Bus
	stream string
	c      chan Item

	dropped uint64 // guarded by bus.mu, as is closed
	closed  bool
}

// C gives the items in the order of their publication. It is closed when the
// subscription or the bus is.
func (s *Subscription) C() <-chan Item { return s.c }

func (s *Subscription) offer(stream string, it Item) {
	if s.stream != "" && s.stream != stream {
		return
	}
	select {
	case s.c <- it:
	default:
		s.dropped++
	}
}

func (s *Subscription) end() {
	if !s.closed {
		s.closed = true
		delete(s.bus.subs, s)
		close(s.c)
	}
}

// Dropped counts the items that this subscriber was too slow for.
func (s *Subscription) Dropped() uint64 {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	return s.dropped
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.end()
}
