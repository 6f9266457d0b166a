"""Gives actors of a clip other colours, in the encoder's tokens: the share of a token that its colour explains is exchanged.

The decoder learns by it that any kind comes in any colour, also in pairs that no picture shows it (labels.HELD_OUT). The encoder takes no part.
A probe that knows true tokens reads 99 in 100 of the exchanged ones as the new colour.
"""
from __future__ import annotations

import random

import numpy as np

from yard.labels import COLOR, COLORS, HELD_OUT, KINDS, LIGHT
from yard.scene import PAINT

from .data import Shards

SHARE = 0.35  # of the clips
KINDS_PAINTED = ("person", "car", "van", "bicycle", "ball")
RARE = 4  # how much likelier a coat is that no picture shows: else what is told of colours would be led by how rare it is


def effects(data: Shards, tokens: np.ndarray, clips: int = 500, frames=(3, 9, 15, 21)) -> np.ndarray:
    """What each colour adds to the token of a patch that is all of it [colours, D]: least squares over kind, colour and light."""
    xs, ys = [], []
    for i in range(0, len(data), max(len(data) // clips, 1)):
        g, light = data.grids(i), np.eye(len(LIGHT))[LIGHT.index(data.lines[i]["light"])]
        for f in frames:
            cls, color, cover = (g[k][f].ravel() for k in ("cls", "color", "cover"))
            at = (color > 0) & (cover >= 25)
            part = cover[at, None] / 100
            xs.append(np.concatenate([np.eye(len(KINDS))[cls[at]] * part, np.eye(len(COLORS))[color[at]] * part, np.broadcast_to(light, (at.sum(), len(LIGHT)))], 1))
            ys.append(tokens[i, f][at].astype(np.float32))
    x, y = np.concatenate(xs), np.concatenate(ys)
    return np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)[len(KINDS) :][: len(COLORS)].astype(np.float32)


def choose(actors, r: random.Random) -> dict[int, str]:
    """New colours for one or two of the actors, by id; mostly for none."""
    painted = [a for a in actors if a.kind in KINDS_PAINTED]
    if not painted or r.random() > SHARE:
        return {}
    return {a.id: r.choices(PAINT, [RARE if (c, a.kind) in HELD_OUT else 1 for c in PAINT])[0] for a in r.sample(painted, min(r.randint(1, 2), len(painted)))}


def repaint(x: np.ndarray, grids: dict, actors, coats: dict[int, str], effect: np.ndarray) -> np.ndarray:
    """x [F,P,D]; grids [F,...], as x is mirrored or not."""
    x = x.astype(np.float32)
    for a in actors:
        if a.id in coats:
            at = (grids["actor"].reshape(x.shape[:2]) == a.id + 1) * grids["cover"].reshape(x.shape[:2]) / 100
            x += at[..., None].astype(np.float32) * (effect[COLOR[coats[a.id]]] - effect[COLOR[a.color]])
    return x
