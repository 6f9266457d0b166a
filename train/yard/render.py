"""Renders clips and their truth into shards that training reads. Run: python -m yard.render --help (from train/)."""
from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil

import av
import numpy as np

from .labels import ACTION, COLOR, GRID_H, GRID_W, HEIGHT, KIND, MODEL_FPS, MODEL_H, MODEL_W, WIDTH
from .language import Teller
from .scene import MASK_H, MASK_W, Renderer, make_scene, truth

SHARD = 100


def encode(frames, fps: int, codec: str, crf: int) -> bytes:
    """Encodes RGB pictures as cameras do: 4:2:0, limited range, BT.709, no B frames."""
    buf = io.BytesIO()
    with av.open(buf, "w", format="mp4" if codec == "libx264" else "webm") as out:
        st = out.add_stream(codec, rate=fps)
        st.width, st.height, st.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        st.codec_context.thread_count = 1
        st.options = ({"crf": str(crf), "preset": "veryfast", "bf": "0", "g": str(fps * 2), "colorspace": "bt709", "color_range": "tv"}
                      if codec == "libx264" else {"crf": str(crf), "b": "1M", "deadline": "realtime", "cpu-used": "8"})
        for f in frames:
            vf = av.VideoFrame.from_ndarray(f, "rgb24").reformat(format="yuv420p", src_colorspace="ITU709", dst_colorspace="ITU709", dst_color_range="MPEG")
            for p in st.encode(vf):
                out.mux(p)
        for p in st.encode():
            out.mux(p)
    return buf.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Decodes and scales as the ingest stage does: swscale, bilinear, full-range RGB. uint8 [T,144,256,3]."""
    out = []
    with av.open(io.BytesIO(data)) as inp:
        inp.streams.video[0].thread_count = 1
        for f in inp.decode(video=0):
            out.append(f.reformat(MODEL_W, MODEL_H, "rgb24", interpolation="BILINEAR", src_colorspace="ITU709", dst_color_range="JPEG").to_ndarray())
    return np.stack(out)


def grids(s, t: float) -> dict[str, np.ndarray]:
    """Per patch: the actor that covers most of it, and that actor's class, colour, speed, action."""
    actors, mask = truth(s, t)
    by = {a["id"]: a for a in actors}
    m = mask.reshape(GRID_H, MASK_H // GRID_H, GRID_W, MASK_W // GRID_W).transpose(0, 2, 1, 3).reshape(GRID_H, GRID_W, -1)
    g = {k: np.zeros((GRID_H, GRID_W), np.int8) for k in ("cls", "color", "vx", "action", "cover", "actor")}
    n = (m[..., None] == np.arange(1, len(s.actors) + 1, dtype=np.uint8)).sum(2) if s.actors else np.zeros((GRID_H, GRID_W, 1), int)
    top = n.argmax(-1)
    for i in np.unique(top[n.max(-1) > 0]):
        a = by.get(int(i))
        if a is None:
            continue
        at = (top == i) & (n.max(-1) > 0)
        act = "moving" if a["direction"] else a["state"]
        if a["state"] != "fallen" and a["carrying"]:
            act = "carrying"
        g["cls"][at], g["color"][at], g["action"][at] = KIND[a["kind"]], COLOR[a["color"]], ACTION[act]
        g["vx"][at] = int(np.clip(round(a["vx"] / 4), -127, 127))
        g["cover"][at] = (100 * n.max(-1) / m.shape[2]).astype(np.int8)[at]
        g["actor"][at] = a["id"] + 1
    return g


def scene_of(seed: int, split: str, frames: int):
    """The scene of a clip, and the random numbers that its other choices come from."""
    r = random.Random(seed * 31 + 3)
    return make_scene(seed, frames / MODEL_FPS, unseen=split == "unseen", idle=r.random() < 0.08, busy=r.random() < 0.25), r


def clip(seed: int, split: str, frames: int):
    """One clip: uint8 [T,144,256,3], grids [T,9,16], and its line of clips.jsonl."""
    s, r = scene_of(seed, split, frames)
    R = Renderer(s)
    step = r.choice([1, 1, 1, 2])
    fps = MODEL_FPS * step
    codec, crf = r.choice([("libx264", r.randint(20, 34)), ("libx264", r.randint(20, 34)), ("libvpx", r.randint(10, 40))])
    pix = decode(encode((R.frame(i / fps) for i in range(frames * step)), fps, codec, crf))[::step][:frames]
    if len(pix) < frames:
        pix = np.concatenate([pix, np.repeat(pix[-1:], frames - len(pix), 0)])
    gs = [grids(s, i / MODEL_FPS) for i in range(frames)]
    tell = Teller(s, lambda t: truth(s, t)[0], seed)
    after = [min(int(np.ceil(e["t"] * MODEL_FPS)) + r.randint(0, 2), frames - 1) for e in s.events()]
    ts = sorted({t for t in r.sample(after, min(3, len(after))) if t >= 3} | set(r.sample(range(3, frames), 3)))
    texts = []
    for k in ts:
        t = k / MODEL_FPS
        texts.append({"t": k, "describe": sorted({tell.describe(t) for _ in range(3)}), "changes": sorted({tell.changes(t) for _ in range(2)}), "qa": tell.qa(t),
                      "phrases": [{"text": p, "patches": np.flatnonzero(gs[k]["actor"].ravel() == i + 1).tolist()} for p, i in tell.phrases(t)]})
    line = {"seed": seed, "place": s.place, "light": s.light, "weather": s.weather, "codec": codec, "crf": crf, "events": s.events(),
            "gate": s.gate_open if s.gate else None, "lamps": s.lamps,
            "actors": [{"id": a.id, "kind": a.kind, "color": a.color} for a in s.actors], "texts": texts}
    return pix, {k: np.stack([g[k] for g in gs]) for k in gs[0]}, line


def gate_patches(s) -> np.ndarray:
    """Which patches the gate lies in: bool [9,16]."""
    out = np.zeros((GRID_H, GRID_W), bool)
    if s.gate:
        x, w = s.gate
        k = WIDTH / GRID_W
        out[int((s.horizon - 40) / k) : int((s.horizon - 5) / k) + 1, int((x + 10) / k) : int((x + w - 10) / k) + 1] = True
    return out


def shard(job) -> str:
    out, split, seed0, n, frames = job
    if os.path.exists(os.path.join(out, "DONE")):
        return out
    tmp = out + ".tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    pix = np.lib.format.open_memmap(os.path.join(tmp, "frames.npy"), "w+", np.uint8, (n, frames, MODEL_H, MODEL_W, 3))
    grid, lines = [], []
    for i in range(n):
        p, g, line = clip(seed0 + i, split, frames)
        pix[i] = p
        grid.append(g)
        lines.append(json.dumps(line))
    pix.flush()
    np.savez_compressed(os.path.join(tmp, "grid.npz"), **{k: np.stack([g[k] for g in grid]) for k in grid[0]})
    with open(os.path.join(tmp, "clips.jsonl"), "w") as f:
        f.write("\n".join(lines) + "\n")
    open(os.path.join(tmp, "DONE"), "w").close()
    shutil.rmtree(out, ignore_errors=True)
    os.rename(tmp, out)
    return out


SEED0 = {"train": 1_000_000, "val": 5_000_000, "unseen": 6_000_000, "test": 7_000_000}


def main() -> None:
    ap = argparse.ArgumentParser(description="Render the yard into training shards; what is there already is kept.")
    ap.add_argument("--out", required=True, help="folder that gets shard-00000, shard-00001, ...")
    ap.add_argument("--split", choices=sorted(SEED0), default="train")
    ap.add_argument("--clips", type=int, default=1000)
    ap.add_argument("--first", type=int, default=0, help=f"begin at this clip of the split, a multiple of {SHARD}")
    ap.add_argument("--frames", type=int, default=24, help="frames a clip at 4 a second")
    ap.add_argument("--workers", type=int, default=1)
    a = ap.parse_args()
    n = min(SHARD, a.clips)
    jobs = [(os.path.join(a.out, f"shard-{i:05d}"), a.split, SEED0[a.split] + i * SHARD, n, a.frames)
            for i in range(a.first // SHARD, (a.first + a.clips + SHARD - 1) // SHARD)]
    os.makedirs(a.out, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(a.workers) as pool:
        for i, out in enumerate(pool.imap_unordered(shard, jobs)):
            print(f"{i + 1}/{len(jobs)} {out}", flush=True)


if __name__ == "__main__":
    main()
