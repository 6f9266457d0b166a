"""Writes yard.jsonl: true scenes with what training's own language says of them, which the strict reader must find true.

Run from train/ in the training environment: python ../eval/testdata/make_golden.py > ../eval/testdata/yard.jsonl
"""
import json
import os
import sys

sys.path.insert(0, os.getcwd())

from yard.labels import MODEL_FPS  # noqa: E402
from yard.language import Teller  # noqa: E402
from yard.scene import make_scene, truth  # noqa: E402

DURATION = 6.0
KEYS = ("id", "box", "visible", "state", "direction", "side", "held", "carrying")


def clip(seed: int, split: str) -> dict:
    s = make_scene(seed, DURATION, unseen=split == "unseen", idle=split == "idle", busy=seed % 3 == 0)
    at = lambda t: truth(s, t)[0]  # noqa: E731
    tell = Teller(s, at, seed, plain=0.0)
    events = [dict(e, direction="" if e["actor"] < 0 else "right" if s.actors[e["actor"]].facing(e["t"] + 0.05) > 0 else "left") for e in s.events()]
    frames = []
    for i in range(int(DURATION * MODEL_FPS)):
        t = i / MODEL_FPS
        frames.append({"t": t, "gate_open": s.gate_is_open(t) if s.gate else None, "lamps_on": s.lamps_on(t),
                       "actors": [{k: a[k] for k in KEYS} for a in at(t)]})
    times = [2.0, 3.25, 4.5, 5.75]
    ask = [dict(q, t=t) for t in times for q in tell.qa(t)]
    return {"truth": {"format": 1, "video": f"golden-{seed}.mp4", "seed": seed, "split": split, "duration": DURATION, "sample_fps": MODEL_FPS,
                      "scene": {"place": s.place, "light": s.light, "weather": s.weather, "has_gate": bool(s.gate)},
                      "actors": [{"id": a.id, "kind": a.kind, "color": a.color} for a in s.actors],
                      "events": events, "frames": frames, "ask": ask, "describe_at": times},
            "describe": [[tell.describe(t) for _ in range(3)] for t in times],
            "changes": [[tell.changes(float(t)) for _ in range(2)] for t in range(1, 6)]}


for n in range(20):
    print(json.dumps(clip(7_900_000 + n, "unseen" if n % 5 == 4 else "idle" if n % 7 == 6 else "test"), separators=(",", ":")))
