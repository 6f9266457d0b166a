"""Checkpoints from a written bundle, so that training goes on where the shipped weights are: python -m vlm adopt --base ../model/default

The dense heads are not in a bundle: `talk` and `encoder` learn them anew, in minutes.
"""
from __future__ import annotations

import json
import math
import os
import shutil
import tempfile

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from yard.labels import MODEL_H, MODEL_W

from . import export
from .common import log, save
from .data import Shards
from .model import Config, Decoder, Domain, Encoder, Temporal, TextTower


def weights(path: str) -> dict[str, np.ndarray]:
    """The constants of a graph, what is in 8 bits turned back."""
    raw = {w.name: numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}
    out = {}
    for name, a in raw.items():
        if name.endswith("_quantized"):
            k = name.removesuffix("_quantized")
            out[k] = (a.astype(np.float32) - raw[k + "_zero_point"]) * raw[k + "_scale"]
        elif name.endswith("_Q8"):
            k = name.removesuffix("_Q8")
            out[k] = ((a.astype(np.float32) - 128) * raw[k + "_scales"][..., None]).reshape(len(a), -1).T
        else:
            out[name] = np.array(a)
    return out


def norms(m):
    return [x for x in m.modules() if isinstance(x, torch.nn.BatchNorm2d)]


@torch.no_grad()
def traced(module, graph: str, example, inputs, outputs, beside=(), domains=()) -> None:
    """Fills `module` from a graph that `export.trace` made of one like it. Which constant is which parameter is seen on a graph of
    random values: tracing gives both the same names. `beside` are parameters that the graph does without."""
    for p in module.parameters():
        torch.nn.init.normal_(p)
    for b in norms(module):  # tracing folds it into the convolution: this way that changes nothing
        b.weight.fill_((1 + b.eps) ** 0.5)
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "graph.onnx")
        export.trace(module, example, path, inputs, outputs, {n: {0: "n"} for n in inputs + outputs}, domains)
        made, has = weights(path), weights(graph)
    folded = {id(b.weight) for b in norms(module)}
    missing = []
    for name, p in module.named_parameters():
        if id(p) in folded or name in beside:
            continue
        for k, a in made.items():
            if k in has and a.shape == p.shape and np.allclose(a, p, atol=1e-5):
                p.copy_(torch.from_numpy(has[k]))
                break
            if k in has and p.ndim == 2 and a.T.shape == p.shape and np.allclose(a.T, p, atol=1e-5):
                p.copy_(torch.from_numpy(np.ascontiguousarray(has[k].T)))
                break
        else:
            missing.append(name)
    if missing:
        raise SystemExit(f"{graph} is of another shape or another version of PyTorch: {missing} not found")


@torch.no_grad()
def decoder(c: Config, dir: str) -> Decoder:
    w = {k: torch.from_numpy(a) for k, a in weights(os.path.join(dir, "decoder.onnx")).items()}
    d = Decoder(c)
    d.embed.weight.copy_(torch.from_numpy(weights(os.path.join(dir, "embed.onnx"))["w"]))
    d.norm.w.copy_(w["norm.w"])
    for i, b in enumerate(d.blocks):
        p = f"l{i}."
        b.n1.w.copy_(w[p + "n1"]), b.n2.w.copy_(w[p + "n2"])
        for m, v in zip((b.q, b.k, b.v), w[p + "qkv.w"].T.split([b.q.out_features, b.k.out_features, b.v.out_features])):
            m.weight.copy_(v)
        for name in ("o", "gate", "up", "down"):
            getattr(b, name).weight.copy_(w[p + name + ".w"].T)
    return d


def read(c: Config, base: str) -> tuple[Encoder, TextTower, Temporal, Decoder]:
    """What is in a bundle, ready to run. Of an encoder that is to be trained, the batch norms have to be unfolded."""
    with open(os.path.join(base, "manifest.json")) as f:
        clip = json.load(f)["clip"]
    g = lambda n: os.path.join(base, n + ".onnx")
    enc, text, temporal = Encoder(c), TextTower(c), Temporal(c)
    traced(export.EncoderGraph(enc, Domain(c)), g("encoder"), (torch.zeros(2, MODEL_H, MODEL_W, 3, dtype=torch.uint8),), ["pixels"], ["tokens", "image_embed", "patch_embed", "distance"],
           domains=[export.MICROSOFT])
    ids = torch.ones(2, 5, dtype=torch.long)
    traced(text, g("text"), (ids, ids), ["input_ids", "attention_mask"], ["text_embed"], ("scale", "bias"))
    with torch.no_grad():
        text.scale.fill_(math.log(clip["logit_scale"])), text.bias.fill_(clip["logit_bias"])
    traced(export.TemporalGraph(temporal), g("temporal"), (torch.zeros(2, c.patches, c.dim), *export.empty(c, 2)), *export.streams(c), domains=[export.MICROSOFT, export.OURS])
    return enc.eval(), text.eval(), temporal.eval(), decoder(c, base).eval()


@torch.no_grad()
def unfold(enc: Encoder, data: Shards, frames: int = 64) -> None:
    """Gives each batch norm the mean and spread of what reaches it, and weights that leave its output as it is: only so can it be trained."""
    r = np.random.default_rng(6)
    px = np.stack([data.pixels(int(r.integers(len(data))))[int(r.integers(data.frames))] for _ in range(frames)])
    x = enc.planes(torch.from_numpy(px))
    for m in enc.stem:
        if isinstance(m, torch.nn.BatchNorm2d):
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            m.bias.add_(mean), m.weight.copy_((var + m.eps).sqrt())
            m.running_mean.copy_(mean), m.running_var.copy_(var)
        x = m(x)


def run(c: Config, base: str, data_dir: str, out: str) -> None:
    with open(os.path.join(base, "manifest.json")) as f:
        m = json.load(f)
    data = Shards(os.path.join(data_dir, "val"))
    for ck in ("encoder.pt", "talk.pt"):
        if os.path.exists(os.path.join(out, ck)):
            raise SystemExit(f"{out} has {ck} already: it knows more than a bundle does")
    enc, text, temporal, dec = read(c, base)
    differ = check(c, base, enc, temporal, data)
    unfold(enc, data)
    shutil.copyfile(os.path.join(base, "tokenizer.json"), os.path.join(out, "tokenizer.json"))
    save(os.path.join(out, "encoder.pt"), enc=enc.state_dict(), text=text.state_dict(), step=m["scores"]["encoder_steps"], begun=m["scores"]["encoder_steps"], used=0.0, config=c.dict())
    save(os.path.join(out, "talk.pt"), temporal=temporal.state_dict(), dec=dec.state_dict(), step=m["scores"]["talk_steps"], begun=m["scores"]["talk_steps"], used=0.0, config=c.dict())
    log(adopted=base, differ={k: round(v, 4) for k, v in differ.items()})


@torch.no_grad()
def check(c: Config, base: str, enc: Encoder, temporal: Temporal, data: Shards) -> dict[str, float]:
    """How far what was read is from what the bundle computes in 8 bits, relative to the values' own spread."""
    px = np.ascontiguousarray(data.pixels(0)[:4])
    tokens = export.session(os.path.join(base, "encoder.onnx")).run(["tokens"], {"pixels": px})[0]
    feed = [torch.from_numpy(tokens), *export.empty(c, 4)]
    visual = export.session(os.path.join(base, "temporal.onnx")).run(["visual"], dict(zip(export.streams(c)[0], (t.numpy() for t in feed))))[0]
    off = lambda got, want: float((got - torch.from_numpy(want)).std() / want.std())
    return {"tokens": off(enc(torch.from_numpy(px)), tokens), "visual": off(export.TemporalGraph(temporal)(*feed)[0], visual)}
