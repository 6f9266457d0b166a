package ingest

// #cgo pkg-config: libavcodec libavutil libswscale
// #include <errno.h>
// #include <libavcodec/avcodec.h>
// #include <libavcodec/bsf.h>
// #include <libavutil/opt.h>
// #include <libavutil/pixdesc.h>
// #include <libswscale/swscale.h>
//
// static int lookout_delay(AVCodecContext *c) { return c->has_b_frames; }
// static int64_t lookout_chroma(int sub) { return sub ? 128 * ((1 << sub) - 1) : -513; }
// static int lookout_sws(struct SwsContext **out, int w, int h, int format, int full, int space, int to_w, int to_h) {
//     const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(format);
//     struct SwsContext *c = sws_alloc_context();
//     if (!c || !d) { sws_freeContext(c); return AVERROR(ENOMEM); }
//     av_opt_set_int(c, "sws_flags", SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, 0);
//     av_opt_set_int(c, "srcw", w, 0);
//     av_opt_set_int(c, "srch", h, 0);
//     av_opt_set_int(c, "src_format", format, 0);
//     av_opt_set_int(c, "src_range", full, 0);
//     av_opt_set_int(c, "src_h_chr_pos", lookout_chroma(d->log2_chroma_w), 0);
//     av_opt_set_int(c, "src_v_chr_pos", lookout_chroma(d->log2_chroma_h), 0);
//     av_opt_set_int(c, "dstw", to_w, 0);
//     av_opt_set_int(c, "dsth", to_h, 0);
//     av_opt_set_int(c, "dst_format", AV_PIX_FMT_RGB24, 0);
//     av_opt_set_int(c, "dst_range", 1, 0);
//     int code = sws_init_context(c, NULL, NULL);
//     if (code < 0) { sws_freeContext(c); return code; }
//     int *in, *to, in_full, to_full, b, k, s;
//     sws_getColorspaceDetails(c, &in, &in_full, &to, &to_full, &b, &k, &s);
//     sws_setColorspaceDetails(c, sws_getCoefficients(space), in_full, to, to_full, b, k, s);
//     *out = c;
//     return 0;
// }
// static int lookout_rgb(struct SwsContext *c, AVFrame *f, uint8_t *dst, int row) {
//     uint8_t *to[4] = {dst};
//     int rows[4] = {row};
//     return sws_scale(c, (const uint8_t *const *)f->data, f->linesize, 0, f->height, to, rows);
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

// conversion is from a picture of w by h to RGB of toW by toH, full range.
type conversion struct {
	w, h     int
	format   astiav.PixelFormat
	bt709    bool // else BT.601
	full     bool // range
	toW, toH int
}

// converter does one conversion into memory that is given to it, which neither
// FFmpeg's filters nor astiav can. It scales and rounds as the filter "scale" does.
type converter struct {
	conversion
	c *C.struct_SwsContext // nil: none yet, and conversion is zero
}

func (v *converter) open(to conversion) error {
	v.close()
	space, full := C.int(C.SWS_CS_ITU601), C.int(0)
	if to.bt709 {
		space = C.SWS_CS_ITU709
	}
	if to.full {
		full = 1
	}
	if code := C.lookout_sws(&v.c, C.int(to.w), C.int(to.h), C.int(to.format), full, space, C.int(to.toW), C.int(to.toH)); code < 0 {
		return astiav.Error(code)
	}
	v.conversion = to
	return nil
}

// convert writes f into dst, rows of row bytes.
func (v *converter) convert(f *astiav.Frame, dst []byte, row int) error {
	if code := C.lookout_rgb(v.c, (*C.AVFrame)(f.UnsafePointer()), (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(dst))), C.int(row)); code < 0 {
		return astiav.Error(code)
	}
	return nil
}

func (v *converter) close() {
	C.sws_freeContext(v.c)
	v.c, v.conversion = nil, conversion{}
}

// reorders tells whether pictures leave the decoder in another order than they
// came in (B-frames).
func reorders(c *astiav.CodecContext) bool {
	return C.lookout_delay((*C.AVCodecContext)(c.UnsafePointer())) > 0
}

// anyType lets an encoder choose what kind of picture f becomes.
func anyType(f *astiav.Frame) { C.lookout_any_type((*C.AVFrame)(f.UnsafePointer())) }
