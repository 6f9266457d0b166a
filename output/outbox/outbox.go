// Package outbox keeps events on disk until an output has taken them, so that
// an output that is away, slow or full, and a crash of Lookout itself, lose
// nothing. It promises order and at-least-once; outputs that recognise what
// they already have (Redis does, by the event's number) make it exactly once.
package outbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/internal/boltfile"
)

// Sink is an output behind an outbox.
type Sink interface {
	// Deliver hands over events, oldest first. On nil the sink has all of them
	// for good. On an error all will come again, but for those that a PartialError
	// says were taken. It must return soon after ctx ends.
	Deliver(ctx context.Context, evs []*event.Event) error
	Close() error
}

var (
	// ErrRefused is wrapped by a Sink when an event will never be taken, however
	// often it is sent. The outbox finds the event, drops and counts it.
	ErrRefused = errors.New("refused for good")
	// ErrRewind is wrapped by a Sink when it finds that what it had taken is gone
	// (a server came back without its last writes). The outbox sends again what it
	// still keeps: the events of the last Config.Linger.
	ErrRewind = errors.New("the output lost events that it had taken")
	// ErrClosed is returned by Publish after Close.
	ErrClosed = errors.New("outbox: closed")
)

// PartialError is returned by a Sink that took the first Taken events, and
// failed with Err on the next: for sinks that could not tell a repetition.
type PartialError struct {
	Taken int
	Err   error
}

func (e *PartialError) Error() string { return e.Err.Error() }

// Unwrap gives Err.
func (e *PartialError) Unwrap() error { return e.Err }

// Config configures an Outbox.
type Config struct {
	// Path is the file, made with its folder when missing. One process at a time
	// uses it.
	Path string
	// Name is how logs and errors name the output. It defaults to the file's name.
	Name string
	// MaxEvents and MaxBytes bound what waits for delivery; past them the oldest
	// events go. They default to 100,000 and 256 MiB.
	MaxEvents int
	MaxBytes  int64
	// Linger is how long delivered events are kept, in case the output turns out
	// to have lost them. It defaults to none.
	Linger time.Duration
	// Batch is how many events one Deliver gets at most. It defaults to 128.
	Batch int
	// Timeout bounds one Deliver. It defaults to 15 seconds.
	Timeout time.Duration
	// MinBackoff and MaxBackoff bound the wait after a failed delivery, which
	// doubles each time and is shortened by up to half at random. They default to
	// 100 ms and 15 s.
	MinBackoff, MaxBackoff time.Duration
	// Lost is told of events that went undelivered (reason "outbox full", "refused"
	// or "damaged"), summed up by stream, at most once in LostEvery (default 5 s).
	// The stream is empty when a damaged file no longer tells. It may publish a
	// lost_events status about it: that makes no loop. It defaults to none.
	Lost      func(stream string, n uint64, reason string)
	LostEvery time.Duration
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Stats are an outbox's figures: counts are since Open.
type Stats struct {
	Pending    int           // events that wait for delivery
	Bytes      int64         // their size
	OldestAge  time.Duration // how long the oldest of them has waited
	Delivered  uint64        // events taken by the sink, repetitions included
	Lost       uint64        // events that the bounds pushed out, or that were damaged
	Refused    uint64        // events that the sink will never take
	Retries    uint64        // deliveries that failed
	Rewinds    uint64        // times the sink had lost what it took
	LastError  string        // of the newest delivery; empty when it went well
	MovedAside string        // where a damaged file was put
}

// Outbox is a bounded, durable, ordered queue in front of one Sink.
type Outbox struct {
	cfg  Config
	sink Sink
	log  *slog.Logger

	appends chan *appended
	closing chan struct{}
	wake    chan struct{} // something to deliver; buffered 1
	ack     chan struct{} // something to delete at once; buffered 1
	lostC   chan struct{} // something to report; buffered 1
	wg      sync.WaitGroup
	once    sync.Once

	mu      sync.Mutex // also held over each transaction
	db      *bbolt.DB
	head    uint64 // position of the oldest event in the file
	cursor  uint64 // position of the oldest that waits
	tail    uint64 // position after the newest
	flight  uint64 // events from cursor up to here are with the sink
	done    []done // delivered and lingering, oldest first
	stats   Stats
	lost    map[lostKey]uint64
	settled chan struct{} // closed and replaced at each delivery
}

type appended struct {
	stream string
	record []byte
	err    chan error
}

type done struct {
	to uint64 // position after the newest of a delivered batch
	at time.Time
}

type lostKey struct{ stream, reason string }

var bucketName = []byte("events")

func key(pos uint64) []byte { return binary.BigEndian.AppendUint64(nil, pos) }

// Open opens or makes the file. A damaged file is moved aside (see
// Stats.MovedAside), logged, and a new one begun. sink belongs to the outbox
// from here on: Close closes it. Nothing is delivered before Run.
func Open(cfg Config, sink Sink) (*Outbox, error) {
	def := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	if cfg.Name == "" {
		cfg.Name = filepath.Base(cfg.Path)
	}
	if cfg.MaxEvents <= 0 {
		cfg.MaxEvents = 100_000
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 256 << 20
	}
	if cfg.Batch <= 0 {
		cfg.Batch = 128
	}
	def(&cfg.Timeout, 15*time.Second)
	def(&cfg.MinBackoff, 100*time.Millisecond)
	def(&cfg.MaxBackoff, 15*time.Second)
	def(&cfg.LostEvery, 5*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	o := &Outbox{
		cfg: cfg, sink: sink, log: cfg.Log.With("output", cfg.Name),
		appends: make(chan *appended), closing: make(chan struct{}),
		wake: make(chan struct{}, 1), ack: make(chan struct{}, 1), lostC: make(chan struct{}, 1),
		lost: map[lostKey]uint64{}, settled: make(chan struct{}),
	}
	if err := o.open(); err != nil {
		return nil, err
	}
	o.wg.Go(o.write)
	o.wg.Go(o.report)
	return o, nil
}

// open opens the file, or a new one in place of a damaged one.
func (o *Outbox) open() error {
	err := o.load()
	if err == nil || !boltfile.Damaged(err) {
		return err
	}
	if err := o.moveAside(err); err != nil {
		return err
	}
	return o.load()
}

func (o *Outbox) moveAside(why error) error {
	aside, err := boltfile.MoveAside(o.cfg.Path)
	if err != nil {
		return fmt.Errorf("outbox %s: %w; and it could not be moved aside: %w", o.cfg.Name, why, err)
	}
	o.stats.MovedAside = aside
	o.log.Error("the outbox file is damaged: it was moved aside and a new one begun; events that waited in it are lost",
		"file", o.cfg.Path, "moved_to", aside, "error", why)
	return nil
}

// load opens the file and reads all of it once: what waits in it, and that it
// can be read.
func (o *Outbox) load() error {
	db, err := boltfile.Open(o.cfg.Path, func(db *bbolt.DB) error {
		return db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucketName)
			if err != nil {
				return err
			}
			o.stats.Pending, o.stats.Bytes, o.done = 0, 0, nil
			o.tail = b.Sequence() + 1
			o.head, o.flight = o.tail, 0
			var prev uint64
			c := b.Cursor()
			return b.ForEach(func(k, v []byte) error {
				if found, _ := c.Seek(k); len(k) != 8 || v == nil || !bytes.Equal(found, k) {
					return boltfile.DamagedError{What: "a key that is no position"}
				}
				pos := binary.BigEndian.Uint64(k)
				if pos <= prev || pos >= o.tail {
					return boltfile.DamagedError{What: fmt.Sprintf("position %d after %d of %d", pos, prev, o.tail)}
				}
				if prev == 0 {
					o.head = pos
				}
				prev = pos
				o.stats.Pending++
				o.stats.Bytes += int64(len(v))
				_, _, _, _ = decodeHeader(v) // touch every page
				return nil
			})
		})
	})
	if err != nil {
		return fmt.Errorf("outbox %s: open %s: %w", o.cfg.Name, o.cfg.Path, err)
	}
	o.cursor, o.db = o.head, db
	return nil
}

// Publish puts ev in the outbox and returns when it is safe on disk. Events
// that are published together are written together.
func (o *Outbox) Publish(ctx context.Context, ev *event.Event) error {
	record, err := encodeRecord(time.Now(), ev)
	if err != nil {
		return fmt.Errorf("outbox %s: event %s of stream %q: %w", o.cfg.Name, ev.ID, ev.Data.Stream, err)
	}
	a := &appended{stream: ev.Data.Stream, record: record, err: make(chan error, 1)}
	select {
	case o.appends <- a:
	case <-o.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := <-a.err; err != nil {
		return fmt.Errorf("outbox %s: keep event %s of stream %q: %w", o.cfg.Name, ev.ID, ev.Data.Stream, err)
	}
	return nil
}

// write commits what is published and forgets what has lingered.
func (o *Outbox) write() {
	tick := time.NewTicker(max(o.cfg.Linger/2, 500*time.Millisecond))
	defer tick.Stop()
	for {
		var batch []*appended
		select {
		case a := <-o.appends:
			batch = append(batch, a)
		gather:
			for len(batch) < 512 {
				select {
				case a := <-o.appends:
					batch = append(batch, a)
				default:
					break gather
				}
			}
		case <-o.ack:
		case <-tick.C:
			if !o.lingering() {
				continue
			}
		case <-o.closing:
			return
		}
		err := o.commit(batch)
		if boltfile.Damaged(err) {
			err = o.heal(err, batch)
		}
		if err != nil {
			o.log.Error("the outbox could not be written", "file", o.cfg.Path, "error", err)
		}
		for _, a := range batch {
			a.err <- err
		}
		signal(o.wake)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (o *Outbox) lingering() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.done) > 0
}

// commit writes batch, deletes what has lingered, and keeps the bounds, in one
// transaction.
func (o *Outbox) commit(batch []*appended) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	// All of the state is changed on copies and kept only if the commit goes well.
	var (
		head, cursor, tail = o.head, o.cursor, o.tail
		pending, size      = o.stats.Pending, o.stats.Bytes
		done               = o.done
		lost               = map[lostKey]uint64{}
	)
	err := boltfile.Guard(func() error {
		return o.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(bucketName)
			c := b.Cursor()
			for len(done) > 0 && time.Since(done[0].at) >= o.cfg.Linger {
				for k, _ := c.Seek(key(head)); k != nil && head < done[0].to; k, _ = c.Seek(key(head)) {
					pos := binary.BigEndian.Uint64(k)
					if pos >= done[0].to {
						break
					}
					if pos < head {
						return boltfile.DamagedError{What: "keys out of order"}
					}
					if err := b.Delete(k); err != nil {
						return err
					}
					head = pos + 1
				}
				head = max(head, done[0].to)
				done = done[1:]
			}
			for _, a := range batch {
				if err := b.Put(key(tail), a.record); err != nil {
					return err
				}
				tail++
				pending++
				size += int64(len(a.record))
			}
			if err := b.SetSequence(tail - 1); err != nil {
				return err
			}
			if pending <= o.cfg.MaxEvents && size <= o.cfg.MaxBytes {
				return nil
			}
			// Make room for more than one, so that the event that tells of the
			// loss does not itself push out the next.
			maxEvents, maxBytes := o.cfg.MaxEvents-o.cfg.MaxEvents/100, o.cfg.MaxBytes-o.cfg.MaxBytes/100
			from := max(cursor, o.flight) // what is with the sink may yet arrive
			for k, v := c.Seek(key(from)); k != nil && (pending > maxEvents || size > maxBytes); k, v = c.Seek(key(from)) {
				_, stream, _, _ := decodeHeader(v)
				lost[lostKey{stream, "outbox full"}]++
				pending--
				size -= int64(len(v))
				pos := binary.BigEndian.Uint64(k)
				if pos < from {
					return boltfile.DamagedError{What: "keys out of order"}
				}
				from = pos + 1
				if err := b.Delete(k); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	o.head, o.cursor, o.tail, o.done = head, cursor, tail, done
	o.stats.Pending, o.stats.Bytes = pending, size
	for k, n := range lost {
		o.stats.Lost += n
		o.countLost(k, n)
	}
	return nil
}

// heal begins a new file in place of one that turned out to be damaged.
func (o *Outbox) heal(why error, batch []*appended) error {
	o.mu.Lock()
	old, tail := o.db, o.tail
	err := o.moveAside(why)
	if err == nil {
		n := uint64(o.stats.Pending)
		if err = o.load(); err == nil {
			// Positions go on, so that a batch which is with the sink now is not
			// taken for events of the new file.
			o.head, o.cursor, o.tail = tail, tail, tail
			close(o.settled)
			o.settled = make(chan struct{})
			o.stats.Lost += n
			if n > 0 {
				o.countLost(lostKey{"", "damaged"}, n)
			}
			go func() { _ = boltfile.Guard(old.Close) }() // may wait for a lock that the panic left
		}
	}
	o.mu.Unlock()
	if err != nil {
		return err
	}
	return o.commit(batch)
}

func (o *Outbox) countLost(k lostKey, n uint64) {
	o.lost[k] += n
	signal(o.lostC)
}

// report tells Config.Lost of what was lost.
func (o *Outbox) report() {
	for {
		select {
		case <-o.lostC:
		case <-o.closing:
			return
		}
		o.mu.Lock()
		lost := o.lost
		o.lost = map[lostKey]uint64{}
		o.mu.Unlock()
		for k, n := range lost {
			o.log.Warn("events went undelivered", "stream", k.stream, "count", n, "reason", k.reason)
			if o.cfg.Lost != nil {
				o.cfg.Lost(k.stream, n, k.reason)
			}
		}
		select {
		case <-time.After(o.cfg.LostEvery):
		case <-o.closing:
			return
		}
	}
}

// Run delivers until ctx ends or the outbox is closed, and returns nil then.
// Call it once.
func (o *Outbox) Run(ctx context.Context) error {
	o.mu.Lock()
	if o.db == nil {
		o.mu.Unlock()
		return nil
	}
	o.wg.Add(1) // so that Close waits for a delivery that is under way
	o.mu.Unlock()
	defer o.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.wg.Go(func() {
		select {
		case <-o.closing:
			cancel()
		case <-ctx.Done():
		}
	})

	var (
		failures int
		single   uint64 // up to this position one event at a time, to find the refused one
	)
	for {
		limit := o.cfg.Batch
		evs, items, to, err := o.take(limit, single)
		if err != nil {
			o.log.Error("the outbox could not be read", "file", o.cfg.Path, "error", err)
		}
		if len(items) == 0 && err == nil {
			select {
			case <-o.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err == nil && len(evs) > 0 {
			dctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
			err = o.sink.Deliver(dctx, evs)
			cancel()
			var part *PartialError
			if errors.As(err, &part) && part.Taken > 0 {
				n := upTo(items, part.Taken)
				o.settle(to, items[:n], "")
				items = items[n:]
				failures = 0
			}
		}
		switch {
		case err == nil:
			o.settle(to, items, "")
			if failures > 0 {
				o.log.Info("delivery goes on", "after_failures", failures)
			}
			failures = 0
			continue
		case ctx.Err() != nil:
			o.fail(nil)
			return nil
		case errors.Is(err, ErrRefused) && len(items) == 1:
			o.log.Warn("the output refused an event for good", "error", err)
			o.settle(to, items, "refused")
			failures = 0
			continue
		case errors.Is(err, ErrRefused):
			single = to
			o.fail(nil)
			continue
		case errors.Is(err, ErrRewind):
			o.log.Warn("sending again what the output lost", "error", err)
			o.rewind()
			if failures == 0 {
				failures++
				continue
			}
		}
		o.fail(err)
		if failures == 0 || failures%20 == 0 {
			o.log.Warn("delivery failed; events wait in the outbox", "error", err, "failures", failures+1)
		}
		failures++
		select {
		case <-time.After(o.backoff(failures, err)):
		case <-ctx.Done():
			return nil
		}
	}
}

// backoff is the wait after n failures in a row. An error may ask for its own
// by a method RetryAfter() time.Duration.
func (o *Outbox) backoff(n int, err error) time.Duration {
	d := o.cfg.MaxBackoff
	if n < 20 {
		d = min(o.cfg.MinBackoff<<(n-1), o.cfg.MaxBackoff)
	}
	d -= time.Duration(rand.Int64N(int64(d)/2 + 1))
	var ra interface{ RetryAfter() time.Duration }
	if errors.As(err, &ra) {
		d = max(d, min(ra.RetryAfter(), 10*time.Minute))
	}
	return d
}

// item is one event that was taken from the file for delivery.
type item struct {
	pos    uint64
	size   int64
	stream string
	bad    bool // the record cannot be read
	report bool // it tells of lost events itself
}

// take reads the oldest events that wait and marks them as in flight.
func (o *Outbox) take(limit int, single uint64) (evs []*event.Event, items []item, to uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var size int
	err = boltfile.Guard(func() error {
		return o.db.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket(bucketName).Cursor()
			for k, v := c.Seek(key(o.cursor)); k != nil && len(items) < limit && (size == 0 || size+len(v) <= 1<<20); k, v = c.Next() {
				it := item{pos: binary.BigEndian.Uint64(k), size: int64(len(v))}
				if it.pos < single {
					limit = 1
				}
				size += len(v)
				_, it.stream, _, _ = decodeHeader(v)
				if ev, err := decodeRecord(v); err == nil {
					evs = append(evs, ev)
					it.report = ev.Data.Status != nil && ev.Data.Status.State == "lost_events"
				} else {
					it.bad = true
				}
				items = append(items, it)
				to = it.pos + 1
			}
			return nil
		})
	})
	if err == nil && len(items) > 0 {
		o.flight = to
	}
	return evs, items, to, err
}

// upTo is how many items hold the first n events that could be read.
func upTo(items []item, n int) int {
	for i, it := range items {
		if !it.bad {
			n--
		}
		if n == 0 {
			return i + 1
		}
	}
	return len(items)
}

// settle records that items are done with: delivered, or refused.
// flight is what take returned with them.
func (o *Outbox) settle(flight uint64, items []item, refused string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.flight != flight { // the file that these came from was moved aside
		o.stats.Delivered += uint64(len(items))
		return
	}
	if o.cursor = items[len(items)-1].pos + 1; o.cursor == flight {
		o.flight = 0
	}
	o.done = append(o.done, done{o.cursor, time.Now()})
	for _, it := range items {
		o.stats.Pending--
		o.stats.Bytes -= it.size
		switch {
		case it.bad:
			o.stats.Lost++
			o.countLost(lostKey{it.stream, "damaged"}, 1)
		case refused != "":
			o.stats.Refused++
			if !it.report { // or each refused report would make the next
				o.countLost(lostKey{it.stream, refused}, 1)
			}
		default:
			o.stats.Delivered++
		}
	}
	if o.cfg.Linger <= 0 {
		signal(o.ack)
	}
	o.stats.LastError = ""
	close(o.settled)
	o.settled = make(chan struct{})
}

// fail records a failed delivery; err may be nil when it is no news.
func (o *Outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flight = 0
	if err != nil {
		o.stats.Retries++
		o.stats.LastError = err.Error()
	}
}

// rewind puts the delivered events that the file still has before those that
// wait.
func (o *Outbox) rewind() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stats.Rewinds++
	o.flight = 0
	if o.head >= o.cursor {
		return
	}
	err := boltfile.Guard(func() error {
		return o.db.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket(bucketName).Cursor()
			for k, v := c.Seek(key(o.head)); k != nil && binary.BigEndian.Uint64(k) < o.cursor; k, v = c.Next() {
				o.stats.Pending++
				o.stats.Bytes += int64(len(v))
			}
			return nil
		})
	})
	if err == nil {
		o.cursor, o.done = o.head, nil
	}
}

// Flush waits until all that was published before is delivered (or gone), or
// ctx ends.
func (o *Outbox) Flush(ctx context.Context) error {
	o.mu.Lock()
	want := o.tail
	for o.cursor < want && o.stats.Pending > 0 {
		c := o.settled
		pending, last := o.stats.Pending, o.stats.LastError
		o.mu.Unlock()
		select {
		case <-c:
		case <-o.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("outbox %s: %d events wait (%s): %w", o.cfg.Name, pending, last, ctx.Err())
		}
		o.mu.Lock()
	}
	o.mu.Unlock()
	return nil
}

// Stats gives the outbox's figures.
func (o *Outbox) Stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stats
	if s.Pending > 0 && o.db != nil {
		_ = boltfile.Guard(func() error {
			return o.db.View(func(tx *bbolt.Tx) error {
				if _, v := tx.Bucket(bucketName).Cursor().Seek(key(o.cursor)); v != nil {
					if at, _, _, err := decodeHeader(v); err == nil {
						s.OldestAge = max(time.Since(at), 0)
					}
				}
				return nil
			})
		})
	}
	return s
}

// Close stops taking and delivering events and closes the file and the sink.
// What waits is delivered after the next Open.
func (o *Outbox) Close() error {
	var err error
	o.once.Do(func() {
		close(o.closing)
		o.wg.Wait()
		if o.lingering() {
			err = o.commit(nil) // what was delivered last does not come again
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		err = errors.Join(err, o.db.Close(), o.sink.Close())
		o.db = nil
	})
	return err
}
