package webrtc

import (
	"bytes"
	"time"

	"github.com/lookout-video/lookout/media"
)

// assembler makes packets of a camera's access units: it finds the key frames,
// keeps H.264 parameter sets in front of them, places them in time, and holds
// back what cannot be decoded after a loss.
type assembler struct {
	broken bool // until the next key frame

	begun    bool
	sawKey   bool
	rtp      uint32
	ticks    int64 // of the 90 kHz clock since the first unit
	sps, pps []byte
}

// unit is nil when data cannot be decoded or is empty.
func (a *assembler) unit(codec media.Codec, data []byte, rtp uint32, at time.Time) *media.Packet {
	if len(data) == 0 {
		return nil
	}
	if !a.begun {
		a.begun, a.rtp = true, rtp
	}
	// Signed, so that the clock's wrap is a step forward; never backward.
	if step := int32(rtp - a.rtp); step > 0 {
		a.ticks += int64(step)
		a.rtp = rtp
	}
	elapsed := time.Duration(a.ticks/media.ClockRate)*time.Second + time.Duration(a.ticks%media.ClockRate)*time.Second/media.ClockRate
	p := &media.Packet{Codec: codec, Data: data, At: media.At(at, elapsed)}
	switch codec {
	case media.H264:
		p.Key, p.Data = a.h264(data)
	case media.VP8:
		p.Key = data[0]&1 == 0
	}
	if p.Key {
		a.sawKey, a.broken = true, false
	}
	if a.broken || !a.sawKey || len(p.Data) == 0 {
		return nil
	}
	return p
}

// h264 tells whether an Annex B access unit is a key frame and puts parameter
// sets in front of it where the camera sent them only once.
func (a *assembler) h264(au []byte) (key bool, out []byte) {
	var hasSets bool
	start := []byte{0, 0, 0, 1}
	slices := false
	for _, nal := range bytes.Split(au, start) {
		if len(nal) == 0 {
			continue
		}
		switch nal[0] & 0x1f {
		case 1:
			slices = true
		case 5:
			key, slices = true, true
		case 7:
			a.sps, hasSets = bytes.Clone(nal), true
		case 8:
			a.pps = bytes.Clone(nal)
		}
	}
	switch {
	case !slices:
		return false, nil // parameter sets alone: they come with the next key frame
	case key && (a.sps == nil || a.pps == nil):
		return false, nil // cannot be decoded
	case key && !hasSets:
		out = append(append(append(append([]byte{}, start...), a.sps...), start...), a.pps...)
		return true, append(out, au...)
	}
	return key, au
}
