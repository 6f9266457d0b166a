package ingest

import (
	"context"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/asticode/go-astiav"
)

// shown is a picture out of the decoder, with all that is to be known of it.
type shown struct {
	frame    *astiav.Frame
	seq      uint64
	at       time.Duration // media time
	capture  time.Time
	step     time.Duration // to the next picture, about
	rotation int
	held     bool // the picture before it stands for it, and frame is empty
}

// ahead decodes a file while its last pictures are scaled and looked at. That is
// worth more than another decoding thread: two with a picture each wait for one
// another, and go on only while somebody asks for the next. It rests while a
// scene stands still, of which little is decoded.
type ahead struct {
	free chan *astiav.Frame // as many as there are, and not in use
	got  chan decoded       // closed by the goroutine that fills it; nil when there is none
	stop context.CancelFunc
	rest *atomic.Bool // whether the goroutine is to end, without an error
}

type decoded struct {
	shown
	err error // the last
}

// patient is the niceness of the thread that decodes ahead: others have ten times its share.
const patient = 10

// lead is how many pictures wait for somebody who asks, or are in use.
const lead = 3

// await gives the next picture; its frame is to be given back with done.
func (r *Reader) await(ctx context.Context) (shown, error) {
	rest := r.calm.still.Load() && !r.dec.late
	if r.ahead.got == nil {
		if !r.dec.ahead || rest {
			return r.decodeNext(ctx)
		}
		r.goAhead()
	}
	r.ahead.rest.Store(rest)
	select {
	case d, more := <-r.ahead.got:
		if !more {
			r.halt()
			return r.decodeNext(ctx)
		}
		if d.err != nil {
			r.halt()
		}
		return d.shown, d.err
	case <-ctx.Done():
		return shown{}, ctx.Err()
	}
}

// done takes a picture's frame back.
func (r *Reader) done(p shown) {
	p.frame.Unref()
	if r.ahead.got != nil {
		r.ahead.free <- p.frame
	}
}

func (r *Reader) decodeNext(ctx context.Context) (shown, error) {
	at, err := r.decode(ctx)
	if err != nil {
		return shown{}, err
	}
	return shown{r.frame, r.seq, at, r.capture(at), r.clock.step, r.st.rotation, r.calm.held}, nil
}

// goAhead starts the goroutine. It ends with the first error, with halt or when it
// is to rest; until then what decode uses is its own.
func (r *Reader) goAhead() {
	ctx, stop := context.WithCancel(context.Background())
	a := ahead{make(chan *astiav.Frame, lead), make(chan decoded, lead+1), stop, new(atomic.Bool)} // all frames and an error: to send is never to wait
	for range lead {
		a.free <- astiav.AllocFrame()
	}
	r.ahead = a
	go func() {
		defer close(a.got)
		// What is ahead can wait for those who look at what there is: a tenth more frames a second on two cores. The
		// thread ends with the goroutine, and without the right to do so it goes on as it is.
		runtime.LockOSThread()
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, patient)
		for !a.rest.Load() {
			p, err := r.decodeNext(ctx)
			if err != nil {
				a.got <- decoded{err: err}
				return
			}
			select {
			case p.frame = <-a.free:
				p.frame.MoveRef(r.frame)
				a.got <- decoded{shown: p}
			case <-ctx.Done():
				r.frame.Unref()
				return
			}
		}
	}()
}

// halt ends the goroutine and frees its frames, when no picture is in use.
func (r *Reader) halt() {
	a := r.ahead
	if a.got == nil {
		return
	}
	r.ahead = ahead{}
	a.stop()
	for d := range a.got {
		if d.err == nil {
			a.free <- d.frame
		}
	}
	for range lead {
		(<-a.free).Free()
	}
}
