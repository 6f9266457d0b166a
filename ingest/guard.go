package ingest

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asticode/go-astiav"
)

// guard lets a context and a time limit interrupt FFmpeg's waiting for the
// network or a device. It allocates only when another context comes.
type guard struct {
	intr     *astiav.IOInterrupter // kept until after CloseInput: C holds a pointer into it
	limit    time.Duration
	timer    *time.Timer
	deadline atomic.Int64 // in Unix nanoseconds
	late     atomic.Bool
	done     <-chan struct{} // of the context that is watched
	unwatch  func()
}

func newGuard(limit time.Duration) *guard {
	g := &guard{intr: astiav.NewIOInterrupter(), limit: limit, unwatch: func() {}}
	g.deadline.Store(math.MaxInt64)
	g.timer = time.AfterFunc(math.MaxInt64, func() {
		// A timer that fires just when its call has ended must not hit the next.
		if time.Now().UnixNano() >= g.deadline.Load() {
			g.late.Store(true)
			g.intr.Interrupt()
		}
	})
	return g
}

// begin starts the watch over one call.
func (g *guard) begin(ctx context.Context) error {
	if ctx.Done() != g.done {
		g.unwatch()
		g.done, g.unwatch = ctx.Done(), g.watch(ctx)
	}
	g.late.Store(false)
	g.intr.Resume()
	if err := ctx.Err(); err != nil { // asked after Resume: a later end of ctx interrupts again
		return err
	}
	g.deadline.Store(time.Now().Add(g.limit).UnixNano())
	g.timer.Reset(g.limit)
	return nil
}

func (g *guard) watch(ctx context.Context) (unwatch func()) {
	var mu sync.Mutex
	off := false
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if !off {
			g.intr.Interrupt()
		}
	})
	return func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		off = true
	}
}

// end ends the watch and tells why err came about.
func (g *guard) end(ctx context.Context, err error) error {
	g.timer.Stop()
	g.deadline.Store(math.MaxInt64)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case g.late.Load():
		return ErrTimeout
	}
	return err
}

func (g *guard) close() {
	g.timer.Stop()
	g.unwatch()
	g.intr.Free()
}
