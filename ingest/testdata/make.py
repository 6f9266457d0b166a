"""Makes this folder's clips. Colours are put into Y, Cb, Cr by the matrices of ITU-R BT.601-7 and BT.709-6, not by FFmpeg.

Run: python make.py   (needs: pip install av==18.1.0 numpy)
"""
import struct

import av
import numpy as np

PATCHES = [(255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 30, 40), (30, 160, 60), (40, 70, 210), (230, 200, 40), (130, 50, 160)]
KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


def ycc(rgb, matrix, full):
    kr, kb = KR_KB[matrix]
    r, g, b = (v / 255 for v in rgb)
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))
    return (255 * y, 255 * cb + 128, 255 * cr + 128) if full else (16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr)


def write(path, frames, w, h, fps=10, gop=10, codec="libx264", pix="yuv420p", **opts):
    with av.open(path, "w") as out:
        st = out.add_stream(codec, rate=fps)
        st.width, st.height, st.pix_fmt = w, h, pix
        st.codec_context.thread_count = 1
        st.gop_size = gop
        if codec == "libx264":
            opts = {"crf": "4", "preset": "veryslow", "bf": "0", "g": str(gop), **opts}
        st.options = opts
        for f in frames:
            for p in st.encode(f):
                out.mux(p)
        for p in st.encode():
            out.mux(p)


def colours(matrix, full):
    planes = np.zeros((3, 64, 128))
    for i, rgb in enumerate(PATCHES):
        y, x = i // 4 * 32, i % 4 * 32
        planes[:, y:y + 32, x:x + 32] = np.array(ycc(rgb, matrix, full))[:, None, None]
    p = np.clip(np.round(planes), 0, 255).astype(np.uint8)
    flat = np.concatenate([p[0].ravel(), p[1][::2, ::2].ravel(), p[2][::2, ::2].ravel()])
    return av.VideoFrame.from_ndarray(flat.reshape(96, 128), "yuv420p")


for m in KR_KB:
    for full in (False, True):
        name = f"{m}-{'full' if full else 'limited'}.mp4"
        x = {"bt601": "smpte170m", "bt709": "bt709"}[m]
        write(name, [colours(m, full)] * 3, 128, 64, **{"x264-params": f"colormatrix={x}:fullrange={'on' if full else 'off'}"})

# Two seconds, 10 frames a second: frame n has the luma 40+8n, so a test can tell which frame it got.
counting = []
for n in range(20):
    f = np.full((96, 128), 128, np.uint8)
    f[:64] = 40 + 8 * n
    counting.append(av.VideoFrame.from_ndarray(f, "yuv420p"))
write("counting.mp4", counting, 128, 64)

# 24 seconds of a still scene with a sensor's noise, a key frame every two: from frame 133 on, in the middle of a group, something crosses it.
noise = np.random.default_rng(3)
ground, thing = noise.integers(90, 110, (64, 128)), noise.integers(120, 240, (16, 16))
calm = []
for n in range(240):
    f = np.full((96, 128), 128, np.uint8)
    f[:64] = ground + noise.integers(-3, 4, (64, 128)) * (noise.random((64, 128)) < 0.02)
    if n >= 133:
        x = min(3 * (n - 133), 100)
        f[24:40, x:x + 16] = thing
    calm.append(av.VideoFrame.from_ndarray(f, "yuv420p"))
write("calm.mp4", calm, 128, 64, gop=20, crf="28", **{"x264-params": "scenecut=0"})

# The same in every codec that a camera may send, and in one that none does.
for path, codec, opts in [
    ("counting-hevc.mp4", "libx265", {"preset": "slow", "x265-params": "crf=10:bframes=0:log-level=none"}),
    ("counting-bframes.mp4", "libx264", {"bf": "2", "x264-params": "b-adapt=0:scenecut=0"}),
    ("counting-vp8.webm", "libvpx", {"crf": "4", "b": "500k"}),
    ("counting-vp9.webm", "libvpx-vp9", {"crf": "10", "b": "0"}),
    ("counting-av1.mp4", "libsvtav1", {"preset": "8", "crf": "10", "svtav1-params": "keyint=10"}),
    ("counting-mpeg4.mp4", "mpeg4", {"qmin": "2", "qmax": "2"}),
    ("counting-mpeg2.ts", "mpeg2video", {"qmin": "2", "qmax": "2"}),
    ("counting-ffv1.mkv", "ffv1", {}),
]:
    # MPEG-2 knows only the frame rates of television.
    write(path, counting, 128, 64, codec=codec, fps=25 if codec == "mpeg2video" else 10, **opts)
write("counting-mjpeg.avi", [f.reformat(format="yuvj420p", src_color_range=1, dst_color_range=2) for f in counting], 128, 64, codec="mjpeg", pix="yuvj420p", qmin="2", qmax="2")

# HLS in two segments of a second.
with av.open("counting.mp4") as src, av.open("hls.m3u8", "w", format="hls", options={"hls_time": "1", "hls_segment_filename": "hls%d.ts", "hls_flags": "split_by_time"}) as out:
    st = out.add_stream_from_template(src.streams.video[0])
    for p in src.demux(video=0):
        if p.dts is not None:
            p.stream = st
            out.mux(p)

# As a phone held upright writes it: the picture as the sensor lies, and how to turn it in the track header's matrix
# (ISO/IEC 14496-12, 8.3.2: [a b u c d v x y w], (x, y) is shown at (ax+cy, bx+dy), y downwards).
whole = open("bt709-limited.mp4", "rb").read()
for angle, (a, b, c, d) in {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}.items():
    at = whole.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    open(f"rotated-{angle}.mp4", "wb").write(whole[:at] + matrix + whole[at + 36:])

with av.open("audio.wav", "w") as out:
    st = out.add_stream("pcm_s16le", rate=8000, layout="mono")
    a = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
    a.rate = 8000
    for p in st.encode(a):
        out.mux(p)
