package ingest

import (
	"bytes"
	"testing"
	"time"

	"github.com/lookout-video/lookout/media"
)

// Whatever a camera sends, a clip of it is made or refused, and its index stays
// in front.
func FuzzClip(f *testing.F) {
	all := []media.Codec{media.H264, media.HEVC, media.VP8, media.VP9, media.AV1, media.MPEG4, media.MPEG2, media.MJPEG, "theora"}
	f.Add(uint8(0), []byte{0, 0, 0, 1, 0x65, 1}, []byte{0, 0, 0, 1, 0x41}, int64(40))
	f.Add(uint8(2), []byte{0x10, 2, 0, 0x9d, 1, 0x2a, 16, 0, 16, 0, 0, 0}, []byte{}, int64(-40))
	f.Add(uint8(8), []byte("x"), []byte("y"), int64(0))
	f.Fuzz(func(t *testing.T, codec uint8, key, next []byte, ms int64) {
		c := all[int(codec)%len(all)]
		second := media.Packet{Codec: c, Data: next}
		second.At.Media = time.Duration(ms%1e9) * time.Millisecond
		data, format, _, err := Clip([]*media.Packet{{Codec: c, Key: true, Data: key, Duration: 40 * time.Millisecond}, &second}, int(codec)*90)
		if err != nil {
			return
		}
		if format == "mp4" {
			if moov, mdat := bytes.Index(data, []byte("moov")), bytes.Index(data, []byte("mdat")); moov < 0 || mdat >= 0 && moov > mdat {
				t.Errorf("moov at %d, mdat at %d", moov, mdat)
			}
		}
	})
}
