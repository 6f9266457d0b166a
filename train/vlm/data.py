"""Reads the rendered shards, the phrase bank and the tokenizer."""
from __future__ import annotations

import glob
import json
import os

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from yard.labels import COLOR, COLORS, HELD_OUT, KIND, MODEL_FPS
from yard.language import Teller, article, noun
from yard.render import SEED0, gate_patches, scene_of
from yard.scene import CRATES, DOG_COLORS, PAINT, truth

SPECIAL = ["<|pad|>", "<|bos|>", "<|frame|>", "<|describe|>", "<|changes|>", "<|ask|>", "<|answer|>", "<|nothing|>", "<|cannot_tell|>", "<|end|>"]


class Shards:
    """All finished shards of a folder; frames stay on disk."""

    def __init__(self, folder: str, limit: int = 0):
        self.pix, self.grid, self.lines, self._gates = [], [], [], {}
        self.split = os.path.basename(os.path.normpath(folder))
        for d in sorted(glob.glob(os.path.join(folder, "shard-*"))):
            if not os.path.exists(os.path.join(d, "DONE")) or d.endswith(".tmp"):
                continue
            self.pix.append(np.load(os.path.join(d, "frames.npy"), mmap_mode="r"))
            with np.load(os.path.join(d, "grid.npz")) as z:
                self.grid.append({k: z[k] for k in z.files})
            with open(os.path.join(d, "clips.jsonl")) as f:
                self.lines += [json.loads(x) for x in f]
            if limit and len(self.lines) >= limit:
                break
        if not self.lines:
            raise SystemExit(f"no finished shard in {folder}: render some first (python -m yard.render)")
        self.n = self.pix[0].shape[0]
        self.frames = self.pix[0].shape[1]

    def __len__(self) -> int:
        return len(self.lines)

    def pixels(self, i: int) -> np.ndarray:
        return self.pix[i // self.n][i % self.n]

    def grids(self, i: int) -> dict[str, np.ndarray]:
        g = self.grid[i // self.n]
        return {k: v[i % self.n] for k, v in g.items()}

    def scene(self, i: int):
        return scene_of(self.lines[i]["seed"], self.split, self.frames)[0]

    def gate_grid(self, i: int, f: int) -> np.ndarray:
        """Per patch 0: no gate, 1: closed, 2: open. int8 [9,16]."""
        if i not in self._gates:
            self._gates[i] = gate_patches(self.scene(i)).astype(np.int8)
        return self._gates[i] * self.gate(i, f)

    def gate(self, i: int, f: int) -> int:
        """0: no gate, 1: closed, 2: open."""
        g = self.lines[i]["gate"]
        return 0 if g is None else 1 + int([o for t, o in g if t <= f / MODEL_FPS][-1])

    def lamps(self, i: int, f: int) -> int:
        return int([o for t, o in self.lines[i]["lamps"] if t <= f / MODEL_FPS][-1])


def phrase_bank(held_out: bool = False) -> list[tuple[str, int, int]]:
    """(phrase, kind, colour): pairs, kinds alone (colour -1), colours alone (kind -1). Without the held-out pairs unless asked."""
    bank = []
    for k in KIND:
        if k in ("none", "gate"):
            continue
        if k in CRATES or k == "box":
            bank.append((article(k), KIND[k], -1))
            continue
        bank.append((article(k), KIND[k], -1))
        for c in DOG_COLORS if k == "dog" else PAINT:
            if held_out or (c, k) not in HELD_OUT:
                bank.append((article(noun({"kind": k, "color": c})), KIND[k], COLOR[c]))
    for fruit, k in (("apples", "crate of apples"), ("bananas", "crate of bananas"), ("oranges", "crate of oranges")):
        bank.append((fruit, KIND[k], -1))
    for c in COLORS[1:]:
        bank.append((f"something {c}", -1, COLOR[c]))
    return bank


TEMPLATES = ["{}", "a photo of {}", "a picture of {}", "there is {}"]


def make_tokenizer(vocab: int, path: str, scenes: int = 800) -> Tokenizer:
    """Byte-level BPE over what is said of some scenes of the training seeds."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    corpus = [t.format(p) for t in TEMPLATES for p, _, _ in phrase_bank(True)]
    for seed in range(SEED0["train"], SEED0["train"] + scenes):
        s, _ = scene_of(seed, "train", 24)
        tell = Teller(s, lambda t: truth(s, t)[0], seed, plain=0.3)
        for t in (1.5, 3.0, 4.5, 5.5):
            corpus += [tell.describe(t), tell.changes(t)] + [x for q in tell.qa(t) for x in (q["q"], q["a"])]
    tok.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.save(path)
    return tok


def batch_ids(tok: Tokenizer, texts: list[str]):
    enc = [tok.encode(t).ids for t in texts]
    n = max(map(len, enc))
    ids = torch.zeros(len(enc), n, dtype=torch.long)
    mask = torch.zeros(len(enc), n, dtype=torch.long)
    for i, e in enumerate(enc):
        ids[i, : len(e)] = torch.tensor(e)
        mask[i, : len(e)] = 1
    return ids, mask
