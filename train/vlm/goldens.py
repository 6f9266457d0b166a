"""What the Go code must give on a bundle: python -m vlm.goldens BUNDLE [OUT]. Run it again whenever the bundle changes.

The reference runs the shipped graphs with onnxruntime, but does the streaming its own way: the temporal module gets all
frames of its window laid out anew for each step, oldest first (no ring), the decoder reads everything in one run where
Go reads frame by frame, and evicted keys are turned back in double precision.
"""
from __future__ import annotations

import hashlib
import json
import os
import sys

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "..", "internal", "testmodel", "testdata", "goldens.json")
PATCHES = [0, 37, 90, 143]
PHRASES = ["a red car", "a person in a blue coat", "a dog"]
QUESTION = "is there a red car?"


def picture(n: int, w: int, h: int) -> np.ndarray:
    """The same stripes and block as Picture in internal/testmodel."""
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    v = (x * (c + 1) + y * 3 + n * 37) % 200
    bx = (n * 23) % (w - 40)
    return np.where((x >= bx) & (x < bx + 40) & (y > 60) & (y < 100), 255 - 60 * c, v).astype(np.uint8)


def visual(n: int, tokens: int, width: int) -> np.ndarray:
    """The same waves as Visual in internal/testmodel."""
    return np.sin(0.37 * np.arange(tokens * width, dtype=np.float64) + 1.3 * n).astype(np.float32).reshape(tokens, width)


class Decoder:
    """One cache; reads any number of embeddings at once."""

    def __init__(self, s, d):
        self.s, self.d, self.n = s, d, 0
        self.cache = {f"past_key_values.{i}.{kv}": np.zeros((1, d["kv_heads"], d["max_context"], d["head_dim"]), np.float32) for i in range(d["layers"]) for kv in ("key", "value")}

    def read(self, x: np.ndarray) -> np.ndarray:
        """x [S,C] -> logits of the last."""
        feed = {"inputs_embeds": x[None], "attention_mask": np.ones((1, self.n + len(x)), np.int64), **self.cache}
        names = [o.name for o in self.s.get_outputs()]
        out = dict(zip(names, self.s.run(names, feed)))
        self.n += len(x)
        for k in self.cache:
            self.cache[k] = out[k.replace("past_key_values", "present")]
        return out["logits"][0, -1]

    def peek(self, x: np.ndarray) -> np.ndarray:
        n, cache = self.n, dict(self.cache)
        y = self.read(x)
        self.n, self.cache = n, cache
        return y

    def evict(self, block: int):
        d = self.d
        r = d["rotary_dim"]
        a = -block * d["rope_theta"] ** (-np.arange(0, r, 2, dtype=np.float64) / r)
        c, s = np.cos(a), np.sin(a)
        lo, hi = (slice(0, r, 2), slice(1, r, 2)) if d["rotary_interleaved"] else (slice(0, r // 2), slice(r // 2, r))
        for k, v in self.cache.items():
            kept = v[:, :, 1 + block:self.n].astype(np.float64)
            if k.endswith("key"):
                x, y = kept[..., lo].copy(), kept[..., hi].copy()
                kept[..., lo], kept[..., hi] = x * c - y * s, y * c + x * s
            new = v.copy()
            new[:, :, 1:self.n - block] = kept
            self.cache[k] = new
        self.n -= block


def main(bundle: str, out: str) -> None:
    raw = open(os.path.join(bundle, "manifest.json"), "rb").read()
    m = json.loads(raw)
    o = ort.SessionOptions()
    o.intra_op_num_threads, o.log_severity_level = 2, 3
    load = lambda f: ort.InferenceSession(os.path.join(bundle, f), o, providers=["CPUExecutionProvider"])
    tok = Tokenizer.from_file(os.path.join(bundle, "tokenizer.json"))
    rnd = lambda a: np.asarray(a, np.float64).round(5).tolist()
    W, H, t, d, ids = m["image"]["width"], m["image"]["height"], m["temporal"], m["decoder"], m["tokens"]
    g = {"bundle": "sha256:" + hashlib.sha256(raw).hexdigest()[:16]}

    enc, g["patches"], g["encoder"], tokens = load("encoder.onnx"), [p for p in PATCHES if p < m["encoder"]["patches"]], [], []
    frames = t["window"] + 6
    for n in range(frames):
        out_ = dict(zip(("tokens", "image", "patch", "distance"), enc.run(["tokens", "image_embed", "patch_embed", "distance"], {"pixels": picture(n, W, H)[None]})))
        tokens.append(out_["tokens"][0])
        if n < 3:
            g["encoder"].append({"tokens": rnd(out_["tokens"][0][g["patches"]]), "image": rnd(out_["image"][0]), "patch": rnd(out_["patch"][0][g["patches"]]), "distance": float(out_["distance"][0])})

    text, g["text"] = load("text.onnx"), []
    for p in PHRASES:
        i = np.array([tok.encode(p, add_special_tokens=False).ids], np.int64)
        g["text"].append({"text": p, "embed": rnd(text.run(None, {"input_ids": i, "attention_mask": np.ones_like(i)})[0][0])})

    tmp, past, tick, g["temporal"] = load("temporal.onnx"), [], 0, []
    for n, x in enumerate(tokens):
        tick += 3 if n % 5 == 4 else 1
        rings, age = [np.zeros((1, t["window"], *x.shape), np.float32) for _ in range(2 * t["layers"])], np.zeros((1, t["window"]), np.int64)
        for slot, (when, new) in enumerate([p for p in past if tick - p[0] <= t["window"]]):
            age[0, slot] = tick - when
            for ring, had in zip(rings, new):
                ring[0, slot] = had
        each = [f"{kv}.{i}" for kv in "kv" for i in range(t["layers"])]
        vis, state, *new = tmp.run(["visual", "state", *("new_" + e for e in each)], {"tokens": x[None], "age": age} | {"ring_" + e: r for e, r in zip(each, rings)})
        past.append((tick, [n[0] for n in new]))
        g["temporal"].append({"tick": tick, "visual": rnd(vis[0][[0, -1]]), "state": rnd(state[0][g["patches"][1]])})

    embed = load("embed.onnx")
    emb = lambda *i: embed.run(None, {"input_ids": np.array([i], np.int64)})[0][0]
    q = emb(ids["ask"], *tok.encode(QUESTION, add_special_tokens=False).ids, ids["answer"])
    frame = lambda n: np.concatenate([emb(ids["frame"]), visual(n, t["tokens_per_frame"], d["width"])])
    g["question"], g["logits"], window = QUESTION, [], d["frames_in_window"]
    for n in range(1, window + 1):
        g["logits"].append(rnd(Decoder(load("decoder.onnx"), d).read(np.concatenate([emb(ids["bos"]), *map(frame, range(n)), q]))))
    dec = Decoder(load("decoder.onnx"), d)
    dec.read(np.concatenate([emb(ids["bos"]), *map(frame, range(window))]))
    for n in range(window, window + 3):
        dec.evict(1 + t["tokens_per_frame"])
        dec.read(frame(n))
        g["logits"].append(rnd(dec.peek(q)))
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with open(out, "w") as f:
        json.dump(g, f, separators=(",", ":"))
        f.write("\n")
    print(f"{out}: bundle {g['bundle']}, {os.path.getsize(out)} bytes")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else OUT)
