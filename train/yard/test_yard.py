"""Run from train/: python -m unittest yard.test_yard"""
import unittest

import numpy as np

from vlm import reader, targets
from yard import heldout
from yard.labels import HELD_OUT, MODEL_FPS, WIDTH
from yard.language import CHANGE, NOTHING, RECENT, Teller, noun
from yard.render import SEED0, scene_of
from yard.scene import VISIBLE, Renderer, make_scene, truth

SEEDS = range(SEED0["train"] + 90_000, SEED0["train"] + 90_060)


def teller(s, seed=1, plain=1.0):
    return Teller(s, lambda t: truth(s, t)[0], seed, plain)


class YardTest(unittest.TestCase):
    def test_a_scene_is_its_seed(self):
        a, b = make_scene(5), make_scene(5)
        self.assertEqual(a, b)
        np.testing.assert_array_equal(Renderer(a).frame(1.0), Renderer(b).frame(1.0))

    def test_held_out_pairs_are_never_trained_on(self):
        for seed in range(SEED0["train"], SEED0["train"] + 1500):
            s, _ = scene_of(seed, "train", 24)
            self.assertFalse({(a.color, a.kind) for a in s.actors} & HELD_OUT)
        unseen = [{(a.color, a.kind) for a in make_scene(s, unseen=True).actors} & HELD_OUT for s in range(40)]
        self.assertGreater(sum(map(bool, unseen)), 30)

    def test_who_stands_has_a_side(self):
        for seed in SEEDS:
            s = make_scene(seed)
            for a in s.actors:
                for g in a.segs:
                    if g.state == "stopped" and a.holder < 0 and g.t1 - g.t0 > 1 and g.t1 > 0 and 0 < g.x1 < WIDTH:
                        self.assertGreater(min(abs(g.x1 - WIDTH / 3), abs(g.x1 - 2 * WIDTH / 3)), 15)

    def test_directions_are_those_of_the_pictures(self):
        """Whoever is said to move to the right is farther right a moment later."""
        n = 0
        for seed in SEEDS:
            s = make_scene(seed)
            now, later = truth(s, 3.0)[0], {a["id"]: a for a in truth(s, 3.04)[0]}
            for a in now:
                if a["direction"] and a["id"] in later and later[a["id"]]["direction"] == a["direction"]:
                    d = later[a["id"]]["box"][0] - a["box"][0]
                    self.assertEqual(d > 0, a["direction"] == "right")
                    n += 1
        self.assertGreater(n, 15)


class LanguageTest(unittest.TestCase):
    def test_a_description_tells_everybody_once_from_left_to_right(self):
        for seed in SEEDS:
            s = make_scene(seed)
            tell = teller(s)
            for t in (2.0, 4.5):
                seen = [a for a in truth(s, t)[0] if a["visible"] >= VISIBLE and not a["held"]]
                said = tell.describe(t)
                self.assertEqual(said.count("."), max(len(seen), 1) + bool(tell.relation(t)), said)
                xs = [a["box"][0] + a["box"][2] for a in sorted(seen, key=lambda a: said.find(a["color"] if a["kind"] != "box" else "box"))]
                if len({a["color"] for a in seen}) == len(seen) and not any(a["kind"] in ("box",) or "crate" in a["kind"] for a in seen):
                    self.assertEqual(xs, sorted(xs), said)

    def test_a_relation_is_what_the_boxes_and_ways_say(self):
        found = set()
        for seed in SEEDS:
            s = make_scene(seed)
            tell = teller(s)
            for t in np.arange(1.0, 6.0, 0.5):
                if not (r := tell.relation(t)):
                    continue
                a, how, b = r
                found.add(how)
                sign = 1 if a["direction"] == "right" else -1
                ahead = [x for x in tell.seen(t) if x["id"] != a["id"] and sign * sum(x["box"][::2]) > sign * sum(a["box"][::2])]
                self.assertEqual(b["id"], min(ahead, key=lambda x: sign * sum(x["box"][::2]))["id"], "the next one ahead")
                self.assertFalse(a["box"][0] < b["box"][2] and b["box"][0] < a["box"][2], "they are side by side")
                self.assertEqual(b["direction"] == a["direction"], how == "along")
                self.assertEqual(sum(noun(x) in (noun(a), noun(b)) for x in tell.seen(t)), 2, "which two?")
                self.assertTrue(tell.describe(t).endswith(f" the {noun(b)}."))
        self.assertEqual(found, {"towards", "along"})

    def test_changes_are_those_of_the_last_second(self):
        quiet = loud = 0
        for seed in SEEDS:
            s = make_scene(seed)
            tell = teller(s)
            for t in np.arange(1.0, 6.0, 0.5):
                recent = [e for e in s.events() if t - CHANGE < e["t"] <= t]
                said = tell.changes(t)
                if not recent:
                    self.assertEqual(said, NOTHING)
                    quiet += 1
                elif said != NOTHING:
                    self.assertLessEqual(said.count("."), len(recent))
                    loud += 1
        self.assertGreater(min(quiet, loud), 30)

    def test_who_is_told_of_twice_is_one(self):
        """Two events of one actor within a second: "a van" a second time would claim a second van."""
        for seed, at, said in ((40, 2.71, "A white van comes in from the left. The white van has stopped."),
                               (26, 2.35, "A person in a blue coat comes in from the right. A person in a purple coat comes in from the right. The person in a blue coat drops a box.")):
            self.assertEqual(teller(make_scene(seed)).changes(at), said)
            self.assertEqual(sum(reader.facts(said).values()), said.count("."))

    def test_nothing_happens_in_an_idle_scene(self):
        for seed in SEEDS:
            self.assertEqual(make_scene(seed, idle=True).events(), [])

    def test_phrasings_mean_the_same(self):
        """However freely it is phrased, a description holds the same facts; and a wrong one does not."""
        for seed in SEEDS:
            s = make_scene(seed)
            a, b = teller(s).describe(4.0), teller(s, seed=2, plain=0.0).describe(4.0)
            self.assertEqual(reader.facts(a), reader.facts(b))
        self.assertNotEqual(reader.facts("A red van is on the left."), reader.facts("A red van is on the right."))
        self.assertEqual(reader.score([("A red van is on the left.", "A blue van is on the left.")])["false"], 1.0)

    def test_the_mirror_says_the_mirrored(self):
        swap = {"left": "right", "right": "left"}
        for seed in SEEDS:
            s = make_scene(seed)
            m = targets.mirror_scene(s)
            tell, mirrored = teller(s), Teller(m, lambda t: targets.mirror_truth(truth(s, t)[0]), 1, 1.0)
            tell.relation = mirrored.relation = lambda t: None  # of two it is the one on the left that counts
            want = reader.facts(" ".join(swap.get(w, w) for w in tell.describe(3.5).replace(".", " .").split()).replace(" .", "."))
            self.assertEqual(reader.facts(mirrored.describe(3.5)), want)

    def test_yes_and_no_are_balanced_enough(self):
        a = [q["a"] for seed in SEEDS for q in teller(make_scene(seed)).qa(4.0)]
        yes, no = a.count("yes"), a.count("no")
        self.assertGreater(yes, 0.3 * (yes + no))
        self.assertLess(yes, 0.7 * (yes + no))


class HeldoutTest(unittest.TestCase):
    def test_truth_files_ask_only_of_clear_moments(self):
        s = make_scene(SEED0["test"] + 1)
        f = heldout.facts(s, "x.mp4", "test", 6.0, 1)
        self.assertEqual(len(f["frames"]), 6 * MODEL_FPS)
        for t in f["describe_at"]:
            for e in f["events"]:
                self.assertFalse(0 <= t - e["t"] < heldout.SETTLE, (t, e))
                self.assertFalse(abs(t - e["t"] - RECENT) < 0.2, (t, e))
        self.assertTrue(all(q["t"] in f["describe_at"] for q in f["ask"]))

    def test_the_demo_was_never_trained_on_and_is_lively(self):
        kinds = {e["kind"] for e in heldout.demo_scene(8_000_021, 60.0).events()}
        self.assertLessEqual({"enter", "leave", "stop", "start", "turn_back", "drop", "pick_up", "fall", "get_up", "gate_open", "gate_close"}, kinds)


if __name__ == "__main__":
    unittest.main()
