"""What the training stages share: checkpoints that survive an interruption, a schedule, progress lines."""
from __future__ import annotations

import math
import os
import random
import time

import torch


def save(path: str, **state) -> None:
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)


def chance(r: random.Random) -> dict:
    """Where the random numbers stand, for a checkpoint: what goes on from it sees the same as if it had never stopped."""
    return {"torch": torch.get_rng_state(), "python": r.getstate()}


def restore_chance(d: dict, r: random.Random) -> None:
    torch.set_rng_state(d["torch"])
    version, words, gauss = d["python"]
    r.setstate((version, tuple(words), gauss))


class Clock:
    """How long a stage lasts, earlier runs of it counted in; gives the share done and the learning rate. That is a number of steps, with which
    the same comes out each time, or of minutes, whatever the machine does in them. The stage counts its steps in `step`, from `begun` on: those
    that an adopted bundle has learned in."""

    def __init__(self, minutes: float, lr: float, used: float = 0.0, steps: int | None = None, step: int = 0, begun: int = 0):
        self.budget, self.lr, self.used, self.t0 = minutes * 60, lr, used, time.time()
        self.steps, self.step, self.begun = steps, step, begun

    def spent(self) -> float:
        return self.used + time.time() - self.t0

    def share(self) -> float:
        return min((self.step - self.begun) / self.steps if self.steps else self.spent() / self.budget, 1.0)

    def set_lr(self, opt, warm: float = 0.02) -> None:
        f = self.share()
        k = f / warm if f < warm else 0.5 * (1 + math.cos(math.pi * (f - warm) / (1 - warm)))
        for g in opt.param_groups:
            g["lr"] = self.lr * max(k, 0.01)


def adamw(*modules, lr: float):
    decay = [p for m in modules for p in m.parameters() if p.requires_grad and p.ndim >= 2]
    rest = [p for m in modules for p in m.parameters() if p.requires_grad and p.ndim < 2]
    return torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98))


def log(**kw) -> None:
    print(time.strftime("%H:%M:%S"), " ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in kw.items()), flush=True)
