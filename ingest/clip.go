package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

var (
	// ErrClipCodec is returned by Clip for a codec that neither MP4 nor WebM holds.
	ErrClipCodec = errors.New("no clip can be made of this codec; H.264, HEVC, VP8, VP9, AV1, MPEG-4, MPEG-2 and MJPEG can be kept")
	// ErrNoKeyFrame is returned by Clip when no packet is a key frame: nothing of
	// them could be shown.
	ErrNoKeyFrame = errors.New("no key frame among the packets of a clip")
)

// Clip puts packets into a file that plays, without encoding anew: MP4 ("mp4"),
// or WebM ("webm") for VP8, which MP4 does not hold. The file begins with the
// first key frame, whose time is start, and ends where the codec changes.
// rotation is Info.Rotation of the Reader that the packets come from.
func Clip(packets []*media.Packet, rotation int) (data []byte, format string, start media.Timestamp, err error) {
	i := slices.IndexFunc(packets, func(p *media.Packet) bool { return p.Key })
	if i < 0 {
		return nil, "", start, ErrNoKeyFrame
	}
	first := packets[i]
	start = first.At
	packets = packets[i:]
	if end := slices.IndexFunc(packets, func(p *media.Packet) bool { return p.Codec != first.Codec }); end >= 0 {
		packets = packets[:end]
	}
	// Pictures shown before the first key frame rest on the group before it.
	packets = slices.DeleteFunc(slices.Clone(packets), func(p *media.Packet) bool { return p.At.Media < start.Media })
	format = "mp4"
	if first.Codec == media.VP8 {
		format = "webm"
	}
	if data, err = mux(packets, rotation, format); err != nil {
		return nil, "", start, fmt.Errorf("ingest: make a clip of %s: %w", first.Codec, err)
	}
	return data, format, start, nil
}

// clipBase is the clock of a clip's timestamps.
var clipBase = astiav.NewRational(1, media.ClockRate)

func mux(packets []*media.Packet, rotation int, format string) ([]byte, error) {
	file := &memory{}
	pb, err := astiav.AllocIOContext(1<<16, true, nil, file.Seek, file.Write)
	if err != nil {
		return nil, err
	}
	defer pb.Free()
	out, err := astiav.AllocOutputFormatContext(nil, format, "")
	if err != nil {
		return nil, err
	}
	defer out.Free()
	out.SetPb(pb)
	st := out.NewStream(nil)
	if err := describe(st.CodecParameters(), packets[0], rotation); err != nil {
		return nil, err
	}
	st.SetTimeBase(clipBase)
	opts := astiav.NewDictionary()
	defer opts.Free()
	if format == "mp4" {
		// The index goes in front, where a player looks first: room for it is left there.
		_ = opts.Set("moov_size", strconv.Itoa(8192+48*len(packets)), 0)
	}
	if err := out.WriteHeader(opts); err != nil {
		return nil, err
	}
	pkt := astiav.AllocPacket()
	defer pkt.Free()
	for i, at := range clipTimes(packets) {
		p := packets[i]
		if err := fillPacket(pkt, p.Data); err != nil {
			return nil, err
		}
		pkt.SetStreamIndex(st.Index())
		pkt.SetPts(at.pts)
		pkt.SetDts(at.dts)
		pkt.SetDuration(int64(media.RTPTime(p.Duration)))
		if p.Key {
			pkt.SetFlags(pkt.Flags().Add(astiav.PacketFlagKey))
		}
		pkt.RescaleTs(clipBase, st.TimeBase())
		err := out.WriteFrame(pkt)
		pkt.Unref()
		if err != nil {
			return nil, err
		}
	}
	if err := out.WriteTrailer(); err != nil {
		return nil, err
	}
	pb.Flush()
	return file.b, nil
}

// describe fills par with what the decoder learns from the first packet.
func describe(par *astiav.CodecParameters, first *media.Packet, rotation int) error {
	tap := media.NewTap(1)
	tap.Publish(first)
	r, err := Open(context.Background(), Config{Name: "clip", Packets: tap, Stills: -1, ReadTimeout: time.Second})
	if err != nil {
		return err
	}
	defer r.Close()
	tap.Close()
	if _, err := r.decode(context.Background()); err != nil {
		return err
	}
	r.frame.Unref()
	if err := par.FromCodecContext(r.dec.ctx); err != nil {
		return err
	}
	par.SetCodecTag(0)
	var header []byte
	switch first.Codec {
	case media.H264, media.HEVC, media.VP9: // the muxer reads the first packet itself
	case media.AV1:
		header = first.Data
	case media.MPEG4:
		header, _, _ = bytes.Cut(first.Data, []byte{0, 0, 1, 0xB6}) // all before the first picture
	case media.VP8, media.MPEG2, media.MJPEG:
	default:
		return ErrClipCodec
	}
	if len(header) > 0 {
		if err := par.SetExtraData(header); err != nil {
			return err
		}
	}
	if rotation == 0 {
		return nil
	}
	return par.SideData().DisplayMatrix().Add(astiav.NewDisplayMatrixFromRotation(float64(rotation)))
}

type clipTime struct{ pts, dts int64 }

// clipTimes gives when each packet is shown and when it is decoded. Packets
// come in the order of decoding and tell only when they are shown; that order,
// sorted and moved back until nothing is shown before it is decoded, is what an
// encoder would have written.
func clipTimes(packets []*media.Packet) []clipTime {
	out := make([]clipTime, len(packets))
	sorted := make([]int64, len(packets))
	zero := packets[0].At.Media
	for i, p := range packets {
		d := p.At.Media - zero
		out[i].pts = int64(d/time.Second)*media.ClockRate + int64(d%time.Second)*media.ClockRate/int64(time.Second)
		sorted[i] = out[i].pts
	}
	slices.Sort(sorted)
	var late int64
	for i := range sorted {
		if i > 0 {
			sorted[i] = max(sorted[i], sorted[i-1]+1) // two pictures at one time
		}
		late = max(late, sorted[i]-out[i].pts)
	}
	for i := range out {
		out[i].dts = sorted[i] - late
	}
	return out
}

// memory is a file that the muxer writes.
type memory struct {
	b   []byte
	pos int
}

func (m *memory) Write(b []byte) (int, error) {
	if n := m.pos + len(b); n > len(m.b) {
		m.b = append(m.b, make([]byte, n-len(m.b))...)
	}
	m.pos += copy(m.b[m.pos:], b)
	return len(b), nil
}

// avseekSize asks for the size instead of moving.
const avseekSize = 0x10000

func (m *memory) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += int64(m.pos)
	case io.SeekEnd:
		offset += int64(len(m.b))
	case avseekSize:
		return int64(len(m.b)), nil
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	m.pos = int(offset) // may lie past the end: what is skipped is zero
	return offset, nil
}
