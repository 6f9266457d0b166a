package ingest

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/asticode/go-astiav"

	"github.com/lookout-video/lookout/media"
)

var (
	// ErrNoVideo is returned by Open when the source has no video stream.
	ErrNoVideo = errors.New("the source has no video stream; point to one that has")
	// ErrUnsupportedCodec is returned by Open when no decoder is built in for
	// the source's codec.
	ErrUnsupportedCodec = errors.New("no decoder for this codec; use H.264, HEVC, VP8, VP9, AV1, MJPEG, MPEG-4 or MPEG-2")
	// ErrAuth is returned by Open when the source refuses the user or password.
	ErrAuth = errors.New("user or password refused; write them as scheme://user:password@host/path")
	// ErrNotFound is returned by Open when there is nothing at the address.
	ErrNotFound = errors.New("nothing there; check the path")
	// ErrCorrupt is returned when the data is not video that can be read.
	ErrCorrupt = errors.New("not readable as video; the file may be cut off or damaged")
	// ErrTimeout is returned when the source says nothing for Config.ReadTimeout.
	ErrTimeout = errors.New("the source went silent; check that it is on and reachable")
	// ErrStalled is returned when packets come but no picture can be decoded
	// for Config.StallTimeout.
	ErrStalled = errors.New("packets come, but none can be decoded; check the camera's encoding, or whether key frames are sent")
	// ErrNoHardware is returned by Open when Config.Decoder names a device that
	// is not there or cannot decode the stream; the text says what is missing.
	ErrNoHardware = errors.New("no hardware decoding")
	// ErrNoStill is returned by Still for a frame that is not kept (any more).
	ErrNoStill = errors.New("ingest: this picture is not kept")
	// ErrUnreachable is returned by Open when no connection can be made.
	ErrUnreachable = errors.New("cannot connect; check host, port and network")
)

// wrap says what was being done with which stream, and maps FFmpeg's codes to
// the errors that callers decide on.
func (c *Config) wrap(doing string, err error) error {
	cause := err
	switch {
	case errors.Is(err, astiav.ErrHttpUnauthorized), errors.Is(err, astiav.ErrHttpForbidden):
		cause = ErrAuth
	case errors.Is(err, astiav.ErrHttpNotFound), errors.Is(err, astiav.Error(-int(syscall.ENOENT))):
		cause = fmt.Errorf("%w: %w", ErrNotFound, fs.ErrNotExist)
	case errors.Is(err, astiav.ErrInvaliddata), errors.Is(err, astiav.ErrEof):
		cause = ErrCorrupt
	case errors.Is(err, astiav.ErrDecoderNotFound):
		cause = ErrUnsupportedCodec
	case errors.Is(err, astiav.Error(-int(syscall.ECONNREFUSED))), errors.Is(err, astiav.Error(-int(syscall.EHOSTUNREACH))),
		errors.Is(err, astiav.Error(-int(syscall.ENETUNREACH))), errors.Is(err, astiav.Error(-int(syscall.ETIMEDOUT))):
		cause = ErrUnreachable
	}
	name := c.Name
	if name == "" {
		name = "source"
	}
	what := "the publisher's packets"
	if c.Packets == nil {
		what = media.RedactURL(c.URL)
	}
	return fmt.Errorf("ingest: %s: %s %s: %w", name, doing, what, cause)
}
