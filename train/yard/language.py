"""Words for the yard: descriptions, change narration, questions and answers, noun phrases; all from ground truth.

What may be said, and when (the scorer holds the same rules):
- an actor is spoken of when at least half of it is seen (scene.VISIBLE), from left to right;
- its action is that of the last two seconds: an event (enter, stop, turn back, ...) that is younger than RECENT, else its state;
- a description ends with how two neighbours stand to one another, where somebody moves and the next one ahead is not beside them yet;
- `changes` tells only events of the last second (CHANGE), and is NOTHING when there are none.
"""
from __future__ import annotations

import random

from .labels import HELD_OUT
from .scene import CRATES, PAINT, VISIBLE, Scene

NOTHING, CANNOT_TELL = "<|nothing|>", "<|cannot_tell|>"
RECENT, CHANGE = 2.0, 1.0
NUMBER = ["none", "one", "two", "three", "four", "five", "six"]
PLURAL = {"person": "people", "box": "boxes", "crate of apples": "crates of apples", "crate of bananas": "crates of bananas",
          "crate of oranges": "crates of oranges"}
MOVES = {"person": ["walks", "is walking"], "car": ["drives", "is driving"], "van": ["drives", "is driving"], "bicycle": ["rides", "is riding"],
         "dog": ["runs", "is running"], "ball": ["rolls", "is rolling"]}
STANDS = {"person": "stands", "dog": "stands"}


def article(noun: str) -> str:
    return ("an " if noun[0] in "aeo" else "a ") + noun


def noun(a, r: random.Random | None = None) -> str:
    """"red van", "person in a red coat", "box", "crate of apples": without article."""
    if a["kind"] == "person":
        return f"person in {article(a['color'])} coat"
    if a["kind"] in CRATES or a["kind"] == "box":
        return a["kind"]
    return f"{a['color']} {a['kind']}"


def the(a, first: bool) -> str:
    return article(noun(a)) if first else "the " + noun(a)


def cap(s: str) -> str:
    return s[0].upper() + s[1:]


class Teller:
    """Speaks of one scene. `truth_at(t)` gives the actors of scene.truth."""

    def __init__(self, scene: Scene, truth_at, seed: int, plain: float = 0.75):
        self.s, self.truth_at, self.r, self.plain = scene, truth_at, random.Random(seed), plain
        self.events = scene.events()

    def seen(self, t: float) -> list[dict]:
        return [a for a in self.truth_at(t) if a["visible"] >= VISIBLE and not a["held"]]

    def last_event(self, a: dict, t: float, within: float):
        ev = [e for e in self.events if e["actor"] == a["id"] and t - within < e["t"] <= t]
        return ev[-1] if ev else None

    def direction(self, a: dict, t: float) -> str:
        return a["direction"] or ("right" if self.s.actors[a["id"]].facing(t) > 0 else "left")

    def pick(self, options: list[str]) -> str:
        """Mostly the first: free phrasing costs a small decoder much and tells nobody more."""
        return options[0] if self.r.random() < self.plain else self.r.choice(options)

    def event_clause(self, a: dict, e: dict, t: float) -> str:
        k, d = e["kind"], self.direction(a, min(t, e["t"] + 0.05))
        mv = {"person": "walks", "dog": "runs", "ball": "rolls", "bicycle": "rides"}.get(a["kind"], "drives")
        other = "left" if d == "right" else "right"
        return {
            "enter": lambda: self.pick([f"comes in from the {other}", f"enters from the {other}"]),
            "leave": lambda: self.pick([f"leaves to the {d}", f"has left to the {d}"]),
            "stop": lambda: self.pick(["has stopped", "stops"]),
            "start": lambda: self.pick([f"starts to move to the {d}", f"moves off to the {d}"]),
            "turn_back": lambda: self.pick([f"turns back and {mv} to the {d}", f"has turned back to the {d}"]),
            "drop": lambda: self.pick(["drops a box", "puts a box down"]),
            "pick_up": lambda: self.pick(["picks up a box", "takes up a box"]),
            "fall": lambda: self.pick(["falls", "has fallen"]),
            "get_up": lambda: self.pick(["gets up", "stands up again"]),
        }[k]()

    def state_clause(self, a: dict, t: float) -> str:
        if a["state"] == "moving" and a["direction"]:
            c = f"{self.pick(MOVES[a['kind']])} to the {a['direction']}"
            return c + (self.pick([" with a box", " and carries a box"]) if a["carrying"] else "")
        if a["state"] == "fallen":
            return self.pick(["lies on the ground", "is lying on the ground"])
        where = {"left": "on the left", "right": "on the right", "middle": "in the middle"}[a["side"]]
        return f"{STANDS.get(a['kind'], self.pick(['is', 'stands']))} {where}"

    def order(self, t: float) -> list[dict]:
        """Whom `describe` tells of, a sentence each: from left to right."""
        return sorted(self.seen(t), key=lambda a: a["box"][0] + a["box"][2])

    def relation(self, t: float) -> tuple[dict, str, dict] | None:
        """Who moves towards the next one ahead, or the same way: (actor, "towards" | "along", other), the first from the left. It follows from
        whom a description names in which order, and which way they go: a small decoder does not know how far apart two are. None where nobody
        does, or where what they are called would not say which two are meant."""
        order = self.order(t)
        for i, a in enumerate(order):
            if a["state"] != "moving" or not a["direction"]:
                continue
            right = a["direction"] == "right"
            k = i + 1 if right else i - 1
            if not 0 <= k < len(order):
                continue
            b = order[k]
            gap = b["box"][0] - a["box"][2] if right else a["box"][0] - b["box"][2]
            if gap < 0 or sum(noun(x) in (noun(a), noun(b)) for x in order) != 2:
                continue
            return a, "along" if b["state"] == "moving" and b["direction"] == a["direction"] else "towards", b
        return None

    def relation_clause(self, a: dict, how: str) -> str:
        moves = MOVES[a["kind"]]
        return self.pick([f"{v} the same way as" for v in moves] if how == "along" else [*(f"{v} towards" for v in moves), "approaches"])

    def describe(self, t: float) -> str:
        out = []
        for a in self.order(t):
            e = self.last_event(a, t, RECENT)
            if e and e["kind"] in ("leave",):
                e = None
            out.append(f"{cap(the(a, True))} {self.event_clause(a, e, t) if e else self.state_clause(a, t)}.")
        if r := self.relation(t):
            a, how, b = r
            out.append(f"{cap(the(a, False))} {self.relation_clause(a, how)} {the(b, False)}.")
        return " ".join(out) or self.pick(["The yard is empty.", "Nobody is there.", "There is nothing in the yard."])

    def changes(self, t: float) -> str:
        out, told = [], set()
        for e in self.events:
            if not t - CHANGE < e["t"] <= t:
                continue
            k = e["kind"]
            if e["actor"] < 0:
                out.append(cap({"gate_open": self.pick(["the gate opens.", "the gate is opening."]), "gate_close": "the gate closes.",
                                "lights_on": "the lights go on.", "lights_off": "the lights go off."}[k]))
                continue
            a = self.s.actors[e["actor"]]
            if k != "leave" and not any(b["id"] == a.id for b in self.seen(t)):
                continue
            d = {"id": a.id, "kind": a.kind, "color": a.color, "direction": ""}
            # A little after the event: its time is rounded, and just before a turn the actor still goes the other way.
            # "A car" a second time would be another car.
            out.append(f"{cap(the(d, a.id not in told))} {self.event_clause(d, e, e['t'] + 0.05)}.")
            told.add(a.id)
        return " ".join(out) or NOTHING

    def qa(self, t: float) -> list[dict]:
        r, seen = self.r, self.seen(t)
        half = [a for a in self.truth_at(t) if a not in seen]   # neither clearly there nor clearly absent
        out = []

        def add(kind, q, a):
            out.append({"q": r.choice(q) if isinstance(q, list) else q, "a": a, "kind": kind})

        def yn(kind, q, v, more=""):
            add(kind, q, ("yes" if v else "no") + (more if v else ""))

        # contains: one that is there, one like it in another colour, one that is not.
        fruit = {"crate of apples": "apple", "crate of bananas": "banana", "crate of oranges": "orange"}
        for k, f in fruit.items():
            if not any(a["kind"] == k for a in half) and r.random() < (0.9 if any(a["kind"] == k for a in seen) else 0.25):
                yn("contains", [f"does it contain {article(f)}?", f"is there {article(f)}?", f"do you see {f}s?"], any(a["kind"] == k for a in seen))
        colored = [a for a in seen if a["kind"] in ("person", "car", "van", "bicycle", "ball")]
        for a in r.sample(colored, min(2, len(colored))):
            yn("contains", [f"is there {article(noun(a))}?", f"do you see {article(noun(a))}?"], True)
            # Never of a pair that is held out: a "no" each time would teach that there is no such thing.
            there = {x["color"] for x in self.truth_at(t) if x["kind"] == a["kind"]}
            b = dict(a, color=r.choice([c for c in PAINT if c not in there and (c, a["kind"]) not in HELD_OUT]))
            yn("contains", [f"is there {article(noun(b))}?", f"do you see {article(noun(b))}?"], False)
            same = [x for x in self.truth_at(t) if x["kind"] == a["kind"]]
            if len(same) == 1:
                what = "the coat" if a["kind"] == "person" else f"the {a['kind']}"
                add("color", f"what colour is {what}?", a["color"])
                whom = "the person" if a["kind"] == "person" else f"the {a['kind']}"
                add("direction", [f"which way is {whom} going?", f"where is {whom} going?"],
                    f"to the {a['direction']}" if a["direction"] else "it is not moving" if a["kind"] != "person" else "nowhere")
                yn("stopped", [f"has {whom} stopped?"], bool((e := self.last_event(a, t, RECENT)) and e["kind"] == "stop"))
                yn("moving", [f"is {whom} moving?"], bool(a["direction"]))
        kind = r.choice(["person", "car", "van", "dog", "bicycle", "ball", "box"])
        if not any(a["kind"] == kind and a not in seen for a in self.truth_at(t)):
            yn("contains", [f"is there {article(kind)}?", f"does it contain {article(kind)}?"], any(a["kind"] == kind for a in seen))
        absent = [k for k in ("car", "van", "bicycle") if not any(a["kind"] == k for a in self.truth_at(t))]
        if absent and r.random() < 0.5:
            add("color", f"what colour is the {r.choice(absent)}?", CANNOT_TELL)
        present = sorted({a["kind"] for a in seen})
        for k in sorted({r.choice([*PLURAL, "car", "van", "dog", "bicycle", "ball"]), r.choice(present or ["person"])}):
            if not any(a["kind"] == k for a in half):
                add("count", [f"how many {PLURAL.get(k, k + 's')} are there?", f"how many {PLURAL.get(k, k + 's')} do you see?"],
                    NUMBER[sum(a["kind"] == k for a in seen)])
        if self.s.gate:
            yn("gate", ["is the gate open?"], self.s.gate_is_open(t))
        elif r.random() < 0.5:
            add("gate", "is the gate open?", CANNOT_TELL)
        recent = [e for e in self.events if t - 4.0 < e["t"] <= t]
        if r.random() < 0.3 or any(e["kind"] == "drop" for e in recent):
            yn("drop", ["did somebody leave a box?", "did somebody drop a box?"], any(e["kind"] == "drop" for e in recent))
        if r.random() < 0.3 or any(e["kind"] == "pick_up" for e in recent):
            yn("pick_up", ["did somebody pick up a box?"], any(e["kind"] == "pick_up" for e in recent))
        if r.random() < 0.25 or any(a["state"] == "fallen" for a in seen):
            yn("fallen", ["is anybody lying on the ground?", "has somebody fallen?"], any(a["state"] == "fallen" for a in seen))
        w = r.choice(["rain", "snow", "fog", "night"])
        q = {"rain": "is it raining?", "snow": "is it snowing?", "fog": "is it foggy?", "night": "is it night?"}[w]
        if not (w == "night" and self.s.light == "dusk"):
            yn("scene", q, self.s.light == "night" if w == "night" else self.s.weather == w)
        return out

    def phrases(self, t: float) -> list[str]:
        """Noun phrases that are true of the picture at t, each with the actor it is about (-1: the scene)."""
        return [(article(noun(a)), a["id"]) for a in self.seen(t)]
