"""Run from train/: python -m unittest vlm.test_repaint"""
import random
import unittest
from types import SimpleNamespace

import numpy as np

from vlm import repaint
from yard.labels import COLOR, COLORS, GRID_H, GRID_W, KIND, KINDS, LIGHT

D = 24


class Yard:
    """Clips in whose tokens kind, colour and light add up, as they nearly do in the encoder's."""

    def __init__(self, clips: int):
        r = np.random.default_rng(0)
        self.frames, self.lines, self.g, self.actors, self.tok = 24, [], [], [], []
        self.of = {"kind": r.standard_normal((len(KINDS), D)), "color": r.standard_normal((len(COLORS), D)), "light": r.standard_normal((3, D))}
        for _ in range(clips):
            light = int(r.integers(3))
            actors = [SimpleNamespace(id=i, kind=str(r.choice(repaint.KINDS_PAINTED)), color=str(r.choice(COLORS[1:]))) for i in range(3)]
            g = {k: np.zeros((self.frames, GRID_H, GRID_W), np.int8) for k in ("actor", "cls", "color", "cover")}
            for a in actors:
                at = np.s_[:, 3 * a.id : 3 * a.id + 2, int(r.integers(12)) : int(r.integers(12, GRID_W))]
                g["actor"][at], g["cls"][at], g["color"][at] = a.id + 1, KIND[a.kind], COLOR[a.color]
                g["cover"][at] = r.integers(30, 100, g["cover"][at].shape)
            self.lines.append({"light": LIGHT[light]})
            self.g.append(g), self.actors.append(actors)
            self.tok.append(self.tokens(g, light))

    def tokens(self, g, light):
        flat = {k: v.reshape(self.frames, -1) for k, v in g.items()}
        part = flat["cover"][..., None] / 100
        return ((self.of["kind"][flat["cls"]] + self.of["color"][flat["color"]]) * part + self.of["light"][light]).astype(np.float32)

    def __len__(self):
        return len(self.g)

    def grids(self, i):
        return self.g[i]


class RepaintTest(unittest.TestCase):
    def test_another_coat_is_the_token_of_that_coat(self):
        y = Yard(60)
        effect = repaint.effects(y, np.stack(y.tok), clips=60)
        for i in range(5):
            g, actors, coats = y.g[i], y.actors[i], {0: "orange", 2: "white"}
            want = {k: v.copy() for k, v in g.items()}
            for a in actors:
                want["color"][g["actor"] == a.id + 1] = COLOR[coats.get(a.id, a.color)]
            got = repaint.repaint(y.tok[i], g, actors, coats, effect)
            np.testing.assert_allclose(got, y.tokens(want, LIGHT.index(y.lines[i]["light"])), atol=0.05)
            self.assertGreater(np.abs(got - y.tok[i]).max(), 0.5)

    def test_only_what_has_many_colours_is_chosen(self):
        r = random.Random(0)
        actors = [SimpleNamespace(id=i, kind=k, color="red") for i, k in enumerate(("box", "dog", "person", "crate of apples", "ball"))]
        picked = [repaint.choose(actors, r) for _ in range(2000)]
        self.assertEqual({i for p in picked for i in p}, {2, 4})
        self.assertAlmostEqual(np.mean([bool(p) for p in picked]), repaint.SHARE, delta=0.05)
        self.assertEqual(repaint.choose(actors[:2], r), {})


if __name__ == "__main__":
    unittest.main()
