"""PyAV: decodes every frame of a video and scales it to RGB, frames a second."""
import argparse
import time

from peer import finish, need

av = need("av")


def run(path: str, width: int, height: int, threads: int) -> int:
    n = 0
    with av.open(path) as c:
        st = c.streams.video[0]
        st.thread_type = "AUTO"  # frame and slice threads: the documentation's advice for speed
        st.codec_context.thread_count = threads
        for f in c.decode(st):
            f.reformat(width, height, "rgb24", interpolation="BILINEAR").to_ndarray()
            n += 1
    return n


p = argparse.ArgumentParser()
p.add_argument("--video", required=True)
p.add_argument("--width", type=int, required=True)
p.add_argument("--height", type=int, required=True)
p.add_argument("--threads", type=int, default=2)
a = p.parse_args()
run(a.video, a.width, a.height, a.threads)  # warm-up
t = time.perf_counter()
frames = run(a.video, a.width, a.height, a.threads)
finish(frames_per_second=frames / (time.perf_counter() - t), frames=frames)
