"""Makes the benchmark's clips: busy.mp4, where things move all the time, and static.mp4, where only the sensor's noise does."""
import argparse
import os

from peer import need

av, np = need("av", "numpy")

p = argparse.ArgumentParser()
p.add_argument("--out", required=True)
p.add_argument("--seconds", type=int, default=30)
p.add_argument("--fps", type=int, default=25)
p.add_argument("--width", type=int, default=1280)
p.add_argument("--height", type=int, default=720)
a = p.parse_args()
os.makedirs(a.out, exist_ok=True)


def clip(name: str, moving: int):
    r = np.random.default_rng(7)
    w, h = a.width, a.height
    yy, xx = np.mgrid[0:h, 0:w]
    ground = np.stack([90 + 60 * yy / h + 12 * np.sin(xx / 37 + c) + 8 * np.sin(yy / 23 - c) for c in range(3)], -1)
    ground = (ground + r.normal(0, 6, ground.shape)).clip(0, 255).astype(np.uint8)
    noise = [r.integers(-2, 3, (h, w, 1), dtype=np.int16) for _ in range(5)]
    boxes = [(r.uniform(0, w), r.uniform(h * 0.3, h * 0.9), r.uniform(-9, 9), r.uniform(40, w / 6), r.integers(0, 255, 3)) for _ in range(moving)]
    path = os.path.join(a.out, name)
    with av.open(path + ".tmp", "w", format="mp4") as out:
        st = out.add_stream("libx264", rate=a.fps)
        st.width, st.height, st.pix_fmt = w, h, "yuv420p"
        st.options = {"crf": "23", "preset": "veryfast", "bf": "0", "g": str(a.fps * 2)}
        for i in range(a.seconds * a.fps):
            f = ground.copy()
            for x, y, v, s, color in boxes:
                x0, y0 = int((x + v * i) % w), int(y)
                f[max(0, y0 - int(s)):y0, x0:min(w, x0 + int(s * 1.5))] = color
            f = (f.astype(np.int16) + noise[i % len(noise)]).clip(0, 255).astype(np.uint8)
            for pkt in st.encode(av.VideoFrame.from_ndarray(f, "rgb24")):
                out.mux(pkt)
        for pkt in st.encode():
            out.mux(pkt)
    os.replace(path + ".tmp", path)
    print(path)


clip("busy.mp4", 8)
clip("static.mp4", 0)
