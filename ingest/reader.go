// Package ingest turns a video source (a file, a camera, a URL, what a browser
// sends) into packets as they were sent and frames as the visual encoder wants
// them. It is the only importer of go-astiav.
package ingest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"sync/atomic"
	"time"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

// Config says what to read and in what form to give frames.
type Config struct {
	// Name is the stream's name in errors and events.
	Name string
	// URL names the source: a file, rtsp://, rtsps://, http(s):// (a file, HLS
	// or MJPEG) or v4l2:/dev/video0, which may go on as
	// ?size=1280x720&rate=30&format=mjpeg.
	URL string
	// URLs, when set, are read one after the other as one stream, in place of
	// URL.
	URLs []string
	// Packets, when set, is read in place of URL: what a browser publishes.
	Packets *media.Tap
	// Live paces a file as if it were a camera. Sources that are live pace
	// themselves. It defaults to false: as fast as possible.
	Live bool
	// Loop starts a file (or the list) again at its end; media time goes on
	// growing.
	Loop bool
	// SampleRate is the frames a second that ReadFrame gives, chosen on the
	// media clock. It defaults to 0: every frame.
	SampleRate float64
	// Width and Height are the size of the frames given, in pixels; what does
	// not fit is letterboxed. They default to the source's.
	Width, Height int
	// RTSPTransport is tcp or udp. It defaults to tcp.
	RTSPTransport string
	// ReadTimeout bounds one read from the source (at least 30 seconds for HLS,
	// which comes in segments). It defaults to 10 seconds.
	ReadTimeout time.Duration
	// StallTimeout bounds the time in which packets come but no picture can be
	// decoded. It defaults to 20 seconds.
	StallTimeout time.Duration
	// Decoder is where to decode: cpu, auto (a device if there is one, else the
	// CPU), cuda, cuda:N, vaapi or vaapi:/dev/dri/renderD128. It defaults to cpu.
	Decoder string
	// Threads is the number of threads on the CPU. They share the slices of a
	// picture; of a file that is not Live one scales what the others decode, which
	// have a picture each. It defaults to 1: best for many streams.
	Threads int
	// Stills is how many sampled pictures are kept for Still, each at its full
	// size (3 MB at 1080p). It defaults to 16; negative keeps none.
	Stills int
	// Tap gets the packets before they are decoded and stays open when the
	// Reader closes. It defaults to Packets, or else to a tap of the Reader's
	// own.
	Tap *media.Tap

	// OnStatus is called by Supervised at each change of state, from
	// ReadFrame's goroutine.
	OnStatus func(Status)
	// MinWait and MaxWait bound Supervised's wait between two tries. They
	// default to 500 ms and 30 s.
	MinWait, MaxWait time.Duration
}

func (c *Config) setDefaults() {
	if c.ReadTimeout <= 0 {
		c.ReadTimeout = 10 * time.Second
	}
	if c.StallTimeout <= 0 {
		c.StallTimeout = 20 * time.Second
	}
	if c.Threads <= 0 {
		c.Threads = 1
	}
	if c.Stills == 0 {
		c.Stills = 16
	}
	if len(c.URLs) == 0 {
		c.URLs = []string{c.URL}
	}
	c.URL = c.URLs[0]
}

// Stats counts what a Reader has done, over its reconnects and loops.
type Stats struct {
	Packets      uint64  // read from the source
	Bytes        uint64  // in those packets
	Decoded      uint64  // frames out of the decoder
	Undecoded    uint64  // frames of a still scene that never went through it (see Calm)
	Sampled      uint64  // frames given to the caller
	NotDue       uint64  // frames skipped because the sampling rate did not ask for them
	DecodeErrors uint64  // packets that could not be used
	Loops        uint64  // times that the source was started again at its end
	Reconnects   uint64  // times that a lost source came back
	FPS          float64 // of the decoded frames on the media clock, smoothed over about 16
}

// Info tells what is being read. It is the zero Info before the source is open,
// and has no size before the first frame.
type Info struct {
	Codec         media.Codec
	Width, Height int // as seen: after the rotation
	Rotation      int // clockwise degrees by which the coded picture is turned
	// Reorders tells that the packets' times are not in order (B-frames):
	// browsers cannot play that, transcode it.
	Reorders bool
	// Decoder is cpu, cuda or vaapi; Note says why auto did not choose a device.
	Decoder, Note string
	// Duration is the length of a file (of the current one in a list), 0 when it
	// does not tell and for sources without an end.
	Duration time.Duration
}

// Reader is an open source. ReadFrame and Close are for one goroutine; the
// other methods for any.
type Reader struct {
	cfg   Config
	tap   *media.Tap
	slab  slab
	guard *guard
	timer *time.Timer // of pacing

	src    source
	st     stream
	turn   int                            // which of the URLs is open
	bsf    *astiav.BitStreamFilterContext // nil when the packets need no change
	header []byte                         // goes before key frames that lack it
	dec    decoder
	pkt    *astiav.Packet
	tapPkt *astiav.Packet
	frame  *astiav.Frame
	scaler scaler
	stills stills
	calm   calm
	ahead  ahead

	drained bool // the decoder was told that nothing follows
	keyless bool // no key frame has come yet; of HEVC without one FFmpeg makes grey pictures
	decoded bool // this pass over the source gave a picture
	width   int  // of the newest picture
	height  int

	clock clock
	began time.Time     // wall clock of media time 0
	early time.Duration // what capture time is ahead of began + media time, for publishers
	due   time.Duration // media time of the next sample
	seq   uint64

	rate  atomic.Uint64 // Float64bits of the sampling rate
	info  atomic.Pointer[Info]
	stats struct {
		packets, bytes, decoded, undecoded, sampled, notDue, errors, loops, reconnects atomic.Uint64
		fps                                                                            atomic.Uint64 // Float64bits
	}
}

// Open connects to the source and finds its video. The errors that a caller
// may decide on are the package's Err values.
func Open(ctx context.Context, cfg Config) (*Reader, error) {
	r := newReader(cfg)
	if err := r.open(ctx, 0); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func newReader(cfg Config) *Reader {
	cfg.setDefaults()
	astiav.SetLogLevel(astiav.LogLevelQuiet)
	tap := cfg.Tap
	if tap == nil {
		tap = cfg.Packets
	}
	if tap == nil {
		tap = media.NewTap(0)
	}
	r := &Reader{cfg: cfg, tap: tap, guard: newGuard(cfg.ReadTimeout), pkt: astiav.AllocPacket(), tapPkt: astiav.AllocPacket(), frame: astiav.AllocFrame()}
	r.timer = time.NewTimer(math.MaxInt64)
	r.clock.shown = -1
	r.stills.init(cfg.Stills)
	r.SetSampleRate(cfg.SampleRate)
	r.info.Store(&Info{})
	return r
}

// Tap gives the packets as they come, before decoding.
func (r *Reader) Tap() *media.Tap { return r.tap }

// Info tells what is being read.
func (r *Reader) Info() Info { return *r.info.Load() }

// Still gives the sampled frame with the number seq as JPEG, scaled down to
// width pixels (0: the source's width). Only the last Config.Stills frames are
// there; seq 0 is the newest. It returns ErrNoStill for others.
func (r *Reader) Still(seq uint64, width int) ([]byte, error) { return r.stills.jpeg(seq, width) }

// SetSampleRate changes Config.SampleRate from the next frame on.
func (r *Reader) SetSampleRate(fps float64) { r.rate.Store(math.Float64bits(fps)) }

// Stats says what has been done so far.
func (r *Reader) Stats() Stats {
	s := &r.stats
	return Stats{Packets: s.packets.Load(), Bytes: s.bytes.Load(), Decoded: s.decoded.Load(), Undecoded: s.undecoded.Load(), Sampled: s.sampled.Load(), NotDue: s.notDue.Load(),
		DecodeErrors: s.errors.Load(), Loops: s.loops.Load(), Reconnects: s.reconnects.Load(), FPS: math.Float64frombits(s.fps.Load())}
}

// open connects to the current URL; the media clock goes on from offset.
func (r *Reader) open(ctx context.Context, offset time.Duration) error {
	r.cfg.URL = r.cfg.URLs[r.turn]
	if r.cfg.Packets != nil {
		r.src = &packets{cfg: &r.cfg}
	} else {
		r.src = &demuxer{cfg: &r.cfg, guard: r.guard}
	}
	st, err := r.src.open(ctx)
	if err != nil {
		return err
	}
	r.st = st
	if err := r.openFilter(); err != nil {
		return r.cfg.wrap("prepare the packets of", err)
	}
	if err := r.dec.open(&r.cfg, &r.st); err != nil {
		return r.cfg.wrap("open the decoder of", err)
	}
	r.clock.start(&r.st, offset)
	if r.began.IsZero() {
		r.began = time.Now()
	}
	r.drained, r.decoded, r.width = false, false, 0
	r.keyless = r.st.codec == media.HEVC && r.st.live
	if *r.info.Load() == (Info{}) {
		r.tellInfo() // the size follows with the first picture
	}
	return nil
}

// openFilter prepares what lets packets stand alone: the filter that puts H.264
// and HEVC from MP4 into Annex B, or what goes before key frames that lack it:
// MPEG-4's header, and the parameter sets that some cameras tell in the SDP alone.
func (r *Reader) openFilter() error {
	name := map[media.Codec]string{media.H264: "h264_mp4toannexb", media.HEVC: "hevc_mp4toannexb"}[r.st.codec]
	if r.st.par == nil || name == "" && r.st.codec != media.MPEG4 {
		return nil
	}
	if extra := r.st.par.ExtraData(); name == "" || bytes.HasPrefix(extra, []byte{0, 0, 1}) || bytes.HasPrefix(extra, []byte{0, 0, 0, 1}) {
		r.header = extra
		return nil
	}
	bsf, err := astiav.AllocBitStreamFilterContext(astiav.FindBitStreamFilterByName(name))
	if err != nil {
		return err
	}
	r.bsf = bsf
	if err := r.st.par.Copy(bsf.InputCodecParameters()); err != nil {
		return err
	}
	bsf.SetInputTimeBase(r.st.base)
	return bsf.Initialize()
}

// closeInput frees all that open made.
func (r *Reader) closeInput() {
	r.resetCalm()
	r.dec.close()
	if r.bsf != nil {
		r.bsf.Free()
		r.bsf = nil
	}
	if r.src != nil {
		r.src.close()
		r.src = nil
	}
	r.st, r.header = stream{}, nil
}

// Close frees the source and ends its tap. It must not run beside ReadFrame.
func (r *Reader) Close() error {
	if r.pkt == nil {
		return nil
	}
	if r.cfg.Tap == nil && r.cfg.Packets == nil {
		r.tap.Close()
	}
	r.halt()
	r.closeInput()
	r.calm.close()
	r.scaler.close()
	r.stills.close()
	r.frame.Free()
	r.tapPkt.Free()
	r.pkt.Free()
	r.guard.close()
	r.timer.Stop()
	r.pkt = nil
	return nil
}

// ReadFrame gives the next sampled frame, scaled and in packed RGB; dst's
// buffer is used again. It returns io.EOF at the end of a source that ends.
func (r *Reader) ReadFrame(ctx context.Context, dst *media.Frame) error {
	for {
		p, err := r.await(ctx)
		if err != nil {
			return err
		}
		took, err := r.take(p, dst)
		r.done(p)
		if err != nil {
			r.halt()
			return r.cfg.wrap("scale a frame of", err)
		}
		if took {
			return nil
		}
	}
}

// decode leaves the next picture in r.frame, unless calm.held tells that the
// one before stands for it.
func (r *Reader) decode(ctx context.Context) (at time.Duration, err error) {
	since, fed := time.Now(), 0
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		switch code := receiveFrame(r.dec.ctx, r.frame); code {
		case 0:
			r.decoded = true
			r.stats.decoded.Add(1)
			at := r.show(frameTime(r.frame))
			r.calm.seenAt = at
			if w, h := r.frame.Width(), r.frame.Height(); w != r.width || h != r.height || r.dec.where != r.info.Load().Decoder {
				r.width, r.height = w, h
				r.tellInfo()
			}
			return at, nil
		case codeEnded:
			if err := r.again(ctx); err != nil {
				return 0, err
			}
			since, fed = time.Now(), 0
			continue
		case codeAgain:
		default:
			r.stats.errors.Add(1)
		}
		if err := r.feed(ctx); err != nil {
			return 0, err
		}
		if r.calm.held {
			r.stats.undecoded.Add(1)
			return r.show(r.calm.at), nil
		}
		// A few packets alone are no stall: some cameras send a picture a minute.
		if fed++; fed > 8 && time.Since(since) > r.cfg.StallTimeout {
			return 0, r.cfg.wrap("decode", ErrStalled)
		}
	}
}

// show counts one more picture, with the source's timestamp ts.
func (r *Reader) show(ts int64) time.Duration {
	r.seq++
	before := r.clock.shown
	at := r.clock.frame(ts)
	if before >= 0 {
		r.countRate(at - before)
	}
	return at
}

// again starts what has ended anew, or says that it has ended.
func (r *Reader) again(ctx context.Context) error {
	if !r.decoded {
		return r.cfg.wrap("decode", ErrCorrupt) // a file without one picture; in a loop it would spin
	}
	if r.turn+1 == len(r.cfg.URLs) && !r.cfg.Loop {
		return io.EOF
	}
	r.turn = (r.turn + 1) % len(r.cfg.URLs)
	if r.turn == 0 {
		r.stats.loops.Add(1)
	}
	r.closeInput()
	return r.open(ctx, r.clock.last+r.clock.step)
}

// feed reads one packet, publishes it and hands it to the decoder.
func (r *Reader) feed(ctx context.Context) error {
	if r.drained {
		return io.EOF
	}
	r.calm.held = false
	if err := r.src.read(ctx, r.pkt); err != nil {
		switch {
		case errors.Is(err, astiav.ErrEof):
			r.drained = true
			_ = r.dec.ctx.SendPacket(nil) // flush: what is left comes out of receiveFrame
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		return r.cfg.wrap("read", err)
	}
	defer r.pkt.Unref()
	r.stats.packets.Add(1)
	r.stats.bytes.Add(uint64(r.pkt.Size()))
	at := r.clock.packet(r.pkt.Pts(), r.pkt.Dts())
	if r.cfg.Live && !r.st.live {
		if err := r.sleepUntil(ctx, r.began.Add(at)); err != nil {
			return err
		}
	}
	if err := r.publish(at); err != nil {
		r.stats.errors.Add(1)
	}
	if r.keeps(at) {
		if err := r.keep(); err != nil {
			return r.cfg.wrap("keep a packet of", err)
		}
		return nil
	}
	if r.keyless && !r.pkt.Flags().Has(astiav.PacketFlagKey) {
		return nil
	}
	r.keyless = false
	r.catchUp()
	if err := r.dec.ctx.SendPacket(r.pkt); err != nil && !errors.Is(err, astiav.ErrEagain) {
		r.stats.errors.Add(1) // a damaged packet costs itself, not the stream
	}
	return nil
}

func (r *Reader) publish(at time.Duration) error {
	if p, ok := r.src.(*packets); ok {
		r.early = p.now.At.Capture.Sub(r.began.Add(at))
		if r.tap != r.cfg.Packets {
			m := *p.now // the payload is shared, the times are this Reader's
			m.At = media.At(m.At.Capture, at)
			r.tap.Publish(&m)
		}
		return nil
	}
	m := media.Packet{Codec: r.st.codec, Key: r.pkt.Flags().Has(astiav.PacketFlagKey), At: media.At(r.capture(at), at), Duration: r.clock.step}
	if r.bsf == nil {
		data, header := packetData(r.pkt), r.header
		if !m.Key || bytes.HasPrefix(data, header) || !bare(r.st.codec, data) {
			header = nil
		}
		r.tap.Publish(r.slab.packet(m, header, data))
		return nil
	}
	if err := r.tapPkt.Ref(r.pkt); err != nil {
		return err
	}
	if err := r.bsf.SendPacket(r.tapPkt); err != nil {
		r.tapPkt.Unref()
		return err
	}
	for {
		switch code := filterReceive(r.bsf, r.tapPkt); code {
		case 0:
			r.tap.Publish(r.slab.packet(m, nil, packetData(r.tapPkt)))
			r.tapPkt.Unref()
		case codeAgain, codeEnded:
			return nil
		default:
			return astiav.Error(code)
		}
	}
}

// bare tells whether an access unit comes to its picture without a sequence
// parameter set before it.
func bare(c media.Codec, unit []byte) bool {
	for {
		i := bytes.Index(unit, []byte{0, 0, 1})
		if i < 0 || i+3 == len(unit) {
			return true
		}
		unit = unit[i+3:]
		switch h264, hevc := unit[0]&31, unit[0]>>1&63; {
		case c == media.H264 && h264 == 7, c == media.HEVC && hevc == 33:
			return false
		case c == media.H264 && h264 >= 1 && h264 <= 5, c == media.HEVC && hevc < 32:
			return true
		}
	}
}

// capture is the wall-clock time of a picture: arrival for cameras, the
// publisher's own time, and for files media time paced from the start.
func (r *Reader) capture(at time.Duration) time.Time {
	if r.st.live && r.st.par != nil {
		return time.Now()
	}
	return r.began.Add(at + r.early)
}

// take scales a picture into dst when its sample is due.
func (r *Reader) take(p shown, dst *media.Frame) (bool, error) {
	if rate := math.Float64frombits(r.rate.Load()); rate > 0 {
		period := time.Duration(float64(time.Second) / rate)
		if r.due > p.at+period { // the rate was raised
			r.due = p.at
		}
		// Half a frame early is nearer than half a frame late.
		if p.at+p.step/2 < r.due {
			r.stats.notDue.Add(1)
			return false, nil
		}
		r.due = max(r.due+period, p.at+period/2)
	}
	dst.Seq, dst.At = p.seq, media.At(p.capture, p.at)
	r.stats.sampled.Add(1)
	if p.held {
		r.calm.repeat(dst)
		return true, nil
	}
	f, err := r.local(p)
	if err != nil {
		return false, err
	}
	r.scaler.rotation = p.rotation
	if err := r.scaler.rgb(f, &r.cfg, dst); err != nil {
		return false, err
	}
	r.stills.keep(f, p.seq, p.rotation)
	if r.ahead.got == nil {
		r.stand(dst)
	}
	return true, nil
}

// local gives a picture's frame in memory, wherever it was decoded.
func (r *Reader) local(p shown) (*astiav.Frame, error) {
	if r.ahead.got != nil {
		return p.frame, nil
	}
	f, err := r.dec.local(p.frame)
	if r.dec.note != r.Info().Note { // the device would not have it
		r.tellInfo()
	}
	return f, err
}

// countRate counts a frame that came d after the one before.
func (r *Reader) countRate(d time.Duration) {
	was := math.Float64frombits(r.stats.fps.Load())
	now := float64(time.Second) / float64(d)
	if was > 0 { // the mean of intervals, not of rates
		now = 1 / (15.0/16/was + 1.0/16/now)
	}
	r.stats.fps.Store(math.Float64bits(now))
}

func (r *Reader) tellInfo() {
	info := Info{Codec: r.st.codec, Width: r.width, Height: r.height, Rotation: r.st.rotation, Reorders: reorders(r.dec.ctx), Decoder: r.dec.where, Note: r.dec.note, Duration: r.st.length}
	if info.Rotation%180 != 0 {
		info.Width, info.Height = info.Height, info.Width
	}
	r.info.Store(&info)
}

func (r *Reader) sleepUntil(ctx context.Context, t time.Time) error {
	d := time.Until(t)
	if d <= 0 {
		return nil
	}
	r.timer.Reset(d)
	select {
	case <-r.timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// slab hands out packets from larger pieces of memory, so that a packet costs
// no allocation of its own. A piece is freed with the last packet in it.
type slab struct {
	bytes   []byte
	packets []media.Packet
}

// packet is m with a copy of header and data.
func (s *slab) packet(m media.Packet, header, data []byte) *media.Packet {
	if n := len(header) + len(data); len(s.bytes) < n {
		s.bytes = make([]byte, max(256<<10, n))
	}
	if len(s.packets) == 0 {
		s.packets = make([]media.Packet, 64)
	}
	n := copy(s.bytes, header)
	n += copy(s.bytes[n:], data)
	m.Data, s.bytes = s.bytes[:n:n], s.bytes[n:]
	p := &s.packets[0]
	s.packets = s.packets[1:]
	*p = m
	return p
}
