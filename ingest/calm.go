package ingest

import (
	"sync/atomic"
	"time"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

// calm decodes late while a scene stands still, which is where nearly all the
// cost of such a scene lies: every picture has to be decoded for the next one's
// sake. What is new in a picture lies in its packet, so as long as the packets
// are no larger than a still scene's they are kept undecoded, and the last
// picture stands for them. A larger one tells of a change: all that were kept
// are decoded at once, and the stream goes on as it would have. Every few
// seconds a key frame is decoded all the same. When such a check finds a change
// that the sizes had not told, they are not trusted for a while: cameras that
// send the same number of bits whatever they see are decoded as ever.
type calm struct {
	still    atomic.Bool // what Calm was told last
	checking atomic.Bool // the newest picture was decoded only to check
	missed   atomic.Bool // and was new
	moved    atomic.Bool // the newest picture was new: what is usual is to be learned anew

	pix    []byte // of the picture that stands, when there is one
	w, h   int
	ready  bool
	kept   []*astiav.Packet // undecoded, since the last picture or key frame
	n      int              // of them in use
	held   bool             // the packet just read was kept
	at     int64            // its timestamp
	usual  int              // bytes of the largest packet decoded while the scene stood still
	learnt int              // packets that this is of
	key    int              // bytes of the last key frame
	keyAt  time.Duration
	every  time.Duration // between the last two key frames
	seenAt time.Duration // of the last picture decoded
	doubt  time.Duration // how long the sizes were not trusted last
	until  time.Duration // when they are again
}

const (
	checkEvery = 5 * time.Second // of media time, at the next key frame
	mostKept   = 512             // packets
	toLearn    = 12              // packets before the sizes tell anything
	firstDoubt = time.Minute
	mostDoubt  = time.Hour
)

// Calm tells the Reader how a frame that it gave was found: still when it showed
// nothing new, nor did those before it. Until it is told otherwise the Reader may
// then give the last picture again in place of pictures that, by the size of
// their packets, are the same. A change that the sizes do not tell is seen up to
// five seconds and a key frame's interval late, the first time.
func (r *Reader) Calm(still bool) {
	if !still {
		if r.calm.checking.Load() {
			r.calm.missed.Store(true)
		}
		r.calm.moved.Store(true)
	}
	r.calm.still.Store(still)
}

// Calm is Reader.Calm.
func (s *Supervised) Calm(still bool) { s.r.Calm(still) }

// keeps decides whether the packet just read, of media time at, stays undecoded.
func (r *Reader) keeps(at time.Duration) bool {
	c, size, key := &r.calm, r.pkt.Size(), r.pkt.Flags().Has(astiav.PacketFlagKey)
	if c.missed.Swap(false) {
		c.doubt = min(max(2*c.doubt, firstDoubt), mostDoubt)
		c.until = at + c.doubt
	}
	if c.moved.Swap(false) {
		c.usual, c.learnt = 0, 0
	}
	same := 10*max(size-c.key, c.key-size) < c.key
	if key {
		c.every, c.keyAt, c.key = at-c.keyAt, at, size
	}
	switch {
	case !c.still.Load():
		return false
	case !c.ready, c.learnt < toLearn, at < c.until, r.pkt.Pts() == astiav.NoPtsValue:
		c.learn(size, key)
		return false
	case c.every < 400*time.Millisecond || c.every > checkEvery: // nearly all of its pictures are key frames, or checks would be too rare
		return false
	}
	if key {
		r.forget() // it needs none of those before it
	}
	due := key && at-c.seenAt >= checkEvery
	// Packets that stay undecoded do not make themselves usual: who comes in slowly makes each a little larger than the last.
	told := key && !same || !key && size > c.usual+c.usual/2+64 || at-c.seenAt > 2*checkEvery || c.n == mostKept
	if !due && !told {
		return true
	}
	c.learn(size, key) // if nothing is new after all
	if due {
		c.usual -= c.usual / 4 // what was large once is not for ever
	}
	// The picture that stands does so no more, until a new one has been given.
	c.ready = false
	c.checking.Store(!told)
	if told {
		c.still.Store(false)
	}
	return false
}

// learn takes the size of a packet that is decoded while the scene stands still.
func (c *calm) learn(size int, key bool) {
	if !key {
		c.usual = max(c.usual, size)
		c.learnt++
	}
}

// keep puts the packet just read aside.
func (r *Reader) keep() error {
	c := &r.calm
	if c.n == len(c.kept) {
		c.kept = append(c.kept, astiav.AllocPacket())
	}
	if err := c.kept[c.n].Ref(r.pkt); err != nil {
		return err
	}
	c.n++
	c.held, c.at = true, r.pkt.Pts()
	return nil
}

// catchUp decodes what was kept. The pictures were given already.
func (r *Reader) catchUp() {
	for _, p := range r.calm.kept[:r.calm.n] {
		_ = r.dec.ctx.SendPacket(p) // a damaged packet costs itself
		for receiveFrame(r.dec.ctx, r.frame) == 0 {
			r.frame.Unref()
		}
		p.Unref()
	}
	r.calm.n = 0
}

// forget lets go of what was kept.
func (r *Reader) forget() {
	for _, p := range r.calm.kept[:r.calm.n] {
		p.Unref()
	}
	r.calm.n = 0
}

// stand lets dst, just given, stand for what may follow it undecoded.
func (r *Reader) stand(dst *media.Frame) {
	c := &r.calm
	// Where pictures leave the decoder in another order, one packet is not one picture.
	if c.ready = c.still.Load() && !reorders(r.dec.ctx); c.ready {
		c.pix, c.w, c.h = append(c.pix[:0], dst.Pix...), dst.Width, dst.Height
	}
}

// repeat gives the picture that stands.
func (c *calm) repeat(dst *media.Frame) {
	dst.Reset(c.w, c.h)
	copy(dst.Pix, c.pix)
}

// resetCalm is for a source that is opened anew. What was learned to doubt stays.
func (r *Reader) resetCalm() {
	r.forget()
	c := &r.calm
	c.still.Store(false)
	c.checking.Store(false)
	c.ready, c.held, c.usual, c.learnt, c.key, c.keyAt, c.every = false, false, 0, 0, 0, 0, 0
}

func (c *calm) close() {
	for _, p := range c.kept {
		p.Free()
	}
	c.kept = nil
}
