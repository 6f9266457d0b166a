// Package ingest turns a video source (a file, a camera, a URL) into packets
// as they were sent and frames as the visual encoder wants them. It is the
// only importer of go-astiav.
package ingest

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

// Config says what to read and in what form to give frames.
type Config struct {
	// Name is the stream's name in errors and events.
	Name string
	// URL names the source: a file, rtsp://, http(s)://, or v4l2:/dev/video0.
	URL string
	// Live paces a file as if it were a camera. Sources that are live pace
	// themselves. It defaults to false: as fast as possible.
	Live bool
	// Loop starts a file again at its end; media time goes on growing.
	Loop bool
	// SampleRate is the frames a second that ReadFrame gives, chosen on the
	// media clock. It defaults to 0: every frame.
	SampleRate float64
	// Width and Height are the size of the frames given, in pixels. They
	// default to the source's.
	Width, Height int
	// RTSPTransport is tcp or udp. It defaults to tcp.
	RTSPTransport string
	// ReadTimeout bounds one read from the source. It defaults to 10 seconds.
	ReadTimeout time.Duration
	// Threads is the number of decoding threads. It defaults to 1.
	Threads int
	// Tap gets the packets before they are decoded and stays open when the
	// Reader closes. It defaults to a tap of the Reader's own.
	Tap *media.Tap
}

// Stats counts what a Reader has done.
type Stats struct {
	Packets      uint64 // read from the source
	Decoded      uint64 // frames out of the decoder
	Sampled      uint64 // frames given to the caller
	DecodeErrors uint64 // packets the decoder refused
	Loops        uint64
}

// Reader is an open source. ReadFrame and Close are for one goroutine; Tap and
// Stats for any.
type Reader struct {
	cfg   Config
	tap   *media.Tap
	codec media.Codec

	intr    *astiav.IOInterrupter
	in      *astiav.FormatContext
	stream  *astiav.Stream
	bsf     *astiav.BitStreamFilterContext // nil when the packets need no change
	dec     *astiav.CodecContext
	pkt     *astiav.Packet
	tapPkt  *astiav.Packet
	frame   *astiav.Frame
	scaler  scaler
	drained bool // the decoder was told that nothing follows

	began  time.Time     // wall clock of media time 0
	base   int64         // the source's first timestamp, in the stream's time base
	based  bool          // base is known
	offset time.Duration // media time at which this pass over the source began
	last   time.Duration // media time of the newest packet
	step   time.Duration // time between two frames, for sources that do not tell
	next   time.Duration // media time at which the next sample is due
	seq    uint64

	packets, decoded, sampled, decodeErrors, loops atomic.Uint64
}

var codecs = map[astiav.CodecID]media.Codec{
	astiav.CodecIDH264: media.H264, astiav.CodecIDHevc: media.HEVC, astiav.CodecIDVp8: media.VP8, astiav.CodecIDVp9: media.VP9,
	astiav.CodecIDAv1: media.AV1, astiav.CodecIDMjpeg: media.MJPEG, astiav.CodecIDMpeg4: media.MPEG4, astiav.CodecIDMpeg2Video: media.MPEG2,
}

// Open connects to the source and finds its video. The errors that a caller
// may decide on are the package's Err values.
func Open(ctx context.Context, cfg Config) (*Reader, error) {
	if cfg.ReadTimeout <= 0 {
		cfg.ReadTimeout = 10 * time.Second
	}
	if cfg.Threads <= 0 {
		cfg.Threads = 1
	}
	astiav.SetLogLevel(astiav.LogLevelFatal)
	tap := cfg.Tap
	if tap == nil {
		tap = media.NewTap(0)
	}
	r := &Reader{cfg: cfg, tap: tap, intr: astiav.NewIOInterrupter(), pkt: astiav.AllocPacket(), tapPkt: astiav.AllocPacket(), frame: astiav.AllocFrame()}
	if err := r.open(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Tap gives the packets as they come, before decoding.
func (r *Reader) Tap() *media.Tap { return r.tap }

// Stats says what has been done so far.
func (r *Reader) Stats() Stats {
	return Stats{Packets: r.packets.Load(), Decoded: r.decoded.Load(), Sampled: r.sampled.Load(), DecodeErrors: r.decodeErrors.Load(), Loops: r.loops.Load()}
}

// guard lets ctx and the read timeout interrupt FFmpeg's waiting. The returned
// function ends the guard and tells why err came about.
func (r *Reader) guard(ctx context.Context) func(error) error {
	r.intr.Resume()
	var late atomic.Bool
	t := time.AfterFunc(r.cfg.ReadTimeout, func() { late.Store(true); r.intr.Interrupt() })
	stop := context.AfterFunc(ctx, r.intr.Interrupt)
	return func(err error) error {
		t.Stop()
		stop()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case late.Load():
			return ErrTimeout
		}
		return err
	}
}

func (r *Reader) open(ctx context.Context) error {
	name, format := r.cfg.URL, (*astiav.InputFormat)(nil)
	opts := astiav.NewDictionary()
	defer opts.Free()
	set := func(k, v string) { _ = opts.Set(k, v, 0) }
	switch {
	case strings.HasPrefix(name, "v4l2:"):
		astiav.RegisterAllDevices()
		name, format = strings.TrimPrefix(name, "v4l2:"), astiav.FindInputFormat("v4l2")
	case strings.HasPrefix(name, "rtsp://"), strings.HasPrefix(name, "rtsps://"):
		transport := r.cfg.RTSPTransport
		if transport == "" {
			transport = "tcp"
		}
		set("rtsp_transport", transport)
		set("fflags", "nobuffer")
		set("analyzeduration", "500000") // microseconds; the default of 5 s would delay the first word
	}
	r.in = astiav.AllocFormatContext()
	r.in.SetIOInterrupter(r.intr)
	done := r.guard(ctx)
	err := done(r.in.OpenInput(name, format, opts))
	if err != nil {
		r.in = nil // FFmpeg has freed it
		return r.cfg.wrap("open", err)
	}
	done = r.guard(ctx)
	if err := done(r.in.FindStreamInfo(nil)); err != nil {
		return r.cfg.wrap("find the streams of", err)
	}
	for _, s := range r.in.Streams() {
		if s.CodecParameters().MediaType() == astiav.MediaTypeVideo {
			r.stream = s
			break
		}
	}
	if r.stream == nil {
		return r.cfg.wrap("open", ErrNoVideo)
	}
	par := r.stream.CodecParameters()
	codec, known := codecs[par.CodecID()]
	dec := astiav.FindDecoder(par.CodecID())
	if dec == nil || !known && par.CodecID() != astiav.CodecIDRawvideo {
		return r.cfg.wrap("open", ErrUnsupportedCodec)
	}
	r.codec = codec
	if err := r.openTap(par); err != nil {
		return r.cfg.wrap("prepare the packets of", err)
	}
	r.dec = astiav.AllocCodecContext(dec)
	if err := par.ToCodecContext(r.dec); err != nil {
		return r.cfg.wrap("set up the decoder of", err)
	}
	r.dec.SetFlags(r.dec.Flags().Add(astiav.CodecContextFlagLowDelay))
	r.dec.SetThreadCount(r.cfg.Threads)
	r.dec.SetThreadType(astiav.ThreadTypeSlice) // frame threads add a frame of delay each
	if err := r.dec.Open(dec, nil); err != nil {
		return r.cfg.wrap("open the decoder of", err)
	}
	if fr := r.stream.AvgFrameRate(); fr.Num() > 0 && fr.Den() > 0 {
		r.step = time.Duration(float64(time.Second) * float64(fr.Den()) / float64(fr.Num()))
	} else {
		r.step = 40 * time.Millisecond
	}
	r.scaler.rotation = rotation(par)
	if r.began.IsZero() {
		r.began = time.Now()
	}
	r.based, r.drained = false, false
	return nil
}

// openTap makes the filter that puts H.264 and HEVC from MP4 into Annex B.
func (r *Reader) openTap(par *astiav.CodecParameters) error {
	name := map[media.Codec]string{media.H264: "h264_mp4toannexb", media.HEVC: "hevc_mp4toannexb"}[r.codec]
	if name == "" {
		return nil
	}
	bsf, err := astiav.AllocBitStreamFilterContext(astiav.FindBitStreamFilterByName(name))
	if err != nil {
		return err
	}
	r.bsf = bsf
	if err := par.Copy(bsf.InputCodecParameters()); err != nil {
		return err
	}
	bsf.SetInputTimeBase(r.stream.TimeBase())
	return bsf.Initialize()
}

// closeInput frees all that open made.
func (r *Reader) closeInput() {
	if r.dec != nil {
		r.dec.Free()
		r.dec = nil
	}
	if r.bsf != nil {
		r.bsf.Free()
		r.bsf = nil
	}
	if r.in != nil {
		r.in.CloseInput()
		r.in = nil
	}
	r.stream = nil
}

// Close frees the source and ends its tap. It must not run beside ReadFrame.
func (r *Reader) Close() error {
	if r.pkt == nil {
		return nil
	}
	if r.cfg.Tap == nil {
		r.tap.Close()
	}
	r.closeInput()
	r.scaler.close()
	r.frame.Free()
	r.tapPkt.Free()
	r.pkt.Free()
	r.intr.Free()
	r.pkt = nil
	return nil
}

// ReadFrame gives the next sampled frame, scaled and in packed RGB; dst's
// buffer is used again. It returns io.EOF at the end of a source that ends.
func (r *Reader) ReadFrame(ctx context.Context, dst *media.Frame) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := r.dec.ReceiveFrame(r.frame)
		switch {
		case err == nil:
			took, err := r.take(dst)
			r.frame.Unref()
			if err != nil {
				return r.cfg.wrap("scale a frame of", err)
			}
			if took {
				return nil
			}
		case errors.Is(err, astiav.ErrEagain):
			if err := r.feed(ctx); err != nil {
				return err
			}
		case errors.Is(err, astiav.ErrEof):
			if !r.cfg.Loop {
				return io.EOF
			}
			r.offset = r.last + r.step
			r.loops.Add(1)
			r.closeInput()
			if err := r.open(ctx); err != nil {
				return err
			}
		default:
			r.decodeErrors.Add(1)
			if err := r.feed(ctx); err != nil {
				return err
			}
		}
	}
}

// feed reads one packet, publishes it and hands it to the decoder.
func (r *Reader) feed(ctx context.Context) error {
	if r.drained {
		return io.EOF
	}
	defer r.pkt.Unref()
	done := r.guard(ctx)
	if err := done(r.in.ReadFrame(r.pkt)); err != nil {
		if errors.Is(err, astiav.ErrEof) {
			r.drained = true
			_ = r.dec.SendPacket(nil) // flush: what is left comes out of ReceiveFrame
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		return r.cfg.wrap("read", err)
	}
	if r.pkt.StreamIndex() != r.stream.Index() {
		return nil
	}
	r.packets.Add(1)
	at := r.mediaTime(r.pkt.Pts(), r.pkt.Dts())
	r.last = max(r.last, at)
	if r.cfg.Live {
		if err := sleepUntil(ctx, r.began.Add(at)); err != nil {
			return err
		}
	}
	if err := r.publish(at); err != nil {
		r.decodeErrors.Add(1)
	}
	if err := r.dec.SendPacket(r.pkt); err != nil && !errors.Is(err, astiav.ErrEagain) {
		r.decodeErrors.Add(1) // a damaged packet costs itself, not the stream
	}
	return nil
}

func (r *Reader) publish(at time.Duration) error {
	stamp := media.At(r.capture(at), at)
	key := r.pkt.Flags().Has(astiav.PacketFlagKey)
	if r.bsf == nil {
		r.tap.Publish(&media.Packet{Codec: r.codec, Data: r.pkt.Data(), Key: key, At: stamp, Duration: r.step})
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
		if err := r.bsf.ReceivePacket(r.tapPkt); err != nil {
			if errors.Is(err, astiav.ErrEagain) {
				return nil
			}
			return err
		}
		r.tap.Publish(&media.Packet{Codec: r.codec, Data: r.tapPkt.Data(), Key: key, At: stamp, Duration: r.step})
		r.tapPkt.Unref()
	}
}

// capture is the wall-clock time of a picture: media time paced from the start
// for files, arrival for live sources.
func (r *Reader) capture(at time.Duration) time.Time {
	if r.cfg.Live || r.cfg.Loop || !strings.Contains(r.cfg.URL, ":") {
		return r.began.Add(at)
	}
	return time.Now()
}

// mediaTime puts a source's timestamp on the media clock, which never goes back
// across loops.
func (r *Reader) mediaTime(pts, dts int64) time.Duration {
	ts := pts
	if ts == astiav.NoPtsValue {
		ts = dts
	}
	if ts == astiav.NoPtsValue {
		return r.last + r.step
	}
	if !r.based {
		r.base, r.based = ts, true
	}
	tb := r.stream.TimeBase()
	return r.offset + time.Duration(float64(ts-r.base)*float64(tb.Num())/float64(tb.Den())*float64(time.Second))
}

// take scales the decoded frame into dst when its sample is due.
func (r *Reader) take(dst *media.Frame) (bool, error) {
	r.decoded.Add(1)
	r.seq++
	at := r.mediaTime(r.frame.Pts(), r.frame.PktDts())
	if r.cfg.SampleRate > 0 {
		period := time.Duration(float64(time.Second) / r.cfg.SampleRate)
		// Half a frame early is nearer than half a frame late.
		if at+r.step/2 < r.next {
			return false, nil
		}
		r.next = max(r.next+period, at+period/2)
	}
	if err := r.scaler.scale(r.frame, &r.cfg, dst); err != nil {
		return false, err
	}
	dst.Seq, dst.At = r.seq, media.At(r.capture(at), at)
	r.sampled.Add(1)
	return true, nil
}

func sleepUntil(ctx context.Context, t time.Time) error {
	d := time.Until(t)
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
