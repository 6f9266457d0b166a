package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

// TranscodeConfig configures a Transcoder.
type TranscodeConfig struct {
	// Name is the stream's name in errors.
	Name string
	// Width and Height bound the size; the picture keeps its shape and is never
	// enlarged. They default to 1280 and 720.
	Width, Height int
	// FPS bounds the frames a second. It defaults to 30.
	FPS float64
	// BitRate is in bits a second. It defaults to 1,500,000.
	BitRate int64
	// KeyInterval is the time between two key frames: what a viewer that joins
	// is behind at most. It defaults to 2 seconds.
	KeyInterval time.Duration
	// Threads is the number of encoding threads. It defaults to 1.
	Threads int
	// Rotation is Info.Rotation of the Reader that the packets come from.
	Rotation int
}

// Transcoder encodes a stream anew as VP8, for browsers that cannot decode the
// camera's codec. One serves all viewers of a stream; it is to run only while
// there are some.
type Transcoder struct {
	cfg TranscodeConfig
	in  *media.Tap
	out *media.Tap
}

// NewTranscoder makes a Transcoder of the packets on in. Nothing happens before
// Run.
func NewTranscoder(cfg TranscodeConfig, in *media.Tap) *Transcoder {
	if cfg.Width <= 0 || cfg.Height <= 0 {
		cfg.Width, cfg.Height = 1280, 720
	}
	if cfg.FPS <= 0 {
		cfg.FPS = 30
	}
	if cfg.BitRate <= 0 {
		cfg.BitRate = 1500000
	}
	if cfg.KeyInterval <= 0 {
		cfg.KeyInterval = 2 * time.Second
	}
	if cfg.Threads <= 0 {
		cfg.Threads = 1
	}
	return &Transcoder{cfg: cfg, in: in, out: media.NewTap(0)}
}

// Tap gives the VP8 packets, with the times of the packets they are made from.
// It stays open when Run returns, so that viewers keep it over a later Run.
func (t *Transcoder) Tap() *media.Tap { return t.out }

// Run transcodes until ctx ends, then returns its error; nil when the stream
// has ended. A source that is silent for a while or changes its codec is waited
// for.
func (t *Transcoder) Run(ctx context.Context) error {
	for {
		err := t.run(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, ErrTimeout), errors.Is(err, errNewCodec), errors.Is(err, ErrStalled):
			t.out.Cut()
			continue
		}
		return err
	}
}

func (t *Transcoder) run(ctx context.Context) error {
	r, err := Open(ctx, Config{Name: t.cfg.Name, Packets: t.in, Stills: -1})
	if err != nil {
		return err
	}
	defer r.Close()
	sub := r.src.(*packets).sub
	e := &vp8{cfg: &t.cfg, packet: astiav.AllocPacket()}
	e.scaler.rotation = t.cfg.Rotation
	defer e.close()
	period := time.Duration(float64(time.Second) / t.cfg.FPS)
	var due time.Duration
	for {
		at, err := r.decode(ctx)
		if err != nil {
			return err
		}
		if due > at+period { // the stream's clock was set
			due = at
		}
		// What is behind is decoded but not encoded: after joining in the middle
		// of a group of pictures, and on a machine that cannot keep up.
		if at+period/4 >= due && sub.Queued() < 4 {
			due = max(due+period, at+period/2)
			if err = e.encode(r.frame, media.At(r.capture(at), at), t.out); err != nil {
				err = fmt.Errorf("ingest: %s: transcode to VP8: %w", t.cfg.Name, err)
			}
		}
		r.frame.Unref()
		if err != nil {
			return err
		}
	}
}

// vp8 is the encoder with what stands before it.
type vp8 struct {
	cfg    *TranscodeConfig
	scaler scaler
	enc    *astiav.CodecContext
	packet *astiav.Packet
	slab   slab
}

func (e *vp8) encode(f *astiav.Frame, at media.Timestamp, out *media.Tap) error {
	s, err := e.scaler.scale(f, picture{w: e.cfg.Width, h: e.cfg.Height, fit: true, form: formVP8})
	if err != nil {
		return err
	}
	defer s.Unref()
	if e.enc == nil || e.enc.Width() != s.Width() || e.enc.Height() != s.Height() {
		if err := e.open(s.Width(), s.Height()); err != nil {
			return err
		}
	}
	anyType(s)
	s.SetPts(at.Media.Milliseconds())
	if err := e.enc.SendFrame(s); err != nil {
		return err
	}
	for {
		switch code := receivePacket(e.enc, e.packet); code {
		case 0: // without look-ahead it is the frame just sent
			key := e.packet.Flags().Has(astiav.PacketFlagKey)
			out.Publish(e.slab.packet(media.Packet{Codec: media.VP8, Key: key, At: at}, nil, packetData(e.packet)))
			e.packet.Unref()
		case codeAgain:
			return nil
		default:
			return astiav.Error(code)
		}
	}
}

func (e *vp8) open(w, h int) error {
	if e.enc != nil {
		e.enc.Free()
		e.enc = nil
	}
	codec := astiav.FindEncoderByName("libvpx")
	if codec == nil {
		return fmt.Errorf("this FFmpeg was built without libvpx: %w", astiav.ErrEncoderNotFound)
	}
	enc := astiav.AllocCodecContext(codec)
	enc.SetWidth(w)
	enc.SetHeight(h)
	enc.SetPixelFormat(astiav.PixelFormatYuv420P)
	enc.SetTimeBase(astiav.NewRational(1, 1000))
	enc.SetBitRate(e.cfg.BitRate)
	enc.SetGopSize(max(int(e.cfg.KeyInterval.Seconds()*e.cfg.FPS), 1))
	enc.SetThreadCount(e.cfg.Threads)
	opts := astiav.NewDictionary()
	defer opts.Free()
	for k, v := range map[string]string{
		"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0", "error-resilient": "default",
		"maxrate": strconv.FormatInt(e.cfg.BitRate*3/2, 10), "bufsize": strconv.FormatInt(e.cfg.BitRate, 10), "qmin": "4", "qmax": "56",
	} {
		_ = opts.Set(k, v, 0)
	}
	if err := enc.Open(codec, opts); err != nil {
		enc.Free()
		return err
	}
	e.enc = enc
	return nil
}

func (e *vp8) close() {
	if e.enc != nil {
		e.enc.Free()
	}
	e.scaler.close()
	e.packet.Free()
}
