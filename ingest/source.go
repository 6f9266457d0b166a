package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

// source gives a Reader its packets.
type source interface {
	// open connects and tells what comes.
	open(ctx context.Context) (stream, error)
	// read gives the next packet of the video, or astiav.ErrEof.
	read(ctx context.Context, pkt *astiav.Packet) error
	close()
}

// stream is what a source tells of its video.
type stream struct {
	id       astiav.CodecID
	codec    media.Codec
	par      *astiav.CodecParameters // nil when all is in the packets
	base     astiav.Rational         // of the packets' timestamps
	rate     float64                 // frames a second; 0 when unknown
	rotation int                     // clockwise degrees
	live     bool                    // it paces itself
	endless  bool                    // it has no end: when it stops it is lost
	length   time.Duration           // 0 when unknown or endless
}

var codecs = map[astiav.CodecID]media.Codec{
	astiav.CodecIDH264: media.H264, astiav.CodecIDHevc: media.HEVC, astiav.CodecIDVp8: media.VP8, astiav.CodecIDVp9: media.VP9,
	astiav.CodecIDAv1: media.AV1, astiav.CodecIDMjpeg: media.MJPEG, astiav.CodecIDMpeg4: media.MPEG4, astiav.CodecIDMpeg2Video: media.MPEG2,
}

// demuxer reads a file, a URL or a device.
type demuxer struct {
	cfg   *Config // its URL is the one to open
	guard *guard
	in    *astiav.FormatContext
	index int // of the video among the streams
	// opened is set when the source has no times of its own: arrival is taken.
	opened time.Time
}

func (d *demuxer) open(ctx context.Context) (st stream, err error) {
	name, format := d.cfg.URL, (*astiav.InputFormat)(nil)
	opts := astiav.NewDictionary()
	defer opts.Free()
	set := func(k, v string) { _ = opts.Set(k, v, 0) }
	switch scheme(name) {
	case "v4l2":
		st.live, st.endless = true, true
		path, query, _ := strings.Cut(strings.TrimPrefix(name, "v4l2:"), "?")
		v, err := url.ParseQuery(query)
		if err == nil {
			err = checkCamera(path)
		}
		if err != nil {
			return st, d.cfg.wrap("open", err)
		}
		astiav.RegisterAllDevices()
		name, format = path, astiav.FindInputFormat("v4l2")
		for key, option := range map[string]string{"size": "video_size", "rate": "framerate", "format": "input_format"} {
			if v.Has(key) {
				set(option, v.Get(key))
			}
		}
	case "rtsp", "rtsps":
		st.live, st.endless = true, true
		transport := d.cfg.RTSPTransport
		if transport == "" {
			transport = "tcp"
		}
		set("rtsp_transport", transport)
		set("analyzeduration", "500000") // microseconds; the default of 5 s would delay the first word
	}
	d.in = astiav.AllocFormatContext()
	d.in.SetIOInterrupter(d.guard.intr)
	d.guard.limit = d.cfg.ReadTimeout
	if err := d.guard.begin(ctx); err != nil {
		return st, err
	}
	if err := d.guard.end(ctx, d.in.OpenInput(name, format, opts)); err != nil {
		d.in = nil // FFmpeg has freed it
		return st, d.cfg.wrap("open", err)
	}
	if err := d.guard.begin(ctx); err != nil {
		return st, err
	}
	if err := d.guard.end(ctx, d.in.FindStreamInfo(nil)); err != nil {
		return st, d.cfg.wrap("find the streams of", err)
	}
	if d.in.InputFormat().Name() == "hls" {
		// A live playlist is silent for as long as its segments are, often 10 seconds.
		d.guard.limit = max(d.guard.limit, 30*time.Second)
	}
	if s := scheme(d.cfg.URL); (s == "http" || s == "https") && d.in.Duration() <= 0 {
		st.live, st.endless = true, true
	}
	if d.in.InputFormat().Name() == "mpjpeg" {
		d.opened = time.Now() // it has no times; FFmpeg makes up 25 pictures a second
	}
	if n := d.in.Duration(); n > 0 && !st.endless {
		st.length = time.Duration(n) * time.Microsecond // AV_TIME_BASE
	}
	for _, s := range d.in.Streams() {
		par := s.CodecParameters()
		if par.MediaType() != astiav.MediaTypeVideo || st.par != nil {
			s.SetDiscard(astiav.DiscardAll)
			continue
		}
		d.index = s.Index()
		st.par, st.id, st.codec, st.base, st.rotation = par, par.CodecID(), codecs[par.CodecID()], s.TimeBase(), rotation(par)
		if !d.opened.IsZero() {
			st.base = astiav.NewRational(1, 1e6)
			continue
		}
		if fr := s.AvgFrameRate(); fr.Num() > 0 && fr.Den() > 0 {
			st.rate = fr.Float64()
		}
	}
	switch {
	case st.par == nil:
		return st, d.cfg.wrap("open", ErrNoVideo)
	case st.codec == "" && st.id != astiav.CodecIDRawvideo:
		return st, d.cfg.wrap("open", fmt.Errorf("codec %q: %w", st.id.Name(), ErrUnsupportedCodec))
	}
	return st, nil
}

func (d *demuxer) read(ctx context.Context, pkt *astiav.Packet) error {
	for since := time.Now(); ; {
		if err := d.guard.begin(ctx); err != nil {
			return err
		}
		if err := d.guard.end(ctx, d.in.ReadFrame(pkt)); err != nil {
			return err
		}
		if pkt.StreamIndex() == d.index {
			if !d.opened.IsZero() {
				pkt.SetPts(time.Since(d.opened).Microseconds())
				pkt.SetDts(astiav.NoPtsValue)
			}
			return nil
		}
		pkt.Unref()
		// Sound or metadata that goes on does not make a frozen picture a live one.
		if time.Since(since) > d.guard.limit {
			return ErrTimeout
		}
	}
}

func (d *demuxer) close() {
	if d.in != nil {
		d.in.CloseInput()
		d.in = nil
	}
}

// IsFile tells whether a URL is the path of a file.
func IsFile(url string) bool { return scheme(url) == "" }

// scheme is what a URL begins with, or "" for the path of a file.
func scheme(s string) string {
	if head, _, ok := strings.Cut(s, "://"); ok {
		return strings.ToLower(head)
	}
	if strings.HasPrefix(s, "v4l2:") {
		return "v4l2"
	}
	return ""
}

// checkCamera says in plain words why a device cannot be opened.
func checkCamera(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrNotExist):
		there, _ := filepath.Glob("/dev/video*")
		if len(there) == 0 {
			return fmt.Errorf("no such camera, and this machine has no other (no /dev/video*; in a container: run it with --device %s): %w", path, ErrNotFound)
		}
		return fmt.Errorf("no such camera; there are %s: %w", strings.Join(there, ", "), ErrNotFound)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; add the user to the group video", err)
	}
	return err
}

// packets reads what is published on a tap: what a browser sends, or what
// another Reader has read. Its timestamps are media time already.
type packets struct {
	cfg   *Config
	sub   *media.Sub
	codec media.Codec
	next  *media.Packet // read by open to learn the codec
	now   *media.Packet // the one last read
}

// errNewCodec is returned when what is published changes its codec: the source
// is to be opened anew.
var errNewCodec = errors.New("the publisher has changed the codec")

func (p *packets) open(ctx context.Context) (stream, error) {
	p.sub = p.cfg.Packets.Subscribe()
	first, err := p.wait(ctx)
	switch {
	case errors.Is(err, astiav.ErrEof):
		return stream{}, io.EOF
	case err != nil:
		return stream{}, p.cfg.wrap("read", err)
	}
	p.next, p.codec = first, first.Codec
	for id, c := range codecs {
		if c == first.Codec {
			return stream{id: id, codec: c, base: astiav.NewRational(1, 1e6), live: true}, nil
		}
	}
	return stream{}, p.cfg.wrap("open", fmt.Errorf("codec %q: %w", first.Codec, ErrUnsupportedCodec))
}

func (p *packets) wait(ctx context.Context) (*media.Packet, error) {
	limited, cancel := context.WithTimeout(ctx, p.cfg.ReadTimeout)
	defer cancel()
	pkt, err := p.sub.Next(limited)
	switch {
	case err == nil:
		return pkt, nil
	case errors.Is(err, media.ErrTapClosed):
		return nil, astiav.ErrEof
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, ErrTimeout
}

func (p *packets) read(ctx context.Context, pkt *astiav.Packet) (err error) {
	m := p.next
	if p.next = nil; m == nil {
		if m, err = p.wait(ctx); err != nil {
			return err
		}
	}
	if m.Codec != p.codec {
		return errNewCodec
	}
	if err := fillPacket(pkt, m.Data); err != nil {
		return err
	}
	p.now = m
	pkt.SetPts(m.At.Media.Microseconds())
	pkt.SetDts(astiav.NoPtsValue)
	if m.Key {
		pkt.SetFlags(pkt.Flags().Add(astiav.PacketFlagKey))
	}
	return nil
}

func (p *packets) close() {
	if p.sub != nil {
		p.sub.Close()
		p.sub = nil
	}
	p.next, p.now = nil, nil
}
