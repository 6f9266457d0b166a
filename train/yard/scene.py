"""The simulated yard: a scene drawn from a seed, its pictures, and what is true in each of them.

A scene is a pure function of its seed. Actors walk or drive along lanes of a ground plane; nearer lanes are lower in the
picture and larger. Everything is placed in camera pixels (640x360), origin top left.
"""
from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np
import skia

from .labels import COLORS, HEIGHT, HELD_OUT, WIDTH

RGB = {
    "red": (205, 35, 35), "blue": (40, 75, 200), "green": (35, 150, 60), "yellow": (235, 205, 40),
    "white": (238, 238, 238), "black": (28, 28, 30), "orange": (240, 130, 25), "purple": (135, 50, 160),
    "brown": (130, 85, 50),
}
PAINT = ["red", "blue", "green", "yellow", "white", "black", "orange", "purple"]
DOG_COLORS = ["black", "white", "brown"]
VEHICLES = ("car", "van", "bicycle")
CRATES = ("crate of apples", "crate of bananas", "crate of oranges")


@dataclass
class Segment:
    """One stretch of an actor's motion: x goes from x0 to x1 between t0 and t1."""
    t0: float
    t1: float
    x0: float
    x1: float
    state: str  # moving, stopped, fallen


@dataclass
class Actor:
    id: int
    kind: str
    color: str
    lane: float            # y of the feet
    h: float               # height in pixels
    w: float
    segs: list[Segment] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    carries: int = -1      # id of the box it carries, drops or picks up
    holder: int = -1       # for a box: id of its person
    held: tuple[float, float] = (0.0, 0.0)  # for a box: when it is in the holder's arms
    phase: float = 0.0

    def seg(self, t: float) -> Segment:
        for s in self.segs:
            if t < s.t1:
                return s
        return self.segs[-1]

    def x(self, t: float) -> float:
        s = self.seg(t)
        if s.t1 <= s.t0:
            return s.x1
        f = min(max((t - s.t0) / (s.t1 - s.t0), 0.0), 1.0)
        return s.x0 + (s.x1 - s.x0) * f

    def vx(self, t: float) -> float:
        s = self.seg(t)
        return (s.x1 - s.x0) / (s.t1 - s.t0) if s.state == "moving" and s.t0 <= t <= s.t1 else 0.0

    def state(self, t: float) -> str:
        return self.seg(t).state

    def facing(self, t: float) -> int:
        """-1 left, 1 right: the way of the last motion at or before t, else of the next one."""
        d = 0
        for s in self.segs:
            if s.x1 != s.x0 and (s.t0 <= t or d == 0):
                d = 1 if s.x1 > s.x0 else -1
        return d or 1


@dataclass
class Scene:
    seed: int
    duration: float
    place: str
    light: str             # day, dusk, night
    weather: str           # clear, rain, snow, fog
    actors: list[Actor]
    gate: tuple[float, float] | None    # x, width
    gate_open: list[tuple[float, bool]]
    lamps: list[tuple[float, bool]]
    shake: float
    noise: float
    horizon: float

    def gate_is_open(self, t: float) -> bool:
        return [o for (t0, o) in self.gate_open if t0 <= t][-1] if self.gate else False

    def lamps_on(self, t: float) -> bool:
        return [o for (t0, o) in self.lamps if t0 <= t][-1]

    def events(self) -> list[dict]:
        out = []
        for a in self.actors:
            for t, k in a.events:
                if 0 <= t < self.duration:
                    out.append({"t": round(t, 3), "kind": k, "actor": a.id})
        for seq, names in ((self.gate_open if self.gate else [], ("gate_close", "gate_open")), (self.lamps, ("lights_off", "lights_on"))):
            for t, o in seq[1:]:
                if 0 <= t < self.duration:
                    out.append({"t": round(t, 3), "kind": names[int(o)], "actor": -1})
        return sorted(out, key=lambda e: e["t"])


def _color(r: random.Random, kind: str, unseen: bool) -> str:
    if kind == "dog":
        return r.choice(DOG_COLORS)
    if kind == "box":
        return "brown"
    if kind in CRATES:
        return {"crate of apples": "red", "crate of bananas": "yellow", "crate of oranges": "orange"}[kind]
    held = [c for (c, k) in sorted(HELD_OUT) if k == kind]
    if unseen and held:
        return r.choice(held)
    return r.choice([c for c in PAINT if c not in held])


# Height in pixels on the nearest lane, and width as a share of the height.
SIZE = {"person": (150, 0.42), "car": (86, 2.15), "van": (128, 1.75), "bicycle": (112, 1.25), "dog": (66, 1.5),
        "ball": (46, 1.0), "box": (58, 1.2), "crate of apples": (62, 1.5), "crate of bananas": (62, 1.5), "crate of oranges": (62, 1.5)}
SPEED = {"person": (70, 120), "car": (130, 230), "van": (110, 200), "bicycle": (110, 190), "dog": (90, 160), "ball": (90, 150)}


def make_scene(seed: int, duration: float = 6.0, unseen: bool = False, idle: bool = False, busy: bool = False) -> Scene:
    """Draws the scene of a seed. `unseen` uses held-out colour x kind pairs; in an `idle` one nothing ever happens."""
    r = random.Random(seed * 7919 + 17)
    horizon = r.uniform(105, 150)
    light = r.choices(["day", "dusk", "night"], [0.6, 0.2, 0.2])[0]
    weather = r.choices(["clear", "rain", "snow", "fog"], [0.64, 0.14, 0.1, 0.12])[0]
    n = r.choices([0, 1, 2, 3, 4], [0.08, 0.3, 0.34, 0.18, 0.1])[0]
    if busy:
        n = r.choice([3, 4])
    lanes = [L + r.uniform(-5, 5) for L in (215, 262, 308, 346)]
    r.shuffle(lanes)
    actors: list[Actor] = []
    moving_kinds = ["person", "person", "person", "car", "van", "bicycle", "dog", "ball"]
    still_kinds = ["car", "van", "bicycle", "box", "crate of apples", "crate of bananas", "crate of oranges", "ball", "person", "dog"]
    for i in range(n):
        lane = lanes[i]
        still = idle or r.random() < 0.36
        kind = r.choice(still_kinds if still else moving_kinds)
        if unseen and i == 0:
            kind = r.choice(["van", "car", "bicycle", "person"])
        actors.append(_actor(r, len(actors), kind, _color(r, kind, unseen and i == 0), lane, duration, still))
    for a in list(actors):
        if a.kind == "person" and not idle and a.events and r.random() < 0.6 and len(actors) < 6:
            _give_box(r, a, actors, duration)
    gate, gate_open = None, [(-1.0, False)]
    if r.random() < 0.6:
        gate = (r.uniform(60, 480), r.uniform(90, 130))
        gate_open = [(-1.0, r.random() < 0.5)]
        if not idle and r.random() < 0.3:
            gate_open.append((r.uniform(0.8, duration - 0.5), not gate_open[0][1]))
    lamps = [(-1.0, light != "day" and r.random() < 0.6)]
    if not idle and light != "day" and r.random() < 0.25:
        lamps.append((r.uniform(0.8, duration - 0.5), not lamps[0][1]))
    return Scene(seed, duration, r.choice(["yard", "street", "loading dock"]), light, weather, actors, gate, gate_open, lamps,
                 shake=r.choice([0, 0, 0, 0.6, 1.3]), noise=r.uniform(5, 11) if light == "night" else r.choice([0, 1.5, 4]), horizon=horizon)


def _aside(x: float, band: float = 16.0) -> float:
    """Keeps who stands still off the lines between left, middle and right, where the words for its place would be a toss-up."""
    for line in (WIDTH / 3, 2 * WIDTH / 3):
        if abs(x - line) < band:
            return line + math.copysign(band, x - line)
    return x


def _actor(r: random.Random, id: int, kind: str, color: str, lane: float, duration: float, still: bool) -> Actor:
    h0, ar = SIZE[kind]
    scale = 0.62 + 0.38 * (lane - 210) / 140
    h = h0 * scale * r.uniform(0.92, 1.06)
    a = Actor(id, kind, color, lane, h, h * ar, phase=r.random())
    lo, hi = a.w / 2 + 12, WIDTH - a.w / 2 - 12
    if still:
        x = _aside(r.uniform(lo, hi))
        a.segs = [Segment(-9, 99, x, x, "stopped")]
        if r.random() < 0.5:  # so that a standing actor does not tell by its side which way it looks
            a.segs.insert(0, Segment(-10, -9, x - 1, x, "moving"))
        else:
            a.segs.insert(0, Segment(-10, -9, x + 1, x, "moving"))
        return a
    speed = r.uniform(*SPEED[kind]) * (0.75 + 0.25 * scale)
    d = r.choice([-1, 1])
    out_l, out_r = -a.w / 2 - 4, WIDTH + a.w / 2 + 4
    plan = r.choices(["through", "stop", "stop_go", "turn", "start", "fall"],
                     [0.3, 0.2, 0.14, 0.2, 0.16, 0.14 if kind == "person" else 0])[0]
    if kind == "ball":
        plan = r.choice(["through", "stop"])
    t = r.uniform(-1.6, duration * 0.45)
    x = out_l if d > 0 else out_r

    def go(to: float) -> None:
        nonlocal t, x
        dt = abs(to - x) / speed
        a.segs.append(Segment(t, t + dt, x, to, "moving"))
        t, x = t + dt, to

    def stay(dt: float, state: str = "stopped") -> None:
        nonlocal t
        a.segs.append(Segment(t, t + dt, x, x, state))
        t += dt

    if plan == "start":
        x = _aside(r.uniform(lo, hi))
        t = r.uniform(0.8, duration * 0.6)
        a.segs.append(Segment(-10, -9, x - d, x, "moving"))
        a.segs.append(Segment(-9, t, x, x, "stopped"))
        a.events.append((t, "start"))
        go(out_r if d > 0 else out_l)
        a.events.append((t, "leave"))
    else:
        inside = 30 + a.w / 2
        a.events.append((t + inside / speed, "enter"))
        a.segs.append(Segment(t - 20, t, x, x, "stopped"))
        far = out_r if d > 0 else out_l
        mid = _aside(min(max(x + d * r.uniform(150, 430), lo), hi))
        if plan == "through":
            go(far)
            a.events.append((t, "leave"))
        elif plan in ("stop", "stop_go"):
            go(mid)
            a.events.append((t, "stop"))
            if plan == "stop":
                stay(99)
            else:
                stay(r.uniform(1.2, 2.4))
                a.events.append((t, "start"))
                go(far)
                a.events.append((t, "leave"))
        elif plan == "turn":
            go(mid)
            a.events.append((t, "turn_back"))
            go(out_l if d > 0 else out_r)
            a.events.append((t, "leave"))
        else:
            go(mid)
            a.events.append((t, "fall"))
            stay(r.uniform(1.6, 3.0), "fallen")
            if r.random() < 0.5:
                a.events.append((t, "get_up"))
                stay(1.0)
                a.events.append((t, "start"))
                go(far)
                a.events.append((t, "leave"))
            else:
                a.segs[-1].t1 = 99
    if a.segs[-1].t1 < 90:
        a.segs.append(Segment(t, 99, x, x, "stopped"))
    return a


def _give_box(r: random.Random, p: Actor, actors: list[Actor], duration: float) -> None:
    """Lets a person drop a box on the way, or pick one up that stands there."""
    inside = [(s.t0, s.t1) for s in p.segs if s.state == "moving" and s.t1 > 0 and s.t1 - s.t0 > 0.6]
    if not inside or any(k == "fall" for _, k in p.events):
        return
    t0, t1 = inside[0]
    lo, hi = max(t0 + 0.3 * (t1 - t0), 0.9), min(t0 + 0.8 * (t1 - t0), duration - 0.6)
    if hi <= lo:
        return
    t = r.uniform(lo, hi)
    x = p.x(t)
    if not 50 < x < WIDTH - 50:
        return
    h = p.h * 0.33
    b = Actor(len(actors), "box", "brown", p.lane, h, h * 1.2, holder=p.id)
    b.segs = [Segment(-20, 99, x, x, "stopped")]
    if r.random() < 0.55:
        b.held = (-20, t)
        p.events.append((t, "drop"))
    else:
        b.held = (t, 99)
        p.events.append((t, "pick_up"))
    p.carries = b.id
    p.events.sort()
    actors.append(b)


# ---------------------------------------------------------------------------------------------------- pictures

def _c(rgb, k: float = 1.0, a: int = 255) -> int:
    r, g, b = (max(0, min(255, int(v * k))) for v in rgb)
    return skia.Color(r, g, b, a)


def _p(rgb, k: float = 1.0, a: int = 255, stroke: float = 0) -> skia.Paint:
    p = skia.Paint(AntiAlias=True, Color=_c(rgb, k, a))
    if stroke:
        p.setStyle(skia.Paint.kStroke_Style)
        p.setStrokeWidth(stroke)
        p.setStrokeCap(skia.Paint.kRound_Cap)
    return p


def _rect(x0, y0, x1, y1):
    return skia.Rect.MakeLTRB(x0, y0, x1, y1)


def _person(c, a: Actor, t: float, carrying: bool) -> None:
    h, x, y = a.h, a.x(t), a.lane
    col, f = RGB[a.color], a.facing(t)
    walk = a.state(t) == "moving"
    sw = math.sin((t * 2.1 + a.phase) * 2 * math.pi) * 0.17 * h if walk else 0.05 * h
    if a.state(t) == "fallen":
        c.save()
        c.translate(x, y)
        c.rotate(90 * f)
        c.translate(-x, -y + 0.12 * h)
        c.translate(0, 0.36 * h * 0)
    legs = _p((45, 45, 60), stroke=0.1 * h)
    c.drawLine(x, y - 0.45 * h, x + sw, y - 0.03 * h, legs)
    c.drawLine(x, y - 0.45 * h, x - sw, y - 0.03 * h, legs)
    c.drawRoundRect(_rect(x - 0.16 * h, y - 0.84 * h, x + 0.16 * h, y - 0.38 * h), 0.08 * h, 0.08 * h, _p(col))
    c.drawRoundRect(_rect(x - 0.16 * h, y - 0.5 * h, x + 0.16 * h, y - 0.38 * h), 0.04 * h, 0.04 * h, _p(col, 0.75))
    arm = _p(col, 0.82, stroke=0.085 * h)
    if carrying:
        c.drawLine(x, y - 0.74 * h, x + f * 0.22 * h, y - 0.55 * h, arm)
    else:
        c.drawLine(x - 0.12 * h, y - 0.77 * h, x - 0.14 * h - sw * 0.6, y - 0.48 * h, arm)
        c.drawLine(x + 0.12 * h, y - 0.77 * h, x + 0.14 * h + sw * 0.6, y - 0.48 * h, arm)
    c.drawCircle(x, y - 0.92 * h, 0.085 * h, _p((222, 178, 145)))
    c.drawArc(_rect(x - 0.09 * h, y - 1.01 * h, x + 0.09 * h, y - 0.84 * h), 180, 180, True, _p((60, 40, 30)))
    if a.state(t) == "fallen":
        c.restore()


def _wheel(c, x, y, r):
    c.drawCircle(x, y, r, _p((25, 25, 27)))
    c.drawCircle(x, y, r * 0.5, _p((150, 150, 155)))


def _car(c, a: Actor, t: float, night: bool) -> None:
    w, h, x, y, f = a.w, a.h, a.x(t), a.lane, a.facing(t)
    col = RGB[a.color]
    path = skia.Path()
    path.moveTo(x - f * 0.26 * w, y - 0.55 * h)
    path.lineTo(x - f * 0.16 * w, y - h)
    path.lineTo(x + f * 0.14 * w, y - h)
    path.lineTo(x + f * 0.3 * w, y - 0.55 * h)
    path.close()
    c.drawPath(path, _p(col, 0.85))
    win = skia.Path()
    win.moveTo(x - f * 0.2 * w, y - 0.58 * h)
    win.lineTo(x - f * 0.13 * w, y - 0.92 * h)
    win.lineTo(x + f * 0.12 * w, y - 0.92 * h)
    win.lineTo(x + f * 0.23 * w, y - 0.58 * h)
    win.close()
    c.drawPath(win, _p((120, 150, 170)))
    c.drawRoundRect(_rect(x - 0.5 * w, y - 0.62 * h, x + 0.5 * w, y - 0.14 * h), 0.12 * h, 0.12 * h, _p(col))
    _wheel(c, x - 0.3 * w, y - 0.15 * h, 0.17 * h)
    _wheel(c, x + 0.3 * w, y - 0.15 * h, 0.17 * h)
    c.drawCircle(x + f * 0.47 * w, y - 0.45 * h, 0.06 * h, _p((255, 245, 190)))
    c.drawCircle(x - f * 0.47 * w, y - 0.45 * h, 0.05 * h, _p((180, 20, 20)))
    if night and a.state(t) == "moving":
        _beam(c, x + f * 0.5 * w, y - 0.45 * h, f, h)


def _van(c, a: Actor, t: float, night: bool) -> None:
    w, h, x, y, f = a.w, a.h, a.x(t), a.lane, a.facing(t)
    col = RGB[a.color]
    l, r = (x - 0.5 * w, x + 0.5 * w)
    c.drawRoundRect(_rect(l, y - h, r, y - 0.12 * h), 0.07 * h, 0.07 * h, _p(col))
    wx = x + f * 0.34 * w
    c.drawRoundRect(_rect(wx - 0.13 * w, y - 0.88 * h, wx + 0.13 * w, y - 0.55 * h), 0.04 * h, 0.04 * h, _p((120, 150, 170)))
    c.drawLine(x + f * 0.16 * w, y - 0.95 * h, x + f * 0.16 * w, y - 0.16 * h, _p(col, 0.6, stroke=2))
    _wheel(c, x - 0.3 * w, y - 0.12 * h, 0.13 * h)
    _wheel(c, x + 0.3 * w, y - 0.12 * h, 0.13 * h)
    c.drawCircle(x + f * 0.47 * w, y - 0.3 * h, 0.04 * h, _p((255, 245, 190)))
    if night and a.state(t) == "moving":
        _beam(c, x + f * 0.5 * w, y - 0.3 * h, f, h)


def _beam(c, x, y, f, h):
    p = skia.Path()
    p.moveTo(x, y)
    p.lineTo(x + f * 1.6 * h, y - 0.25 * h)
    p.lineTo(x + f * 1.6 * h, y + 0.45 * h)
    p.close()
    c.drawPath(p, _p((255, 245, 190), a=60))


def _bicycle(c, a: Actor, t: float) -> None:
    w, h, x, y, f = a.w, a.h, a.x(t), a.lane, a.facing(t)
    col, R = RGB[a.color], 0.27 * h
    xl, xr = x - 0.3 * w, x + 0.3 * w
    for wx in (xl, xr):
        c.drawCircle(wx, y - R, R, _p((30, 30, 32), stroke=0.04 * h))
    fr = _p(col, stroke=0.085 * h)
    top, seat = (x + f * 0.2 * w, y - 0.56 * h), (x - f * 0.13 * w, y - 0.56 * h)
    c.drawLine(x - f * 0.3 * w, y - R, x, y - R, fr)
    c.drawLine(x, y - R, seat[0], seat[1], fr)
    c.drawLine(x, y - R, top[0], top[1], fr)
    c.drawLine(seat[0], seat[1], top[0], top[1], fr)
    c.drawLine(x - f * 0.3 * w, y - R, seat[0], seat[1], fr)
    c.drawLine(top[0], top[1], x + f * 0.3 * w, y - R, fr)
    c.drawLine(top[0], top[1], top[0] - f * 0.02 * w, y - 0.66 * h, _p((60, 60, 60), stroke=0.04 * h))
    if a.state(t) == "moving":  # a grey rider
        s = math.sin((t * 1.6 + a.phase) * 2 * math.pi) * 0.06 * h
        g = (95, 98, 104)
        c.drawLine(seat[0], seat[1] - 0.02 * h, x + f * 0.02 * w + s, y - R + s, _p((60, 62, 70), stroke=0.07 * h))
        c.drawLine(seat[0], seat[1] - 0.03 * h, x + f * 0.06 * w, y - 0.84 * h, _p(g, stroke=0.12 * h))
        c.drawLine(x + f * 0.06 * w, y - 0.82 * h, top[0], y - 0.64 * h, _p(g, stroke=0.05 * h))
        c.drawCircle(x + f * 0.1 * w, y - 0.94 * h, 0.065 * h, _p((222, 178, 145)))


def _dog(c, a: Actor, t: float) -> None:
    w, h, x, y, f = a.w, a.h, a.x(t), a.lane, a.facing(t)
    col = RGB[a.color]
    s = math.sin((t * 3 + a.phase) * 2 * math.pi) * 0.1 * w if a.state(t) == "moving" else 0
    leg = _p(col, 0.8, stroke=0.1 * h)
    for dx, sg in ((-0.24, 1), (-0.16, -1), (0.2, 1), (0.28, -1)):
        c.drawLine(x + f * dx * w, y - 0.4 * h, x + f * dx * w + sg * s, y - 0.04 * h, leg)
    c.drawOval(_rect(x - 0.36 * w, y - 0.78 * h, x + 0.34 * w, y - 0.34 * h), _p(col))
    c.drawCircle(x + f * 0.38 * w, y - 0.8 * h, 0.2 * h, _p(col))
    c.drawOval(_rect(min(x + f * 0.42 * w, x + f * 0.54 * w), y - 0.8 * h, max(x + f * 0.42 * w, x + f * 0.54 * w), y - 0.66 * h), _p(col, 0.7))
    c.drawLine(x - f * 0.33 * w, y - 0.66 * h, x - f * 0.5 * w, y - 0.92 * h, _p(col, 0.9, stroke=0.08 * h))


def _box(c, x, y, w, h) -> None:
    c.drawRect(_rect(x - w / 2, y - h, x + w / 2, y), _p((176, 130, 80)))
    c.drawRect(_rect(x - w / 2, y - h, x + w / 2, y - 0.78 * h), _p((196, 152, 100)))
    c.drawRect(_rect(x - 0.07 * w, y - h, x + 0.07 * w, y), _p((222, 196, 150)))
    c.drawRect(_rect(x - w / 2, y - h, x + w / 2, y), _p((110, 78, 45), stroke=1.5))


def _crate(c, a: Actor, t: float) -> None:
    x, y, w, h = a.x(t), a.lane, a.w, a.h
    r = random.Random(a.id * 31 + int(a.phase * 1000))
    R = 0.22 * h
    for row in range(2):
        for i in range(5):
            fx = x - 0.4 * w + 0.2 * w * i + (row % 2) * 0.06 * w
            fy = y - 0.62 * h - row * 0.2 * h + r.uniform(-2, 2)
            if a.kind == "crate of apples":
                c.drawCircle(fx, fy, R * 0.8, _p((200, 30, 35) if r.random() < 0.8 else (120, 170, 50)))
                c.drawLine(fx, fy - R * 0.7, fx + 1, fy - R, _p((60, 40, 20), stroke=1.2))
            elif a.kind == "crate of oranges":
                c.drawCircle(fx, fy, R * 0.85, _p((245, 140, 20)))
            else:
                c.drawArc(_rect(fx - R, fy - R, fx + R, fy + R), 20, 140, False, _p((240, 215, 50), stroke=0.13 * h))
    for i in range(3):
        c.drawRect(_rect(x - w / 2, y - 0.5 * h + i * 0.17 * h, x + w / 2, y - 0.37 * h + i * 0.17 * h), _p((150, 110, 65)))
    for sx in (-0.48, 0.44):
        c.drawRect(_rect(x + sx * w, y - 0.55 * h, x + (sx + 0.05) * w, y), _p((110, 78, 45)))


def _ball(c, a: Actor, t: float) -> None:
    x, y, R = a.x(t), a.lane - a.h / 2, a.h / 2
    c.drawCircle(x, y, R, _p(RGB[a.color]))
    th = x / R
    c.drawArc(_rect(x - R, y - R, x + R, y + R), math.degrees(th), 40, True, _p(RGB[a.color], 0.7))
    c.drawCircle(x - 0.3 * R, y - 0.35 * R, 0.2 * R, _p((255, 255, 255), a=150))


class Renderer:
    """Draws a scene's pictures: `frame(t)` gives uint8 RGB of the camera's size."""

    def __init__(self, scene: Scene):
        self.s = scene
        self.rng = np.random.default_rng(scene.seed)
        self.surface = skia.Surface(WIDTH, HEIGHT)
        self.flakes = self.rng.random((140, 3)).astype(np.float32)
        self.shadow = {"day": 1.0, "dusk": 0.72, "night": 0.46}[scene.light]
        self.bg = {o: self._background(o) for o in ({o for _, o in scene.gate_open} if scene.gate else {False})}

    def _background(self, gate_open: bool) -> skia.Image:
        s, r = self.s, random.Random(self.s.seed * 13 + 5)
        surf = skia.Surface(WIDTH, HEIGHT)
        c = surf.getCanvas()
        sky = r.choice([(150, 185, 220), (185, 195, 205), (130, 160, 200), (205, 200, 190)])
        ground = r.choice([(120, 118, 112), (140, 132, 115), (98, 108, 92), (110, 105, 110), (150, 145, 140)])
        wall = r.choice([(150, 140, 130), (165, 120, 100), (130, 140, 150), (180, 170, 150), (115, 110, 108)])
        c.clear(_c(sky))
        hz = s.horizon
        for _ in range(r.randint(0, 4)):
            x = r.uniform(0, WIDTH)
            c.drawRect(_rect(x, hz - r.uniform(40, 105), x + r.uniform(60, 180), hz), _p(wall, r.uniform(0.75, 1.0)))
        if s.place != "street":
            c.drawRect(_rect(0, hz - 52, WIDTH, hz), _p(wall))
            for _ in range(r.randint(2, 6)):
                x = r.uniform(0, WIDTH)
                c.drawRect(_rect(x, hz - 44, x + 24, hz - 20), _p((90, 105, 120)))
        if s.place == "loading dock":
            for _ in range(2):
                x = r.uniform(0, WIDTH - 100)
                c.drawRect(_rect(x, hz - 50, x + 82, hz), _p((105, 108, 112)))
                for k in range(5):
                    c.drawLine(x, hz - 45 + 9 * k, x + 82, hz - 45 + 9 * k, _p((85, 88, 92), stroke=1.5))
        c.drawRect(_rect(0, hz, WIDTH, HEIGHT), _p(ground))
        for _ in range(260):
            x, y = r.uniform(0, WIDTH), r.uniform(hz, HEIGHT)
            c.drawOval(_rect(x, y, x + r.uniform(4, 50), y + r.uniform(1, 5)), _p(ground, r.uniform(0.88, 1.1), a=130))
        if s.place == "street":
            c.drawRect(_rect(0, hz + 50, WIDTH, HEIGHT), _p((88, 88, 92)))
            for i in range(8):
                c.drawRect(_rect(i * 90 - 20, 284, i * 90 + 25, 289), _p((215, 215, 205)))
        else:
            for _ in range(r.randint(0, 3)):
                y = r.uniform(hz + 30, HEIGHT)
                c.drawLine(0, y, WIDTH, y + r.uniform(-15, 15), _p(ground, r.choice([0.86, 1.12]), stroke=r.uniform(2, 5)))
        for _ in range(r.randint(0, 3)):
            x, k = r.uniform(0, WIDTH), r.uniform(0.7, 1.3)
            c.drawRect(_rect(x - 4 * k, hz - 30 * k, x + 4 * k, hz + 6), _p((85, 65, 45)))
            for _ in range(7):
                c.drawCircle(x + r.uniform(-22, 22) * k, hz - 45 * k + r.uniform(-20, 16) * k, 17 * k, _p((60, 105, 55), r.uniform(0.8, 1.15)))
        if s.gate:
            x, w = s.gate
            post = _p((70, 70, 74))
            c.drawRect(_rect(x - 8, hz - 60, x, hz + 14), post)
            c.drawRect(_rect(x + w, hz - 60, x + w + 8, hz + 14), post)
            if gate_open:
                c.drawRect(_rect(x, hz - 54, x + w, hz + 10), _p((38, 42, 40)))
                c.drawRect(_rect(x, hz - 12, x + w, hz + 10), _p(ground, 0.8))
            else:
                c.drawRect(_rect(x, hz - 54, x + w, hz + 10), _p((176, 180, 184)))
                for k in range(int(w // 12) + 1):
                    c.drawLine(x + k * 12, hz - 54, x + k * 12, hz + 10, _p((92, 96, 100), stroke=3))
                c.drawLine(x, hz - 22, x + w, hz - 22, _p((92, 96, 100), stroke=4))
        for x in (r.uniform(40, 200), r.uniform(430, 600)):
            c.drawRect(_rect(x - 2, 40, x + 2, hz + 8), _p((60, 60, 64)))
            c.drawRect(_rect(x - 12, 36, x + 12, 42), _p((60, 60, 64)))
        self.lamp_x = None
        r2 = random.Random(s.seed * 13 + 6)
        self.lamp_x = (r2.uniform(40, 200), r2.uniform(430, 600))
        return surf.makeImageSnapshot()

    def frame(self, t: float) -> np.ndarray:
        s, c = self.s, self.surface.getCanvas()
        c.save()
        if s.shake:
            k = self.rng.normal(0, s.shake, 2)
            c.translate(float(k[0]), float(k[1]))
        c.drawImage(self.bg[s.gate_is_open(t) if s.gate else False], 0, 0)
        for a in sorted(s.actors, key=lambda a: (a.lane, a.holder >= 0)):
            if a.kind == "box" and a.holder >= 0 and a.held[0] <= t < a.held[1]:
                continue
            x = a.x(t)
            if not -a.w < x < WIDTH + a.w:
                continue
            c.drawOval(_rect(x - 0.52 * a.w, a.lane - 0.035 * a.h - 2, x + 0.52 * a.w, a.lane + 0.035 * a.h + 3), _p((0, 0, 0), a=70))
            night = s.light == "night"
            if a.kind == "person":
                held = a.carries >= 0 and s.actors[a.carries].held[0] <= t < s.actors[a.carries].held[1]
                _person(c, a, t, held)
                if held:
                    b = s.actors[a.carries]
                    _box(c, x + a.facing(t) * 0.26 * a.h, a.lane - 0.42 * a.h, b.w * 0.9, b.h * 0.9)
            elif a.kind == "car":
                _car(c, a, t, night)
            elif a.kind == "van":
                _van(c, a, t, night)
            elif a.kind == "bicycle":
                _bicycle(c, a, t)
            elif a.kind == "dog":
                _dog(c, a, t)
            elif a.kind == "ball":
                _ball(c, a, t)
            elif a.kind == "box":
                _box(c, a.x(t), a.lane, a.w, a.h)
            else:
                _crate(c, a, t)
        if self.shadow < 1:
            c.drawRect(_rect(-9, -9, WIDTH + 9, HEIGHT + 9), _p((18, 22, 60), a=int(255 * (1 - self.shadow) * 0.85)))
        if s.lamps_on(t):
            for x in self.lamp_x:
                sh = skia.GradientShader.MakeRadial((x, 120), 230, [_c((255, 225, 150), a=120), _c((255, 225, 150), a=0)])
                c.drawCircle(x, 120, 230, skia.Paint(AntiAlias=True, Shader=sh))
                c.drawCircle(x, 44, 8, _p((255, 245, 200)))
        if s.weather == "fog":
            c.drawRect(_rect(-9, -9, WIDTH + 9, HEIGHT + 9), _p((200, 205, 210), self.shadow, a=85))
        elif s.weather == "rain":
            p = _p((200, 210, 225), a=110, stroke=1.2)
            for fx, fy, fs in self.flakes:
                x, y = float(fx) * WIDTH, (float(fy) * HEIGHT + t * (500 + 200 * float(fs))) % HEIGHT
                c.drawLine(x, y, x - 3, y + 13, p)
        elif s.weather == "snow":
            p = _p((250, 250, 250), a=210)
            for fx, fy, fs in self.flakes:
                x = (float(fx) * WIDTH + 14 * math.sin(t + 6 * float(fs))) % WIDTH
                c.drawCircle(x, (float(fy) * HEIGHT + t * (60 + 40 * float(fs))) % HEIGHT, 1.2 + 1.6 * float(fs), p)
        c.restore()
        img = self.surface.toarray(colorType=skia.kRGBA_8888_ColorType)[:, :, :3]
        if s.noise:
            n = self.rng.integers(-32768, 32767, img.shape[:2] + (1,), dtype=np.int16).astype(np.float32) * (s.noise / 18918.0)
            img = np.clip(img + n, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(img)


# ---------------------------------------------------------------------------------------------------- truth

# An actor counts as visible when at least this share of its body is inside the picture and not covered.
VISIBLE = 0.5
MASK_W, MASK_H = 128, 72


def _bounds(s: Scene, a: Actor, t: float):
    x, y = a.x(t), a.lane
    if a.kind == "box" and a.holder >= 0 and a.held[0] <= t < a.held[1]:
        p = s.actors[a.holder]
        x, y = p.x(t) + p.facing(t) * 0.26 * p.h, p.lane - 0.42 * p.h
    w, h = a.w, a.h
    if a.kind == "person":
        w = 0.4 * h
        if a.state(t) == "fallen":
            f = a.facing(t)
            return x + (-0.05 * h if f > 0 else -h), y - 0.3 * h, x + (h if f > 0 else 0.05 * h), y + 0.12 * h
    return x - w / 2, y - h, x + w / 2, y


def truth(s: Scene, t: float) -> tuple[list[dict], np.ndarray]:
    """What is true at t: the actors that are at least a little visible, and a 72x128 map of who covers what (id+1)."""
    mask = np.zeros((MASK_H, MASK_W), np.uint8)
    full: dict[int, float] = {}
    k = MASK_W / WIDTH
    for a in sorted(s.actors, key=lambda a: (a.lane, a.holder >= 0)):
        x0, y0, x1, y1 = (v * k for v in _bounds(s, a, t))
        full[a.id] = max((round(x1) - round(x0)) * (round(y1) - round(y0)), 1)
        X0, X1, Y0, Y1 = max(round(x0), 0), min(round(x1), MASK_W), max(round(y0), 0), min(round(y1), MASK_H)
        if X1 > X0 and Y1 > Y0:
            mask[Y0:Y1, X0:X1] = a.id + 1
    out = []
    for a in s.actors:
        vis = float((mask == a.id + 1).sum()) / full[a.id]
        if vis < 0.1:
            continue
        x0, y0, x1, y1 = _bounds(s, a, t)
        held = a.kind == "box" and a.holder >= 0 and a.held[0] <= t < a.held[1]
        carrying = a.carries >= 0 and s.actors[a.carries].held[0] <= t < s.actors[a.carries].held[1]
        state = a.state(t)
        out.append({"id": a.id, "kind": a.kind, "color": a.color, "box": [round(v, 1) for v in (x0, y0, x1, y1)], "visible": round(min(vis, 1.0), 2),
                    "state": state, "vx": round(a.vx(t), 1), "direction": "" if a.vx(t) == 0 else ("right" if a.vx(t) > 0 else "left"),
                    "held": held, "carrying": carrying, "side": "left" if (x0 + x1) / 2 < WIDTH / 3 else "right" if (x0 + x1) / 2 > 2 * WIDTH / 3 else "middle"})
    return out, mask
