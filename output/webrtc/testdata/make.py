"""Makes this folder's clips: a yard scene with its picture number in white and black blocks at the top left.

yard.h264 (Annex B with access unit delimiters, High profile, no B frames), yard.ivf (VP8) and one JPEG a second.
Run from train/: python ../output/webrtc/testdata/make.py ../output/webrtc/testdata 35
"""
import sys

import av
import numpy as np

sys.path.insert(0, ".")
from yard.labels import HEIGHT, WIDTH  # noqa: E402
from yard.language import Teller  # noqa: E402
from yard.scene import Renderer, make_scene, truth  # noqa: E402

FPS, SECONDS, BITS, BLOCK = 15, 8, 8, 16
out, seed = sys.argv[1], int(sys.argv[2])
scene = make_scene(seed, duration=SECONDS, busy=True)
render = Renderer(scene)
pictures = []
for n in range(FPS * SECONDS):
    f = np.ascontiguousarray(render.frame(n / FPS))
    for b in range(BITS):
        f[:BLOCK, b * BLOCK:(b + 1) * BLOCK] = 255 if n >> (BITS - 1 - b) & 1 else 0
    pictures.append(f)


def encode(path, format, codec, **options):
    with av.open(path, "w", format=format) as c:
        st = c.add_stream(codec, rate=FPS)
        st.width, st.height, st.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        st.codec_context.thread_count = 1
        st.options = options
        for p in pictures:
            vf = av.VideoFrame.from_ndarray(p, "rgb24").reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            for packet in st.encode(vf):
                c.mux(packet)
        for packet in st.encode():
            c.mux(packet)


encode(out + "/yard.h264", "h264", "libx264", b="230k", preset="medium", bf="0", g=str(FPS * 2), x264opts="scenecut=0:keyint=30:min-keyint=30:aud=1:colormatrix=bt709:fullrange=off")
encode(out + "/yard.ivf", "ivf", "libvpx", b="220k", deadline="good", g=str(FPS * 2), **{"cpu-used": "2", "auto-alt-ref": "0"})
for s in range(SECONDS):
    av.VideoFrame.from_ndarray(pictures[s * FPS], "rgb24").to_image().resize((320, 180)).save(f"{out}/yard-{s}.jpg", quality=80)
said = Teller(scene, lambda t: truth(scene, t)[0], seed)
for s in range(SECONDS):
    print(s, said.describe(s), "|", said.changes(s))
