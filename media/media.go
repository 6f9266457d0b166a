// Package media holds the leaf types that video travels in before it becomes
// tokens: encoded packets, decoded frames and the clocks they are placed on.
// It has no cgo and imports nothing of the project.
package media

import "time"

// ClockRate is the RTP clock of video, in hertz (RFC 3551).
const ClockRate = 90000

// Timestamp places one picture on three clocks.
type Timestamp struct {
	// Capture is the wall-clock time the picture was taken, or received when
	// the source does not tell.
	Capture time.Time
	// Media is the time since the stream began. It never goes back, also
	// across reconnects and file loops.
	Media time.Duration
	// RTP is Media on the 90 kHz clock, modulo 2^32: the value that WebRTC
	// playback stamps on the same picture.
	RTP uint32
}

// RTPTime converts a media time to the 90 kHz clock, modulo 2^32.
func RTPTime(d time.Duration) uint32 {
	return uint32(int64(d/time.Second)*ClockRate + int64(d%time.Second)*ClockRate/int64(time.Second))
}

// At makes the Timestamp of a picture captured at the wall-clock time capture
// and media time d.
func At(capture time.Time, d time.Duration) Timestamp {
	return Timestamp{Capture: capture, Media: d, RTP: RTPTime(d)}
}

// Codec names a video coding format as RTP payload names do, in lower case.
type Codec string

// The codecs that sources deliver.
const (
	H264  Codec = "h264"
	HEVC  Codec = "hevc"
	VP8   Codec = "vp8"
	VP9   Codec = "vp9"
	AV1   Codec = "av1"
	MJPEG Codec = "mjpeg"
	MPEG4 Codec = "mpeg4"
	MPEG2 Codec = "mpeg2"
)

// Packet is one access unit as it left the source, before decoding. H.264 and
// HEVC are in Annex B form with parameter sets in front of each key frame.
// A Packet is immutable once published: Data is shared between its readers.
type Packet struct {
	Codec    Codec
	Data     []byte
	Key      bool
	At       Timestamp
	Duration time.Duration
}

// Frame is one decoded picture, scaled to what the encoder takes: packed RGB,
// 8 bits a sample, row after row without padding, full range.
type Frame struct {
	// Seq counts the frames decoded from the stream, so a gap between two
	// sampled frames shows what was skipped.
	Seq           uint64
	At            Timestamp
	Width, Height int
	// Pix holds Width*Height*3 bytes. It belongs to the caller of ReadFrame,
	// which reuses it for the next frame.
	Pix []byte
}

// slack is what lies behind a picture: converters write whole vectors, the last
// of which may end behind it.
const slack = 64

// Reset gives f the size w by h, growing Pix only when it is too small.
func (f *Frame) Reset(w, h int) {
	n := w * h * 3
	if cap(f.Pix) < n+slack {
		f.Pix = make([]byte, n, n+slack)
	}
	f.Pix = f.Pix[:n]
	f.Width, f.Height = w, h
}
