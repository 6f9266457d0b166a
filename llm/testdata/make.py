"""Makes the bundles and goldens of llm's tests: small random decoders of both rotary conventions.

The reference is numpy: it keeps keys unrotated and turns each by the place it has in the window at the time it is
looked at, so nothing is ever moved or turned back. Needs: pip install -r train/requirements.txt
"""
import hashlib
import json
import os

import numpy as np
from onnx import TensorProto as T, helper as h, numpy_helper as nh, save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

here = os.path.dirname(os.path.abspath(__file__))
LAYERS, HEADS, KVH, HD, C, FFN, SMAX, TOK, WINDOW, THETA = 2, 4, 2, 16, 32, 48, 64, 4, 4, 10000.0
SPECIAL = ["pad", "bos", "frame", "describe", "changes", "ask", "answer", "nothing", "cannot_tell", "end"]


def tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {f"<|{s}|>": i for i, s in enumerate(SPECIAL)}
    for c in alphabet + ["ye", "yes", "no"]:
        vocab[c] = len(vocab)
    t = Tokenizer(models.BPE(vocab, [("y", "e"), ("ye", "s"), ("n", "o")]))
    t.add_special_tokens([f"<|{s}|>" for s in SPECIAL])
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    return t


def weights(layers, vocab, rotary, seed):
    r = np.random.default_rng(seed)
    m = lambda *s: (r.standard_normal(s) * s[0] ** -0.5 * 1.5).astype(np.float32)
    w = {"embed": r.standard_normal((vocab, C)).astype(np.float32)}
    for i in range(layers):
        w |= {f"{i}.q": m(C, HEADS * HD), f"{i}.k": m(C, KVH * HD), f"{i}.v": m(C, KVH * HD), f"{i}.o": m(HEADS * HD, C), f"{i}.up": m(C, FFN), f"{i}.down": m(FFN, C)}
    w["head"] = m(C, vocab)
    inv = THETA ** (-np.arange(0, rotary, 2) / rotary)
    a = np.arange(SMAX)[:, None] * inv
    return w, np.cos(a).astype(np.float32), np.sin(a).astype(np.float32)


def decoder(w, cos, sin, layers, vocab, interleaved):
    nodes, init = [], [nh.from_array(v, k) for k, v in w.items() if k != "embed"] + [nh.from_array(cos, "cos"), nh.from_array(sin, "sin")]
    init += [nh.from_array(np.array(v, t), k) for k, v, t in (("one", [1], np.int64), ("i1", 1, np.int64), ("minus1", [-1], np.int64), ("end", [2**31], np.int64), ("ax1", [1], np.int64))]
    n = lambda op, i, o, **k: nodes.append(h.make_node(op, i, o, **k))
    n("ReduceSum", ["attention_mask", "ax1"], ["count"], keepdims=0)
    n("Sub", ["count", "one"], ["count1"])
    n("Cast", ["count1"], ["seqlens"], to=T.INT32)
    n("Shape", ["attention_mask"], ["mshape"])
    n("Gather", ["mshape", "i1"], ["total64"])
    n("Cast", ["total64"], ["total"], to=T.INT32)
    x = "inputs_embeds"
    io_in, io_out = [], []
    for i in range(layers):
        n("LpNormalization", [x], [f"n{i}"], axis=-1, p=2)
        for p in "qkv":
            n("MatMul", [f"n{i}", f"{i}.{p}"], [f"{p}{i}"])
        kv = [f"{d}.{i}.{t}" for d in ("past_key_values", "present") for t in ("key", "value")]
        n("GroupQueryAttention", [f"q{i}", f"k{i}", f"v{i}", *kv[:2], "seqlens", "total", "cos", "sin"], [f"a{i}", *kv[2:]], domain="com.microsoft",
          num_heads=HEADS, kv_num_heads=KVH, do_rotary=1, rotary_interleaved=int(interleaved))
        n("MatMul", [f"a{i}", f"{i}.o"], [f"o{i}"])
        n("Add", [x, f"o{i}"], [f"r{i}"])
        n("LpNormalization", [f"r{i}"], [f"m{i}"], axis=-1, p=2)
        n("MatMul", [f"m{i}", f"{i}.up"], [f"u{i}"])
        n("Relu", [f"u{i}"], [f"h{i}"])
        n("MatMul", [f"h{i}", f"{i}.down"], [f"d{i}"])
        n("Add", [f"r{i}", f"d{i}"], [f"x{i}"])
        x = f"x{i}"
        io_in += [(k, T.FLOAT, ["B", KVH, SMAX, HD]) for k in kv[:2]]
        io_out += [(k, T.FLOAT, ["B", KVH, SMAX, HD]) for k in kv[2:]]
    n("Slice", [x, "minus1", "end", "ax1"], ["last"])
    n("MatMul", ["last", "head"], ["logits"])
    return model("decoder", nodes, [("inputs_embeds", T.FLOAT, ["B", "S", C]), ("attention_mask", T.INT64, ["B", "total"])] + io_in, [("logits", T.FLOAT, ["B", 1, vocab])] + io_out, init)


def model(name, nodes, ins, outs, init):
    v = lambda l: [h.make_tensor_value_info(*t) for t in l]
    return h.make_model(h.make_graph(nodes, name, v(ins), v(outs), initializer=init), opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=9)


class Reference:
    """The same network over a window of tokens, each layer's keys unrotated."""

    def __init__(self, w, cos, sin, layers, interleaved):
        self.w, self.cos, self.sin, self.layers, self.il = w, cos.astype(np.float64), sin.astype(np.float64), layers, interleaved
        self.k, self.v = [[] for _ in range(layers)], [[] for _ in range(layers)]

    def rotate(self, x, pos):
        c, s = self.cos[pos], self.sin[pos]
        half, y = len(c), x.copy()
        a, b = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if self.il else (slice(0, half), slice(half, 2 * half))
        y[..., a], y[..., b] = x[..., a] * c - x[..., b] * s, x[..., b] * c + x[..., a] * s
        return y

    def token(self, x):
        x = x.astype(np.float64)
        unit = lambda y: y / np.linalg.norm(y)
        for i in range(self.layers):
            w = lambda n: self.w[f"{i}.{n}"].astype(np.float64)
            y = unit(x)
            self.k[i].append((y @ w("k")).reshape(KVH, HD))
            self.v[i].append((y @ w("v")).reshape(KVH, HD))
            here = len(self.k[i]) - 1
            q = self.rotate((y @ w("q")).reshape(HEADS, HD), here)
            ks = np.stack([self.rotate(k, p) for p, k in enumerate(self.k[i])], 1)  # [KVH, n, HD]
            vs = np.stack(self.v[i], 1)
            out = []
            for hd in range(HEADS):
                s = ks[hd * KVH // HEADS] @ q[hd] * HD**-0.5
                e = np.exp(s - s.max())
                out.append((e / e.sum()) @ vs[hd * KVH // HEADS])
            x = x + np.concatenate(out) @ w("o")
            x = x + np.maximum(unit(x) @ w("up"), 0) @ w("down")
        return x @ self.w["head"].astype(np.float64)

    def cut(self, frm, to):
        for i in range(self.layers):
            del self.k[i][frm:to], self.v[i][frm:to]


def write(name, tok, dec, table, layers, interleaved, rotary):
    d = os.path.join(here, name)
    os.makedirs(d, exist_ok=True)
    vocab = tok.get_vocab_size()
    save(dec, os.path.join(d, "decoder.onnx"))
    save(model("embed", [h.make_node("Gather", ["table", "input_ids"], ["inputs_embeds"])], [("input_ids", T.INT64, ["B", "S"])], [("inputs_embeds", T.FLOAT, ["B", "S", C])], [nh.from_array(table, "table")]), os.path.join(d, "embed.onnx"))
    tok.save(os.path.join(d, "tokenizer.json"))
    for f in ("encoder.onnx", "temporal.onnx", "text.onnx"):
        open(os.path.join(d, f), "w").write("not used by llm\n")
    ids = {s: tok.token_to_id(f"<|{s}|>") for s in SPECIAL} | {"yes": tok.token_to_id("yes"), "no": tok.token_to_id("no")}
    files = {f: {"sha256": hashlib.sha256(b := open(os.path.join(d, f), "rb").read()).hexdigest(), "size": len(b)} for f in sorted(os.listdir(d)) if f not in ("manifest.json", "golden.json")}
    manifest = {
        "format": 1, "layout": "lookout", "name": name, "version": "test", "license": "MIT", "files": files,
        "image": {"width": 32, "height": 32, "patch": 16, "sample_fps": 4}, "encoder": {"dim": 8, "embed": 8, "patches": 4, "grid_width": 2, "grid_height": 2},
        "temporal": {"layers": 1, "window": 2, "tokens_per_frame": TOK, "width": C},
        "decoder": {"layers": layers, "kv_heads": KVH, "head_dim": HD, "heads": HEADS, "width": C, "vocab": vocab, "max_context": SMAX, "frames_in_window": WINDOW,
                    "rope_theta": THETA, "rotary_dim": rotary, "rotary_interleaved": interleaved},
        "tokens": ids, "clip": {"logit_scale": 10, "logit_bias": -5, "max_tokens": 16, "templates": ["{}"], "labels": []}, "domain": {"threshold": 1, "description": "noise"},
        "calibration": {"yesno_temperature": 2}, "generation": {"max_new_tokens": 16}, "precision": "fp32", "trained_on": "nothing", "scores": {}}
    json.dump(manifest, open(os.path.join(d, "manifest.json"), "w"), indent=1)
    return d, ids


def bundle(name, layers, interleaved, rotary, seed):
    tok = tokenizer()
    vocab = tok.get_vocab_size()
    w, cos, sin = weights(layers, vocab, rotary, seed)
    d, ids = write(name, tok, decoder(w, cos, sin, layers, vocab, interleaved), w["embed"], layers, interleaved, rotary)

    r = np.random.default_rng(seed + 1)
    frames = r.standard_normal((11, TOK, C)).astype(np.float32).round(4)
    question = [ids["ask"], *tok.encode("is it?", add_special_tokens=False).ids, ids["answer"]]
    ref, steps = Reference(w, cos, sin, layers, interleaved), []
    ref.token(w["embed"][ids["bos"]])
    for n, f in enumerate(frames):
        if n >= WINDOW:
            ref.cut(1, 1 + 1 + TOK)
        for x in [w["embed"][ids["frame"]], *f]:
            ref.token(x)
        keep = len(ref.k[0])
        logits = [ref.token(w["embed"][t]) for t in question][-1]
        ref.cut(keep, None)
        steps.append([round(float(x), 5) for x in logits])
    json.dump({"question": "is it?", "frames": frames.astype(float).round(4).tolist(), "logits": steps}, open(os.path.join(d, "golden.json"), "w"))


def scripted():
    """A decoder that follows a script: the tokens of a run, summed, give the logits of the next one."""
    tok = tokenizer()
    vocab, at = tok.get_vocab_size(), {}
    table, head = np.zeros((vocab, C), np.float32), np.zeros((C, vocab), np.float32)

    def follow(token, **after):
        i = tok.token_to_id(token)
        at.setdefault(token, len(at))
        table[i, at[token]] = 2
        for t, logit in after.items():
            head[at[token], tok.token_to_id(f"<|{t}|>" if t in SPECIAL else t)] = logit / 2

    sp = chr(0x120)  # how the byte-level alphabet spells a space
    follow("<|describe|>", **{sp: 9})        # " hé!" and the end: a space in front, a rune of two tokens
    follow(sp, h=9)
    follow("h", **{chr(0xC3): 9})
    follow(chr(0xC3), **{chr(0xA9): 9})
    follow(chr(0xA9), **{"!": 9})
    follow("!", end=9)
    follow("<|changes|>", nothing=9, frame=20)  # a control token is likelier, and must not be spoken
    follow("<|ask|>")
    follow("y", yes=6, no=4)
    follow("n", yes=2, no=6)
    follow("c", cannot_tell=9)
    follow("yes", end=9)
    follow("no", end=9)
    follow("r", a=9)                          # "aaaa..." for ever
    follow("a", a=9)
    follow("i", a=6e38)                       # more than a float32 holds
    follow("o", **{chr(0xC3): 9})             # half a rune, when one token is all it may say
    nodes = [h.make_node("ReduceSum", ["inputs_embeds", "ax1"], ["sum"], keepdims=1), h.make_node("MatMul", ["sum", "head"], ["logits"])]
    nodes += [h.make_node("Identity", [f"past_key_values.0.{kv}"], [f"present.0.{kv}"]) for kv in ("key", "value")]
    cache = lambda d: [(f"{d}.0.{kv}", T.FLOAT, ["B", KVH, SMAX, HD]) for kv in ("key", "value")]
    dec = model("script", nodes, [("inputs_embeds", T.FLOAT, ["B", "S", C]), ("attention_mask", T.INT64, ["B", "total"])] + cache("past_key_values"),
                [("logits", T.FLOAT, ["B", 1, vocab])] + cache("present"), [nh.from_array(head, "head"), nh.from_array(np.array([1]), "ax1")])
    write("scripted", tok, dec, table, 1, False, HD)


scripted()
bundle("half", 2, False, HD, 1)
bundle("interleaved", 2, True, HD, 2)
# One layer: its keys and values depend on their own token alone, so a fresh session over the same frames must agree too.
bundle("one-layer", 1, False, HD, 3)
