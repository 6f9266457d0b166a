package event

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Publisher takes events for delivery: an outbox.
type Publisher interface {
	Publish(ctx context.Context, ev *Event) error
}

// Emitter numbers events and hands them on in that order: to the Bus, then to
// each outbox. Numbering and handing on are one step for a stream, because an
// output takes a number that comes late for one that it already has.
type Emitter struct {
	seq  *Sequencer
	bus  *Bus
	outs []Publisher

	mu    sync.Mutex
	locks map[string]*sync.Mutex
}

// NewEmitter makes an Emitter. bus may be nil.
func NewEmitter(seq *Sequencer, bus *Bus, outs ...Publisher) *Emitter {
	return &Emitter{seq: seq, bus: bus, outs: outs, locks: map[string]*sync.Mutex{}}
}

// Emit gives ev its Seq (and Time, when it has none) and hands it on. ev must
// not change after. Viewers get it even when an outbox fails; the error tells
// which events are not durable. Any number of goroutines may emit.
func (e *Emitter) Emit(ctx context.Context, evs ...*Event) error {
	var errs []error
	for _, ev := range evs {
		if err := e.emit(ctx, ev); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (e *Emitter) emit(ctx context.Context, ev *Event) error {
	stream := ev.Data.Stream
	e.mu.Lock()
	lock := e.locks[stream]
	if lock == nil {
		lock = new(sync.Mutex)
		e.locks[stream] = lock
	}
	e.mu.Unlock()

	lock.Lock()
	defer lock.Unlock()
	if ev.Time.IsZero() {
		ev.Time = time.Now().UTC()
	}
	n, err := e.seq.Next(stream)
	if err != nil {
		return err
	}
	ev.Data.Seq = n
	if e.bus != nil {
		e.bus.Publish(ev)
	}
	var errs []error
	for _, out := range e.outs {
		if err := out.Publish(ctx, ev); err != nil {
			errs = append(errs, fmt.Errorf("event %s of stream %q: %w", ev.ID, stream, err))
		}
	}
	return errors.Join(errs...)
}
