package ingest

import (
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/asticode/go-astiav"
)

// stills keeps the last sampled pictures, by reference, and makes JPEGs of them
// when asked.
type stills struct {
	mu   sync.Mutex // guards ring and at; never held while C works for long
	ring []still
	at   int // the next one to be overwritten

	work   sync.Mutex // guards what makes the JPEG
	frame  *astiav.Frame
	packet *astiav.Packet
	scaler scaler
	enc    *astiav.CodecContext
	made   int64
}

type still struct {
	frame    *astiav.Frame
	seq      uint64 // 0: empty
	rotation int
}

func (s *stills) init(n int) {
	for range max(n, 0) {
		s.ring = append(s.ring, still{frame: astiav.AllocFrame()})
	}
	s.frame, s.packet = astiav.AllocFrame(), astiav.AllocPacket()
}

// keep takes a reference to f.
func (s *stills) keep(f *astiav.Frame, seq uint64, rotation int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ring) == 0 {
		return
	}
	k := &s.ring[s.at]
	k.frame.Unref()
	k.seq = 0
	if k.frame.Ref(f) == nil {
		k.seq, k.rotation = seq, rotation
		s.at = (s.at + 1) % len(s.ring)
	}
}

// take references the picture seq (0: the newest) in s.frame.
func (s *stills) take(seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ring) == 0 {
		return ErrNoStill
	}
	i := (s.at + len(s.ring) - 1) % len(s.ring)
	if seq != 0 {
		i = slices.IndexFunc(s.ring, func(k still) bool { return k.seq == seq })
	}
	if i < 0 || s.ring[i].seq == 0 {
		return ErrNoStill
	}
	s.scaler.rotation = s.ring[i].rotation
	return s.frame.Ref(s.ring[i].frame)
}

func (s *stills) jpeg(seq uint64, width int) ([]byte, error) {
	s.work.Lock()
	defer s.work.Unlock()
	if s.frame == nil {
		return nil, ErrNoStill // closed
	}
	if err := s.take(seq); err != nil {
		return nil, err
	}
	defer s.frame.Unref()
	want := picture{form: formJPEG, fit: true}
	if width > 0 {
		want.w, want.h = width, 1<<14 // the height follows
	}
	out, err := s.scaler.scale(s.frame, want)
	if err != nil {
		return nil, fmt.Errorf("ingest: scale a still: %w", err)
	}
	defer out.Unref()
	if s.enc == nil || s.enc.Width() != out.Width() || s.enc.Height() != out.Height() {
		if err := s.openEncoder(out.Width(), out.Height()); err != nil {
			return nil, fmt.Errorf("ingest: open the JPEG encoder: %w", err)
		}
	}
	anyType(out)
	s.made++
	out.SetPts(s.made) // encoders want time to grow
	if err := s.enc.SendFrame(out); err != nil {
		return nil, fmt.Errorf("ingest: encode a still: %w", err)
	}
	if code := receivePacket(s.enc, s.packet); code != 0 {
		return nil, fmt.Errorf("ingest: encode a still: %w", astiav.Error(code))
	}
	defer s.packet.Unref()
	return slices.Clone(packetData(s.packet)), nil
}

func (s *stills) openEncoder(w, h int) error {
	if s.enc != nil {
		s.enc.Free()
		s.enc = nil
	}
	codec := astiav.FindEncoder(astiav.CodecIDMjpeg)
	if codec == nil {
		return astiav.ErrEncoderNotFound
	}
	enc := astiav.AllocCodecContext(codec)
	enc.SetWidth(w)
	enc.SetHeight(h)
	enc.SetPixelFormat(astiav.PixelFormatYuvj420P)
	enc.SetColorRange(astiav.ColorRangeJpeg)
	enc.SetTimeBase(astiav.NewRational(1, 25))
	enc.SetThreadCount(1)
	opts := astiav.NewDictionary()
	defer opts.Free()
	for _, k := range []string{"qmin", "qmax"} { // 2 is the best, 31 the worst
		_ = opts.Set(k, strconv.Itoa(4), 0)
	}
	if err := enc.Open(codec, opts); err != nil {
		enc.Free()
		return err
	}
	s.enc = enc
	return nil
}

// close frees all; Still may still be called and finds nothing.
func (s *stills) close() {
	s.work.Lock()
	defer s.work.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.ring {
		k.frame.Free()
	}
	s.ring = nil
	if s.frame != nil {
		s.frame.Free()
		s.packet.Free()
		s.frame, s.packet = nil, nil
	}
	if s.enc != nil {
		s.enc.Free()
		s.enc = nil
	}
	s.scaler.close()
}
