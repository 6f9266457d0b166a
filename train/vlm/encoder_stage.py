"""Stage A: the visual encoder and the text tower, on single frames, densely supervised by the simulator."""
from __future__ import annotations

import os
import random

import numpy as np
import skia
import torch
import torch.nn.functional as F

from yard.labels import ACTION, COLOR, COLORS, GRID_H, GRID_W, HELD_OUT, KINDS, LIGHT, MODEL_H, MODEL_W, WEATHER
from yard.scene import PAINT, RGB

from .common import Clock, adamw, chance, log, restore_chance, save
from .data import TEMPLATES, Shards, batch_ids, phrase_bank
from .model import Config, Encoder, EncoderHeads, TextTower

SHADE = {"day": 1.0, "dusk": 0.72, "night": 0.46}
NAMED, JITTERED, SCRIBBLED = 0, 1, 2
# [kinds, colours] pairs that no picture shows. A bicycle is never red here: that must not teach that nothing thin is red, so of a
# bicycle "red or not?" is not asked; nor of what is black "a car or not?". Colours are told apart where they are seen: on other kinds, and
# in scribbles; kinds in other colours.
UNASKED = torch.tensor([[(c, k) in HELD_OUT for c in COLORS] for k in KINDS])
LEAD = 300  # steps in which heads that begin anew learn alone


def jitter(pix: np.ndarray, color: np.ndarray, actors: list[dict], r: random.Random):
    """Turns the hue by any angle, changes saturation and brightness, at times inverts the greys: a kind is its shape, whatever
    its paint. No colour is taught of such a picture, and no actor comes out in a colour that is held out for its kind.
    -> pixels, the colours that they come nearest to."""
    names = [*RGB, "grey"]
    paint = np.array([*RGB.values(), (128, 128, 128)], np.float32)
    for _ in range(20):
        a, sat, gain = r.uniform(0, 2 * np.pi), r.choice([0.0, r.uniform(0.3, 1.4)]), r.uniform(0.75, 1.2)
        grey = np.full((3, 3), 1 / 3)
        about = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)  # the grey axis
        m = grey * r.choice([1, 1, -1]) + sat * (np.cos(a) * (np.eye(3) - grey) + np.sin(a) * about)
        turn = lambda x: ((x - 110) @ (gain * m.T).astype(np.float32) + 110).clip(0, 255)
        looks = {c: names[((turn(np.float32(v)) - paint) ** 2).sum(1).argmin()] for c, v in RGB.items()}
        if not HELD_OUT.intersection((looks[x["color"]], x["kind"]) for x in actors):
            return turn(pix.astype(np.float32)).astype(np.uint8), np.array([COLOR.get(looks.get(c), 0) for c in COLORS], np.int8)[color]
    return pix, color


def scribble(pix: np.ndarray, color: np.ndarray, shade: float, r: random.Random):
    """Draws strokes and blobs of named colours: a colour is its paint, whatever its shape. -> pixels, colours, which patches."""
    x = np.concatenate([pix, np.full_like(pix[..., :1], 255)], -1)
    color, touched = color.copy(), np.zeros((GRID_H, GRID_W), np.int64)
    for _ in range(r.randint(2, 6)):
        name, k = r.choice(PAINT), shade * r.uniform(0.85, 1.05)
        cx, cy, w, h = r.uniform(8, MODEL_W - 8), r.uniform(40, MODEL_H - 6), r.uniform(4, 40), r.uniform(3, 22)
        paint = skia.Paint(AntiAlias=True, Color=skia.Color(*(min(255, int(v * k)) for v in RGB[name])))
        layer = np.zeros_like(x)
        canvas = skia.Canvas(layer)
        if r.random() < 0.65:  # thin, as a bicycle's frame
            paint.setStyle(skia.Paint.kStroke_Style)
            paint.setStrokeWidth(r.uniform(0.06, 0.14) * h + 0.4)
            path = skia.Path()
            path.moveTo(cx - w / 2, cy + r.uniform(-h, h) / 2)
            for _ in range(r.randint(2, 6)):
                path.lineTo(cx + r.uniform(-w, w) / 2, cy + r.uniform(-h, h) / 2)
            canvas.drawPath(path, paint)
        elif r.random() < 0.5:
            canvas.drawOval(skia.Rect.MakeXYWH(cx - w / 2, cy - h / 2, w, h), paint)
        else:
            canvas.drawRect(skia.Rect.MakeXYWH(cx - w / 2, cy - h / 2, w, h), paint)
        alpha = layer[..., 3:].astype(np.float32) / 255
        x = (x * (1 - alpha) + layer * alpha).astype(np.uint8)
        part = alpha.reshape(GRID_H, MODEL_H // GRID_H, GRID_W, MODEL_W // GRID_W).mean((1, 3))
        color[part > 0] = np.where((part > 0.08) & (touched == 0), COLOR[name], 0)[part > 0]  # none where there is little, or more than one
        touched[part > 0] = 1
    # A camera's encode blurs colours more than greys.
    y = x[..., :3].astype(np.float32)
    grey = y.mean(-1, keepdims=True)
    tint = y - grey
    for _ in range(r.randint(0, 3)):
        for axis in (0, 1):
            tint = (np.roll(tint, 1, axis) + 2 * tint + np.roll(tint, -1, axis)) / 4
    return (grey + tint).clip(0, 255).astype(np.uint8), color, touched


def sample(data: Shards, n: int, r: random.Random, augment: bool = True):
    """n frames. The last of what comes back, per picture and patch: as rendered, its colours jittered, or scribbled over."""
    pix, cls, color, cover, gate, action, scene, made = [], [], [], [], [], [], [], []
    for _ in range(n):
        i, f = r.randrange(len(data)), r.randrange(data.frames)
        g, line = data.grids(i), data.lines[i]
        parts = [data.pixels(i)[f], g["cls"][f], g["color"][f], g["cover"][f], data.gate_grid(i, f), g["action"][f]]
        if augment and r.random() < 0.5:  # single frames have no left and right in their labels
            parts = [x[:, ::-1] for x in parts]
        how, u = np.full((GRID_H, GRID_W), NAMED), r.random() if augment else 1.0
        if u < 0.4:
            parts[0], parts[2] = jitter(parts[0], parts[2], line["actors"], r)
            how = how + JITTERED
        elif u < 0.65:
            parts[0], parts[2], on = scribble(parts[0], parts[2], SHADE[line["light"]], r)
            how = on * SCRIBBLED
        made.append(how)
        for x, to in zip(parts, (pix, cls, color, cover, gate, action)):
            to.append(x)
        scene.append((LIGHT.index(line["light"]), WEATHER.index(line["weather"]), data.gate(i, f), data.lamps(i, f)))
    t = lambda x, d: torch.from_numpy(np.stack(x).astype(d)).flatten(1)
    return torch.from_numpy(np.ascontiguousarray(np.stack(pix))), t(cls, np.int64), t(color, np.int64), t(cover, np.float32) / 100, t(gate, np.int64), t(action, np.int64), torch.tensor(scene), t(made, np.int64)


def sigmoid_loss(logits, target):
    """SigLIP (Zhai et al. 2023): every pair is its own yes/no question."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def losses(enc, heads, text, bank_ids, bank_mask, kinds, colors, batch):
    pix, cls, color, cover, gate, action, scene, made = batch
    tokens = enc(pix)
    img, patch = enc.embeds(tokens)
    bank = text(bank_ids, bank_mask)
    lc, lo, lv, lg, lb = (h(tokens) for h in (heads.cls, heads.color, heads.cover, heads.gate_patch, heads.body))
    pooled = tokens.mean(1)
    ls = [h(pooled) for h in (heads.light, heads.weather, heads.gate, heads.lamps)]
    cnt = heads.count(tokens)
    out = {}
    w = torch.ones(len(KINDS))
    w[0] = 0.25
    sure = (((cover > 0.35) | (cls == 0)) & (made != SCRIBBLED)).float()
    unasked, other = (t & ((cls > 0) & (made != SCRIBBLED))[..., None] for t in (UNASKED[cls], UNASKED.T[color]))  # colours, kinds
    out["cls"] = (F.cross_entropy(lc.float().masked_fill(other, -1e4).transpose(1, 2), cls, w, reduction="none") * sure).mean()
    fg = ((cls > 0) & (cover > 0.25) & (made != SCRIBBLED)).float()
    named = ((fg > 0) & (made == NAMED) | (made == SCRIBBLED) & (color > 0)).float()
    out["color"] = (F.cross_entropy(lo.float().masked_fill(unasked, -1e4).transpose(1, 2), color, reduction="none") * named).sum() / named.sum().clamp(min=1)
    out["cover"] = ((lv.float().squeeze(-1) - cover) ** 2 * (made != SCRIBBLED)).mean()
    out["gate_patch"] = 0.3 * F.cross_entropy(lg.transpose(1, 2), gate, torch.tensor([0.3, 1.0, 1.0]))
    body = (fg + (action == ACTION["fallen"]) + 2 * (action == ACTION["carrying"])).long() * fg.long()  # what one picture shows of the action
    out["body"] = 0.3 * (F.cross_entropy(lb.transpose(1, 2), body, reduction="none") * fg).sum() / fg.sum().clamp(min=1)
    plain = (made == NAMED).all(1).float()
    for i, (name, l) in enumerate(zip(("light", "weather", "gate", "lamps"), ls)):
        out[name] = 0.3 * (F.cross_entropy(l.float(), scene[:, i], reduction="none") * plain).sum() / plain.sum().clamp(min=1)
    area = torch.zeros(len(pix), len(KINDS)).scatter_add_(1, cls, cover)
    out["area"] = 0.02 * ((((cnt.sum(1) - area) ** 2) * ~other.any(1))[:, 1:].mean(1) * plain).mean()
    # Image and text: which phrases of the bank are true of each patch, and of the picture.
    s, b = text.scale.exp(), text.bias
    match = ((kinds == -1) | (kinds == cls[..., None])) & ((colors == -1) | (colors == color[..., None])) & (cls > 0)[..., None]
    # Of jittered pictures no phrase with a colour is asked; of scribbles only "something red".
    asked = torch.where((made == NAMED)[..., None], True, torch.where((made == JITTERED)[..., None], colors == -1, (kinds == -1) & (color > 0)[..., None]))
    asked &= ~((kinds == -1) & unasked[..., colors.clamp(min=0)])  # "something red"; COLORS[0] is none, which is never held out
    asked &= ~((colors == -1) & other[..., kinds.clamp(min=0)])  # "a car"; KINDS[0] likewise
    match = torch.where((made == SCRIBBLED)[..., None], (kinds == -1) & (colors == color[..., None]), match)
    keep = (fg > 0) | (made == SCRIBBLED) & (color > 0) | (made != SCRIBBLED) & (torch.rand(fg.shape) < 0.04)
    lp = s * (patch[keep] @ bank.T) + b
    out["patch_text"] = (sigmoid_loss(lp, match[keep].float()) * asked[keep]).sum(-1).mean() * 0.3
    seen = (match & (cover > 0.5)[..., None]).any(1)
    told = (made != SCRIBBLED).all(1)[:, None] & ((asked | (cls == 0)[..., None]).all(1) | seen & ((colors == -1) | plain.bool()[:, None]))
    maybe = match.any(1) & ~seen
    li = s * (img @ bank.T) + b
    out["image_text"] = (sigmoid_loss(li, seen.float()) * (~maybe) * told).sum(-1).mean() * 0.3
    return out, (lc, lo, lp, match[keep], li, seen, maybe)


@torch.no_grad()
def evaluate(data, enc, heads, text, bank, n=512):
    enc.eval(), heads.eval(), text.eval()
    r = random.Random(5)
    ids, mask, kinds, colors = bank
    acc = {"cls_fg": [], "color": [], "scene_gate": [], "phrase_auc": []}
    for _ in range(n // 64):
        batch = sample(data, 64, r, False)
        out, (lc, lo, lp, m, li, seen, maybe) = losses(enc, heads, text, ids, mask, kinds, colors, batch)
        fg = (batch[1] > 0) & (batch[3] > 0.5)
        acc["cls_fg"].append((lc.argmax(-1) == batch[1])[fg].float().mean().item())
        acc["color"].append((lo.argmax(-1) == batch[2])[fg].float().mean().item())
        acc["scene_gate"].append((heads.gate(enc(batch[0]).mean(1)).argmax(-1) == batch[6][:, 2]).float().mean().item())
        acc["phrase_auc"].append(((li > 0) == seen)[~maybe].float().mean().item())
    enc.train(), heads.train(), text.train()
    return {k: float(np.mean(v)) for k, v in acc.items()}


def run(c: Config, tok, train_dir: str, val_dir: str, out: str, minutes: float, batch: int = 32, lr: float = 1.5e-3, steps: int | None = None) -> None:
    torch.manual_seed(1)
    enc, heads, text = Encoder(c).to(memory_format=torch.channels_last), EncoderHeads(c), TextTower(c)
    opt = adamw(enc, heads, text, lr=lr)
    ck, step, used, lead, s = os.path.join(out, "encoder.pt"), 0, 0.0, 0, {}
    if os.path.exists(ck):
        s = torch.load(ck, weights_only=True)
        enc.load_state_dict(s["enc"]), text.load_state_dict(s["text"])
        if "heads" in s:  # they are not in what `adopt` read from a bundle
            heads.load_state_dict(s["heads"]), opt.load_state_dict(s["opt"])
        step, used = s["step"], s["used"]
        lead = s.get("lead", 0) if "heads" in s else step + LEAD
    clock = Clock(minutes, lr, used, steps, step, s.get("begun", 0))
    bank = phrase_bank()
    kinds, colors = torch.tensor([b[1] for b in bank]), torch.tensor([b[2] for b in bank])
    val, data, r = Shards(val_dir), Shards(train_dir), random.Random(step + 1)
    if s.get("chance"):
        restore_chance(s["chance"], r)
    params = [p for m in (enc, heads, text) for p in m.parameters()]

    def ids(template):
        return batch_ids(tok, [template.format(b[0]) for b in bank])

    vb = (*ids(TEMPLATES[0]), kinds, colors)
    last = 0.0
    while clock.share() < 1:
        if step % 500 == 499:
            data = Shards(train_dir)  # more may have been rendered by now
        clock.set_lr(opt)
        for m in (enc, text):
            m.requires_grad_(step >= lead)
        out_, _ = losses(enc, heads, text, *ids(r.choice(TEMPLATES)), kinds, colors, sample(data, batch, r))
        loss = sum(out_.values())
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        clock.step = step = step + 1
        if step % 100 == 0:
            log(step=step, share=clock.share(), clips=len(data), loss=loss.item(), **{k: v.item() for k, v in out_.items()})
        if clock.spent() - last > 120 or clock.share() >= 1:
            last = clock.spent()
            with torch.random.fork_rng():  # it comes when the clock says so
                log(eval="val", **evaluate(val, enc, heads, text, vb, 256))
            save(ck, enc=enc.state_dict(), heads=heads.state_dict(), text=text.state_dict(), opt=opt.state_dict(), step=step, begun=clock.begun, lead=lead, used=clock.spent(), chance=chance(r), config=c.dict())
