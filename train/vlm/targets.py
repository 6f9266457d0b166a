"""Dense targets from the truth: what each visual token, each patch and each frame should know. The words follow from them."""
from __future__ import annotations

import copy

import numpy as np

from yard.labels import COLOR, GRID_H, GRID_W, KIND, MODEL_FPS, WIDTH
from yard.language import CHANGE, RECENT
from yard.scene import VISIBLE, Scene

from .model import Config

CLAUSES = ["none", "enter", "leave", "stop", "start", "turn_back", "drop", "pick_up", "fall", "get_up", "moving", "carrying", "fallen", "still"]
CLAUSE = {k: i for i, k in enumerate(CLAUSES)}
SIDES = ["left", "middle", "right"]
FRAME_FLAGS = ["gate_open", "gate_close", "lights_on", "lights_off", "drop", "pick_up"]
SIZES = Config()  # the places are those of the visual tokens
CELLS_H = (GRID_H - SIZES.sky) // SIZES.merge_h


def mirror_scene(s: Scene) -> Scene:
    m = copy.deepcopy(s)
    for a in m.actors:
        for g in a.segs:
            g.x0, g.x1 = WIDTH - g.x0, WIDTH - g.x1
    return m


def mirror_truth(actors: list[dict]) -> list[dict]:
    flip = {"left": "right", "right": "left", "middle": "middle", "": ""}
    return [dict(a, box=[WIDTH - a["box"][2], a["box"][1], WIDTH - a["box"][0], a["box"][3]], vx=-a["vx"],
                 direction=flip[a["direction"]], side=flip[a["side"]]) for a in actors]


def clause(s: Scene, a: dict, events: list[dict], t: float) -> tuple[int, int, int]:
    """What is said of an actor at t, its direction (0 none, 1 left, 2 right), and whether that is a change."""
    mine = [e for e in events if e["actor"] == a["id"] and e["kind"] != "leave" and t - RECENT < e["t"] <= t]
    d = a["direction"] or ("right" if s.actors[a["id"]].facing(t) > 0 else "left")
    way = 1 if d == "left" else 2
    if mine:
        return CLAUSE[mine[-1]["kind"]], way, int(mine[-1]["t"] > t - CHANGE)
    if a["state"] == "moving" and a["direction"]:
        return CLAUSE["carrying" if a["carrying"] else "moving"], way, 0
    return CLAUSE["fallen" if a["state"] == "fallen" else "still"], way, 0


def cell(x: float, y: float) -> int:
    """The visual token of a place in the camera's picture."""
    patch = WIDTH / GRID_W
    cx, cy = int(x / patch), int((y / patch - SIZES.sky) / SIZES.merge_h)
    return min(max(cx, 0), GRID_W - 1) * CELLS_H + min(max(cy, 0), CELLS_H - 1)


def dense(s: Scene, truth: list[list[dict]], actor_grid: np.ndarray) -> dict[str, np.ndarray]:
    """Per frame: [F,cells] kind, color, clause, way, side, fresh, pos (x within the picture); [F,144] pclause, pway; [F,6] flags."""
    n, T = len(truth), SIZES.cells
    out = {k: np.zeros((n, T), np.int64) for k in ("kind", "color", "clause", "way", "side", "fresh")}
    out |= {"pos": np.zeros((n, T), np.float32), "pclause": np.zeros((n, GRID_W * GRID_H), np.int64), "pway": np.zeros((n, GRID_W * GRID_H), np.int64),
            "flags": np.zeros((n, len(FRAME_FLAGS)), np.float32)}
    events = s.events()
    for f, actors in enumerate(truth):
        t = f / MODEL_FPS
        g = actor_grid[f].ravel()
        put = []
        for a in actors:
            cl, way, fresh = clause(s, a, events, t)
            at = g == a["id"] + 1
            out["pclause"][f, at] = cl
            out["pway"][f, at] = way
            if a["visible"] >= VISIBLE and not a["held"]:
                put.append((s.actors[a["id"]].lane, a, (cl, way, fresh), (a["box"][0] + a["box"][2]) / 2, (a["box"][1] + a["box"][3]) / 2))
        for e in events:
            if e["actor"] >= 0 and e["kind"] == "leave" and t - CHANGE < e["t"] <= t:
                a = s.actors[e["actor"]]
                right = a.facing(e["t"]) > 0
                put.append((0, {"kind": a.kind, "color": a.color, "side": "right" if right else "left"}, (CLAUSE["leave"], 2 if right else 1, 1),
                            WIDTH if right else 0, a.lane - a.h / 2))
            if e["kind"] in FRAME_FLAGS:
                within = 4.0 if e["kind"] in ("drop", "pick_up") else CHANGE
                if t - within < e["t"] <= t:
                    out["flags"][f, FRAME_FLAGS.index(e["kind"])] = 1
        for _, a, (cl, way, fresh), x, y in sorted(put, key=lambda p: p[0]):  # who is nearer takes the cell
            k = cell(x, y)
            out["kind"][f, k], out["color"][f, k], out["clause"][f, k], out["way"][f, k] = KIND[a["kind"]], COLOR[a["color"]], cl, way
            out["side"][f, k], out["fresh"][f, k], out["pos"][f, k] = SIDES.index(a["side"]), fresh, x / WIDTH
    return out
