package ingest

// #cgo pkg-config: libavcodec libavutil
// #include <errno.h>
// #include <libavcodec/avcodec.h>
// #include <libavcodec/bsf.h>
// #include <libavutil/imgutils.h>
//
// static int lookout_delay(AVCodecContext *c) { return c->has_b_frames; }
// static void lookout_copy_rgb(uint8_t *dst, AVFrame *f) {
//     av_image_copy_plane(dst, f->width * 3, f->data[0], f->linesize[0], f->width * 3, f->height);
// }
// static void lookout_any_type(AVFrame *f) { f->pict_type = AV_PICTURE_TYPE_NONE; }
import "C"

import (
	"unsafe"

	"github.com/asticode/go-astiav"
)

// Here is what is called for each packet or frame and would allocate in
// astiav: its errors ("try again" is one) and its copies.

// The codes of FFmpeg that are no failure.
const (
	codeAgain = -int(C.EAGAIN)
	codeEnded = int(C.AVERROR_EOF)
)

// handle is the C object that an astiav value stands for. The types without an
// UnsafePointer method are structs of that one pointer.
func handle[T any](v *T) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(v)) }

// receiveFrame returns 0, codeAgain, codeEnded or another negative code.
func receiveFrame(c *astiav.CodecContext, f *astiav.Frame) int {
	return int(C.avcodec_receive_frame((*C.AVCodecContext)(c.UnsafePointer()), (*C.AVFrame)(f.UnsafePointer())))
}

func receivePacket(c *astiav.CodecContext, p *astiav.Packet) int {
	return int(C.avcodec_receive_packet((*C.AVCodecContext)(c.UnsafePointer()), (*C.AVPacket)(handle(p))))
}

func filterReceive(b *astiav.BitStreamFilterContext, p *astiav.Packet) int {
	return int(C.av_bsf_receive_packet((*C.AVBSFContext)(handle(b)), (*C.AVPacket)(handle(p))))
}

// packetData is p's payload in C's memory, valid until p is unreferenced.
func packetData(p *astiav.Packet) []byte {
	c := (*C.AVPacket)(handle(p))
	return unsafe.Slice((*byte)(unsafe.Pointer(c.data)), int(c.size))
}

// fillPacket gives p a copy of data. Unlike astiav's FromData it keeps the
// padding behind the payload that decoders read over.
func fillPacket(p *astiav.Packet, data []byte) error {
	if err := p.AllocPayload(len(data)); err != nil {
		return err
	}
	copy(packetData(p), data)
	return nil
}

// frameTime is a frame's timestamp in the stream's time base, from whatever the
// decoder knows of it.
func frameTime(f *astiav.Frame) int64 {
	return int64((*C.AVFrame)(f.UnsafePointer()).best_effort_timestamp)
}

// copyRGB copies a packed RGB picture into dst, without padding.
func copyRGB(dst []byte, f *astiav.Frame) {
	C.lookout_copy_rgb((*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(dst))), (*C.AVFrame)(f.UnsafePointer()))
}

// reorders tells whether pictures leave the decoder in another order than they
// came in (B-frames).
func reorders(c *astiav.CodecContext) bool {
	return C.lookout_delay((*C.AVCodecContext)(c.UnsafePointer())) > 0
}

// anyType lets an encoder choose what kind of picture f becomes.
func anyType(f *astiav.Frame) { C.lookout_any_type((*C.AVFrame)(f.UnsafePointer())) }
