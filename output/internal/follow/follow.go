// Package follow decides what one subscriber of the bus gets: what it may see,
// what it does not have yet, each event once, and the truth about gaps.
package follow

import "github.com/lookout-video/lookout/event"

// History is how many past events are looked through for those that a
// subscriber does not have.
const History = 1024

// MaxStreams is of how many streams a subscriber may say what it has.
const MaxStreams = 1024

// Follower passes items of the bus on. It is one goroutine's, or guarded.
type Follower struct {
	// Viewer names the subscriber: answers for other viewers are held back.
	Viewer string
	// Newest is how many past events of a stream are told to a subscriber that
	// did not say what it has.
	Newest int
	// Allowed says whether it may see a stream.
	Allowed func(stream string) bool
	// Event, Delta and Lost get what is passed on. Lost tells that n events of
	// the stream are missing before the next one: why is "history" when they
	// are older than what is kept, "slow" when the subscriber was.
	Event func(*event.Event)
	Delta func(*event.Delta)
	Lost  func(stream string, n uint64, why string)

	last map[string]uint64
}

// Has tells what the subscriber has: the Seq of its last event, by stream.
func (f *Follower) Has(after map[string]uint64) {
	if f.last == nil {
		f.last = map[string]uint64{}
	}
	for s, seq := range after {
		if _, known := f.last[s]; known || len(f.last) < MaxStreams {
			f.last[s] = max(f.last[s], seq)
		}
	}
}

// Join subscribes to one stream, or all when it is empty, and passes the past on.
func (f *Follower) Join(bus *event.Bus, stream string) *event.Subscription {
	f.Has(nil)
	// The whole history is asked for and cut here: which part of it is new
	// differs from stream to stream.
	sub := bus.Subscribe(event.SubOptions{Stream: stream, Queue: History + 256, Replay: History})
	var past []event.Item
	left := map[string]int{}      // events of the stream still to come
	newest := map[string]uint64{} // Seq of its last
	for range len(sub.C()) {
		it, ok := <-sub.C()
		if !ok {
			break
		}
		past = append(past, it)
		if it.Event != nil {
			left[it.Event.Data.Stream]++
			newest[it.Event.Data.Stream] = it.Event.Data.Seq
		}
	}
	for s, seq := range newest {
		if f.last[s] > seq { // what the subscriber has is of another sequence
			delete(f.last, s)
		}
	}
	for _, it := range past {
		if it.Event != nil {
			s := it.Event.Data.Stream
			left[s]--
			if _, known := f.last[s]; !known && left[s] >= f.Newest {
				continue
			}
		}
		f.pass(it, "history")
	}
	return sub
}

// Hear passes on an item that has just come. Nobody can have had it: a number
// that is no news means that the stream's numbers began anew (its state was lost).
func (f *Follower) Hear(it event.Item) {
	if it.Event != nil && it.Event.Data.Seq <= f.last[it.Event.Data.Stream] {
		delete(f.last, it.Event.Data.Stream)
	}
	f.pass(it, "slow")
}

func (f *Follower) pass(it event.Item, why string) {
	if d := it.Delta; d != nil {
		if (d.Viewer == "" || d.Viewer == f.Viewer) && f.Allowed(d.Stream) {
			f.Delta(d)
		}
		return
	}
	d := &it.Event.Data
	if !f.Allowed(d.Stream) {
		return
	}
	last, known := f.last[d.Stream]
	if known && d.Seq <= last {
		return
	}
	f.last[d.Stream] = d.Seq
	if known && d.Seq > last+1 {
		f.Lost(d.Stream, d.Seq-last-1, why)
	}
	if d.Viewer == "" || d.Viewer == f.Viewer {
		f.Event(it.Event)
	}
}

// Last is the Seq of the last event passed on, by stream.
func (f *Follower) Last() map[string]uint64 { return f.last }
