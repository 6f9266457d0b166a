"""Stage A: the visual encoder and the text tower, on single frames, densely supervised by the simulator."""
from __future__ import annotations

import os
import random

import numpy as np
import torch
import torch.nn.functional as F

from yard.labels import ACTION, KINDS

from .common import Clock, adamw, log, save
from .data import TEMPLATES, Shards, batch_ids, phrase_bank
from .model import Config, Encoder, EncoderHeads, TextTower

LIGHT, WEATHER = ["day", "dusk", "night"], ["clear", "rain", "snow", "fog"]


def sample(data: Shards, n: int, r: random.Random, augment: bool = True):
    pix, cls, color, cover, gate, action, scene = [], [], [], [], [], [], []
    for _ in range(n):
        i, f = r.randrange(len(data)), r.randrange(data.frames)
        g, line = data.grids(i), data.lines[i]
        parts = [data.pixels(i)[f], g["cls"][f], g["color"][f], g["cover"][f], data.gate_grid(i, f), g["action"][f]]
        if augment and r.random() < 0.5:  # single frames have no left and right in their labels
            parts = [x[:, ::-1] for x in parts]
        for x, to in zip(parts, (pix, cls, color, cover, gate, action)):
            to.append(x)
        scene.append((LIGHT.index(line["light"]), WEATHER.index(line["weather"]), data.gate(i, f), data.lamps(i, f)))
    t = lambda x, d: torch.from_numpy(np.stack(x).astype(d)).flatten(1)
    return torch.from_numpy(np.ascontiguousarray(np.stack(pix))), t(cls, np.int64), t(color, np.int64), t(cover, np.float32) / 100, t(gate, np.int64), t(action, np.int64), torch.tensor(scene)


def sigmoid_loss(logits, target):
    """SigLIP (Zhai et al. 2023): every pair is its own yes/no question."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def losses(enc, heads, text, bank_ids, bank_mask, kinds, colors, batch):
    pix, cls, color, cover, gate, action, scene = batch
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
    sure = ((cover > 0.35) | (cls == 0)).float()
    out["cls"] = (F.cross_entropy(lc.transpose(1, 2), cls, w, reduction="none") * sure).mean()
    fg = ((cls > 0) & (cover > 0.25)).float()
    out["color"] = (F.cross_entropy(lo.float().transpose(1, 2), color, reduction="none") * fg).sum() / fg.sum().clamp(min=1)
    out["cover"] = F.mse_loss(lv.float().squeeze(-1), cover)
    out["gate_patch"] = 0.3 * F.cross_entropy(lg.transpose(1, 2), gate, torch.tensor([0.3, 1.0, 1.0]))
    body = (fg + (action == ACTION["fallen"]) + 2 * (action == ACTION["carrying"])).long() * fg.long()  # what one picture shows of the action
    out["body"] = 0.3 * (F.cross_entropy(lb.transpose(1, 2), body, reduction="none") * fg).sum() / fg.sum().clamp(min=1)
    for i, (name, l) in enumerate(zip(("light", "weather", "gate", "lamps"), ls)):
        out[name] = 0.3 * F.cross_entropy(l.float(), scene[:, i])
    area = torch.zeros(len(pix), len(KINDS)).scatter_add_(1, cls, cover)
    out["area"] = 0.02 * F.mse_loss(cnt.sum(1)[:, 1:], area[:, 1:])
    # Image and text: which phrases of the bank are true of each patch, and of the picture.
    s, b = text.scale.exp(), text.bias
    match = ((kinds == -1) | (kinds == cls[..., None])) & ((colors == -1) | (colors == color[..., None])) & (cls > 0)[..., None]
    keep = (fg > 0) | (torch.rand(fg.shape) < 0.04)
    lp = s * (patch[keep] @ bank.T) + b
    out["patch_text"] = sigmoid_loss(lp, match[keep].float()).sum(-1).mean() * 0.3
    seen = (match & (cover > 0.5)[..., None]).any(1)
    maybe = match.any(1) & ~seen
    li = s * (img @ bank.T) + b
    out["image_text"] = (sigmoid_loss(li, seen.float()) * (~maybe)).sum(-1).mean() * 0.3
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
        acc["scene_gate"].append((heads.gate(enc(batch[0]).mean(1)).argmax(-1) == batch[-1][:, 2]).float().mean().item())
        acc["phrase_auc"].append(((li > 0) == seen)[~maybe].float().mean().item())
    enc.train(), heads.train(), text.train()
    return {k: float(np.mean(v)) for k, v in acc.items()}


def run(c: Config, tok, train_dir: str, val_dir: str, out: str, minutes: float, batch: int = 32, lr: float = 1.5e-3) -> None:
    torch.manual_seed(1)
    enc, heads, text = Encoder(c).to(memory_format=torch.channels_last), EncoderHeads(c), TextTower(c)
    opt = adamw(enc, heads, text, lr=lr)
    ck, step, used = os.path.join(out, "encoder.pt"), 0, 0.0
    if os.path.exists(ck):
        s = torch.load(ck, weights_only=True)
        enc.load_state_dict(s["enc"]), heads.load_state_dict(s["heads"]), text.load_state_dict(s["text"])
        if "opt" in s:
            opt.load_state_dict(s["opt"])
        step, used = s["step"], s["used"]
    clock = Clock(minutes, lr, used)
    bank = phrase_bank()
    kinds, colors = torch.tensor([b[1] for b in bank]), torch.tensor([b[2] for b in bank])
    val, data, r = Shards(val_dir), Shards(train_dir), random.Random(step + 1)
    params = [p for m in (enc, heads, text) for p in m.parameters()]

    def ids(template):
        return batch_ids(tok, [template.format(b[0]) for b in bank])

    vb = (*ids(TEMPLATES[0]), kinds, colors)
    last = 0.0
    while clock.share() < 1:
        if step % 500 == 499:
            data = Shards(train_dir)  # more may have been rendered by now
        clock.set_lr(opt)
        out_, _ = losses(enc, heads, text, *ids(r.choice(TEMPLATES)), kinds, colors, sample(data, batch, r))
        loss = sum(out_.values())
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        if step % 100 == 0:
            log(step=step, share=clock.share(), clips=len(data), loss=loss.item(), **{k: v.item() for k, v in out_.items()})
        if clock.spent() - last > 120 or clock.share() >= 1:
            last = clock.spent()
            log(eval="val", **evaluate(val, enc, heads, text, vb, 256))
            save(ck, enc=enc.state_dict(), heads=heads.state_dict(), text=text.state_dict(), opt=opt.state_dict(), step=step, used=clock.spent(), config=c.dict())
