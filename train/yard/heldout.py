"""Renders the held-out set and the demo: real clips with their truth beside them, for the whole program to be scored on.

Run from train/:
  python -m yard.heldout set --to ../testdata/yard          the committed set (small)
  python -m yard.heldout set --to DIR --clips 1000           the large one, from the same seeds and on
  python -m yard.heldout val --to DIR --clips 500            one to choose by what is told: of other seeds
  python -m yard.heldout demo --to ../assets/demo.mp4
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import subprocess

import av
import numpy as np

from .labels import MODEL_FPS
from .language import CHANGE, RECENT, Teller
from .render import SEED0
from .scene import HEIGHT, VISIBLE, WIDTH, Renderer, Scene, _actor, _color, _give_box, make_scene, truth

FPS = 12
SEEDS = {"set": (SEED0["test"], SEED0["unseen"], 7_500_000), "val": (5_200_000, 6_200_000, 5_700_000)}  # of test clips, unseen pairs, idle ones
SETTLE = 0.3  # seconds that an event needs to be seen; nothing is asked of a moment nearer to one, or near the end of its being recent


def encode(path: str, frames, crf: int, fps: int = FPS, preset: str = "medium") -> None:
    """Camera-like H.264 (main profile, no B frames, a key frame every two seconds), or VP8 for .webm."""
    webm = path.endswith(".webm")
    with av.open(path, "w", format="webm" if webm else "mp4", options={} if webm else {"movflags": "+faststart"}) as out:
        st = out.add_stream("libvpx" if webm else "libx264", rate=fps)
        st.width, st.height, st.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        st.codec_context.thread_count = 1
        cc = st.codec_context
        cc.colorspace, cc.color_range = 1, 1  # BT.709, limited
        st.options = ({"crf": str(crf), "b": "260k", "deadline": "good", "cpu-used": "4", "g": str(2 * fps)} if webm else
                      {"crf": str(crf), "preset": preset, "profile": "main", "bf": "0", "g": str(2 * fps), "maxrate": "260k", "bufsize": "520k"})
        for f in frames:
            vf = av.VideoFrame.from_ndarray(f, "rgb24").reformat(format="yuv420p", src_colorspace="ITU709", dst_colorspace="ITU709", dst_color_range="MPEG")
            for p in st.encode(vf):
                out.mux(p)
        for p in st.encode():
            out.mux(p)


def clear(s: Scene, actors: list[dict], t: float) -> bool:
    """Whether what is true at t can be told from the pictures: no event too fresh, none just leaving its two seconds, nobody half seen."""
    for e in s.events():
        if 0 <= t - e["t"] < SETTLE or abs(t - e["t"] - RECENT) < 0.2 or abs(t - e["t"] - CHANGE) < 0.2:
            return False
    return not any(abs(a["visible"] - VISIBLE) < 0.12 and not a["held"] for a in actors)


def facts(s: Scene, name: str, split: str, duration: float, seed: int) -> dict:
    tell = Teller(s, lambda t: truth(s, t)[0], seed, plain=0.5)
    frames = []
    for i in range(int(duration * MODEL_FPS)):
        t = i / MODEL_FPS
        actors = [{k: a[k] for k in ("id", "kind", "color", "box", "visible", "state", "direction", "side", "held", "carrying")} for a in truth(s, t)[0]]
        frames.append({"t": t, "gate_open": s.gate_is_open(t) if s.gate else None, "lamps_on": s.lamps_on(t), "actors": actors})
    events = []
    for e in s.events():
        d = ""
        if e["actor"] >= 0 and e["kind"] in ("enter", "leave", "start", "turn_back"):
            d = "right" if s.actors[e["actor"]].facing(min(e["t"] + 0.05, duration)) > 0 else "left"
        events.append({**e, "direction": d})
    every = max(1, int(duration // 12))
    at = [f["t"] for f in frames if f["t"] >= 1.5 and clear(s, truth(s, f["t"])[0], f["t"])]
    say = [t for i, t in enumerate(at) if i == 0 or t - at[i - 1] > 1.2 or i % (4 * every) == 0]
    say = [t for i, t in enumerate(say) if i == 0 or t - say[i - 1] >= 1.0]
    ask = []
    for t in say[-2:] if duration < 20 else say[::3]:
        qa, kinds = tell.qa(t), set()
        random.Random(seed + int(t * 4)).shuffle(qa)
        for q in sorted(qa, key=lambda q: q["kind"] in kinds or kinds.add(q["kind"]) is not None)[:7]:
            ask.append({"t": t, **q})
    return {"format": 1, "video": name, "seed": seed, "split": split, "duration": duration, "sample_fps": MODEL_FPS,
            "scene": {"place": s.place, "light": s.light, "weather": s.weather, "has_gate": s.gate is not None},
            "actors": [{"id": a.id, "kind": a.kind, "color": a.color} for a in s.actors], "events": events, "frames": frames, "ask": ask, "describe_at": say}


def dump(path: str, obj: dict) -> None:
    """One line a frame, event and question: small, and still readable."""
    parts = []
    for k, v in obj.items():
        if isinstance(v, list) and v and isinstance(v[0], dict):
            parts.append(json.dumps(k) + ": [\n" + ",\n".join("  " + json.dumps(x, separators=(",", ":")) for x in v) + "]")
        else:
            parts.append(json.dumps(k) + ": " + json.dumps(v))
    with open(path, "w") as f:
        f.write("{" + ",\n".join(parts) + "}\n")


def yard_clip(job: tuple[str, str, int, int], duration: float = 6.0) -> None:
    to, split, n, seed = job
    r = random.Random(seed * 31 + 3)
    s = make_scene(seed, duration, unseen=split == "unseen", idle=split == "idle", busy=split == "test" and r.random() < 0.25)
    name = f"{split}-{n:04d}." + ("webm" if n % 4 == 3 else "mp4")
    if os.path.exists(os.path.join(to, name.rsplit(".", 1)[0] + ".json")):
        return  # an interrupted set goes on
    R = Renderer(s)
    encode(os.path.join(to, name), (R.frame(i / FPS) for i in range(int(duration * FPS))), r.randint(26, 33))
    dump(os.path.join(to, name.rsplit(".", 1)[0] + ".json"), facts(s, name, split, duration, seed))


# Other pictures than ours, as FFmpeg draws them. Three seconds each.
LAVFI = ["testsrc2", "smptehdbars", "mandelbrot", "life=mold=10:ratio=0.1:death_color=#C83232:life_color=#00ff00", "rgbtestsrc", "gradients=speed=0.05", "cellauto=rule=110"]


def lavfi(spec: str, seconds: float):
    kind, _, opts = spec.partition("=")
    g = av.filter.Graph()
    src = g.add(kind, (opts + ":" if opts else "") + f"size={WIDTH}x{HEIGHT}:rate={FPS}")
    f = g.add("format", "rgb24")
    sink = g.add("buffersink")
    src.link_to(f)
    f.link_to(sink)
    g.configure()
    for _ in range(int(seconds * FPS)):
        yield g.pull().to_ndarray(format="rgb24")


def pan(photo: np.ndarray, seconds: float):
    """A camera that moves slowly over a photograph."""
    from PIL import Image
    im = Image.fromarray(photo).convert("RGB")
    k = max(WIDTH / im.width, HEIGHT / im.height) * 1.15
    im = im.resize((round(im.width * k), round(im.height * k)), Image.BICUBIC)
    n, dx, dy = int(seconds * FPS), im.width - WIDTH, im.height - HEIGHT
    for i in range(n):
        f = i / n
        x, y = int(dx * f), int(dy * 0.5)
        yield np.asarray(im.crop((x, y, x + WIDTH, y + HEIGHT)))


NATURAL = {"astronaut", "brick", "camera", "chelsea", "china", "clock_motion", "coffee", "coins", "flower", "grass", "gravel", "moon", "motorcycle_left", "rocket"}


def photographs() -> list[tuple[str, np.ndarray]]:
    """The natural photographs that two Python packages carry (scikit-image, scikit-learn)."""
    from PIL import Image
    import glob
    import site
    out = []
    for base in site.getsitepackages():
        for pat in ("skimage/data/*.png", "skimage/data/*.jpg", "sklearn/datasets/images/*.jpg"):
            for p in sorted(glob.glob(os.path.join(base, pat))):
                if os.path.splitext(os.path.basename(p))[0] in NATURAL:
                    out.append((os.path.basename(p), np.asarray(Image.open(p).convert("RGB"))))
    return out


def ood(to: str, clips: int, seconds: float = 3.0) -> None:
    photos = photographs()
    sources = []
    for i in range(max(len(photos), len(LAVFI))):  # one of each in turn
        sources += [("photo", *photos[i])] if i < len(photos) else []
        sources += [("lavfi", LAVFI[i], None)] if i < len(LAVFI) else []
    for n, (kind, name, im) in enumerate(sources[:clips]):
        out = f"ood-{n:04d}.mp4"
        encode(os.path.join(to, out), lavfi(name, seconds) if kind == "lavfi" else pan(im, seconds), 30)
        dump(os.path.join(to, out.replace(".mp4", ".json")), {"format": 1, "video": out, "split": "ood", "duration": seconds, "source": name})


def demo_scene(seed: int, duration: float) -> Scene:
    """A minute in one yard: scenes of a few seconds, one after another, over one background."""
    r = random.Random(seed)
    base = make_scene(seed, duration, idle=True)
    base.actors, base.light, base.weather, base.noise, base.shake, base.place = [], "day", "clear", 1.5, 0, "yard"
    base.lamps = [(-1.0, False)]
    base.gate = (r.uniform(250, 330), 110)
    base.gate_open = [(-1.0, False), (9.0, True), (33.0, False), (50.0, True)]
    lanes = [215.0, 262.0, 308.0, 346.0]
    # A crate and a parked car stay; everybody else comes and goes.
    for kind, color, lane, x in (("crate of oranges", "orange", 215.0, 560.0),):
        a = _actor(r, len(base.actors), kind, color, lane, duration, True)
        for g in a.segs:
            g.x0 = g.x1 = x
        base.actors.append(a)
    want = [(0.5, "person", "drop", 308.0), (5.0, "car", "through", 346.0), (9.5, "van", "stop_go", 262.0), (14.0, "person", "turn", 346.0), (18.0, "dog", "through", 308.0),
            (21.5, "bicycle", "through", 262.0), (25.0, "person", "fall", 346.0), (31.0, "car", "turn", 262.0), (35.0, "person", "pick_up", 308.0), (40.5, "ball", "through", 346.0),
            (43.0, "van", "stop_go", 262.0), (46.5, "person", "turn", 346.0), (51.0, "bicycle", "turn", 308.0), (55.0, "car", "through", 346.0)]
    for at, kind, plan, lane in want:
        for k in range(4000):
            rr = random.Random(seed * 1000 + int(at * 10) * 4001 + k)
            color = _color(rr, kind, False)
            a = _actor(rr, len(base.actors), kind, color, lane + rr.uniform(-3, 3), 12.0, False)
            names = [e for _, e in a.events]
            if kind == "person" and plan in ("drop", "pick_up"):
                more = [a]
                full = base.actors + [a]
                a.id = len(base.actors)
                n0 = len(full)
                _give_box(rr, a, full, 12.0)
                more = full[len(base.actors):]
                ok = len(full) > n0 and plan in [e for _, e in a.events] and "leave" in [e for _, e in a.events]
            else:
                more, ok = [a], {"through": names == ["enter", "leave"], "stop_go": names == ["enter", "stop", "start", "leave"], "turn": "turn_back" in names,
                                 "fall": names == ["enter", "fall", "get_up", "start", "leave"]}[plan]
            if not ok or min(g.t0 for g in a.segs if g.state == "moving") < 0 or min(g.t0 for g in a.segs if g.state == "moving") > 4:
                continue
            end = [t for t, e in a.events if e == "leave"][0]
            shift = at - min(g.t0 for g in a.segs if g.state == "moving")
            if end + shift > at + 13:
                continue
            for b in more:
                for g in b.segs:
                    g.t0, g.t1 = g.t0 + shift, g.t1 + shift if g.t1 < 90 else 999
                b.events = [(t + shift, e) for t, e in b.events]
                b.held = (b.held[0] + shift, b.held[1] + shift if b.held[1] < 90 else 999) if b.holder >= 0 else b.held
                if b.holder >= 0:
                    # The box of "pick_up" must not stand there from the start of the minute: it was always there.
                    b.segs[0].t0 = -20
                base.actors.append(b)
            break
        else:
            raise SystemExit(f"no seed gives {kind} {plan}")
    base.duration = duration
    return base


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["set", "val", "demo", "ood"])
    ap.add_argument("--to", required=True)
    ap.add_argument("--clips", type=int, default=40, help="test clips; a quarter as many of unseen pairs, a seventh idle ones")
    ap.add_argument("--ood", type=int, default=21)
    ap.add_argument("--workers", type=int, default=2)
    ap.add_argument("--seed", type=int, default=8_000_021)
    a = ap.parse_args()
    if a.what == "demo":
        s = demo_scene(a.seed, 60.0)
        R = Renderer(s)
        encode(a.to, (R.frame(i / FPS) for i in range(60 * FPS)), 27, preset="slow")
        dump(os.path.splitext(a.to)[0] + ".json", facts(s, os.path.basename(a.to), "test", 60.0, a.seed))
        return
    os.makedirs(a.to, exist_ok=True)
    if a.what in SEEDS:
        jobs = [(a.to, split, i, first + i) for (split, n), first in zip((("test", a.clips), ("unseen", a.clips // 4), ("idle", round(a.clips / 7))), SEEDS[a.what]) for i in range(n)]
        with multiprocessing.get_context("spawn").Pool(a.workers) as pool:
            for i, _ in enumerate(pool.imap_unordered(yard_clip, jobs), 1):
                if i % 50 == 0 or i == len(jobs):
                    print(f"{i}/{len(jobs)} clips", flush=True)
    ood(a.to, a.ood)


if __name__ == "__main__":
    main()
