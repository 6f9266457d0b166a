"""Makes this folder's clips. Colours are put into Y, Cb, Cr by the matrices of ITU-R BT.601-7 and BT.709-6, not by FFmpeg.

Run: python make.py   (needs: pip install av==18.1.0 numpy)
"""
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


def write(path, frames, w, h, fps=10, gop=10, **opts):
    with av.open(path, "w") as out:
        st = out.add_stream("libx264", rate=fps)
        st.width, st.height, st.pix_fmt = w, h, "yuv420p"
        st.codec_context.thread_count = 1
        st.options = {"crf": "4", "preset": "veryslow", "bf": "0", "g": str(gop), **opts}
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

with av.open("audio.wav", "w") as out:
    st = out.add_stream("pcm_s16le", rate=8000, layout="mono")
    a = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
    a.rate = 8000
    for p in st.encode(a):
        out.mux(p)
