"""Writes the bundle: ONNX graphs (checked against PyTorch), tokenizer, manifest. Run: python -m vlm export --to DIR"""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from yard.labels import GRID_H, GRID_W, MODEL_FPS, MODEL_H, MODEL_W

from .data import SPECIAL, TEMPLATES, batch_ids
from .model import Config, Decoder, Domain, Encoder, Temporal, TextTower, ring_attention

OPSET = 17
MICROSOFT, OURS = "com.microsoft", "lookout.video"  # domains of operators
MAX_CONTEXT = 512
LABELS = ["a person", "a car", "a van", "a bicycle", "a dog", "a ball", "a box", "a crate of apples", "a crate of bananas", "a crate of oranges"]


class EncoderGraph(nn.Module):
    def __init__(self, enc: Encoder, domain: Domain):
        super().__init__()
        self.enc, self.domain = enc, domain

    def forward(self, pixels):
        stem = self.enc.stem_tokens(pixels)
        tokens = self.enc.body(stem)
        image, patch = self.enc.embeds(tokens)
        return tokens, image, patch, self.domain(stem, tokens)


class TemporalGraph(nn.Module):
    def __init__(self, t: Temporal):
        super().__init__()
        self.t = t

    def forward(self, tokens, age, *rings):
        visual, state, k, v = self.t.step(tokens, age, *split(rings))
        return visual, state, *k, *v


def split(rings):
    return rings[: len(rings) // 2], rings[len(rings) // 2 :]


def streams(c: Config) -> tuple[list[str], list[str]]:
    """What goes into the temporal module's graph and comes out of it. Each layer's ring stands by itself: taking it out of one for all would copy it."""
    each = lambda name: [f"{name}.{i}" for i in range(c.temporal_layers)]
    return ["tokens", "age", *each("ring_k"), *each("ring_v")], ["visual", "state", *each("new_k"), *each("new_v")]


def empty(c: Config, batch: int = 1) -> list[torch.Tensor]:
    """A stream that has seen nothing: age and rings."""
    return [torch.zeros(batch, c.window, dtype=torch.long), *(torch.zeros(batch, c.window, c.patches, c.dim) for _ in range(2 * c.temporal_layers))]


class Embed(nn.Module):
    def __init__(self, d: Decoder):
        super().__init__()
        self.w = d.embed.weight

    def forward(self, input_ids):
        return nn.functional.embedding(input_ids, self.w)


def trace(module, args, path, inputs, outputs, dynamic, domains=()) -> None:
    """Of the domains, some operators of the graph are."""
    module.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, args, path, input_names=inputs, output_names=outputs, dynamic_axes=dynamic, opset_version=OPSET, dynamo=False,
                          custom_opsets={d: 1 for d in domains})


class Ring(nn.Module):
    def forward(self, *args):
        return ring_attention(*args)


def ring_function(c: Config) -> onnx.FunctionProto:
    """RingAttention of operators that every runtime has, in the sizes of the model."""
    ins, outs = ["q", "k", "v", "ring_k", "ring_v", "age", "age_bias", "age_key"], ["y"]
    x, ring = torch.zeros(2, c.patches, c.dim), torch.zeros(2, c.window, c.patches, c.dim)
    args = (x, x, x, ring, ring, torch.zeros(2, c.window, dtype=torch.long), torch.zeros(c.enc_heads, c.window + 1), torch.zeros(c.window + 1, c.dim))
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "ring.onnx")
        trace(Ring(), args, path, ins, outs, {k: {0: "b"} for k in [*ins[:6], *outs]})
        g = onnx.load(path).graph
    weights = [helper.make_node("Constant", [], [w.name], value=w) for w in g.initializer]
    return helper.make_function(OURS, "RingAttention", ins, outs, [*weights, *g.node], [helper.make_opsetid("", OPSET)])


def decoder_graph(dec: Decoder, c: Config) -> onnx.ModelProto:
    """The decoder by hand: GroupQueryAttention turns the keys and writes them into the caller's buffer (past and present
    are one), so a step never copies the cache; only the last position gets logits."""
    nodes, weights = [], []

    def const(name, value):
        a = value.detach().numpy() if torch.is_tensor(value) else np.asarray(value)
        weights.append(numpy_helper.from_array(np.ascontiguousarray(a), name))
        return name

    def op(kind, inputs, outputs, domain="", **attrs):
        nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0] + "_" + kind, domain=domain, **attrs))
        return outputs[0]

    half = c.head_dim // 2
    angle = np.arange(MAX_CONTEXT)[:, None] * c.rope_theta ** (-np.arange(half) / half)
    cos, sin = const("cos_cache", np.cos(angle).astype(np.float32)), const("sin_cache", np.sin(angle).astype(np.float32))
    one, axis1, zero = const("one", np.array([1], np.int64)), const("axis1", np.array([1], np.int64)), const("i1", np.array(1, np.int64))
    op("ReduceSum", ["attention_mask", axis1], ["mask_sum"], keepdims=0)
    op("Sub", ["mask_sum", one], ["mask_last"])
    op("Cast", ["mask_last"], ["seqlens_k"], to=TensorProto.INT32)
    op("Shape", ["attention_mask"], ["mask_shape"])
    op("Gather", ["mask_shape", zero], ["total64"], axis=0)
    op("Cast", ["total64"], ["total"], to=TensorProto.INT32)
    ms = MICROSOFT
    x = "inputs_embeds"
    y = op("SimplifiedLayerNormalization", [x, const("l0.n1", dec.blocks[0].n1.w)], ["l0.norm1"], axis=-1, epsilon=1e-5, stash_type=1)
    for i, b in enumerate(dec.blocks):
        p = f"l{i}."
        # One product for queries, keys and values.
        qkv = torch.cat([b.q.weight, b.k.weight, b.v.weight]).T
        op("MatMul", [y, const(p + "qkv.w", qkv)], [p + "qkv"])
        op("GroupQueryAttention", [p + "qkv", "", "", f"past_key_values.{i}.key", f"past_key_values.{i}.value", "seqlens_k", "total", cos, sin],
           [p + "attn", f"present.{i}.key", f"present.{i}.value"], ms, num_heads=c.heads, kv_num_heads=c.kv_heads, do_rotary=1, rotary_interleaved=0)
        op("MatMul", [p + "attn", const(p + "o.w", b.o.weight.T)], [p + "o"])
        op("SkipSimplifiedLayerNormalization", [x, p + "o", const(p + "n2", b.n2.w)], [p + "norm2", "", "", p + "x1"], ms, epsilon=1e-5)
        op("MatMul", [p + "norm2", const(p + "gate.w", b.gate.weight.T)], [p + "gate"])
        op("MatMul", [p + "norm2", const(p + "up.w", b.up.weight.T)], [p + "up"])
        op("Sigmoid", [p + "gate"], [p + "sig"])
        op("Mul", [p + "gate", p + "sig"], [p + "silu"])
        op("Mul", [p + "silu", p + "up"], [p + "act"])
        op("MatMul", [p + "act", const(p + "down.w", b.down.weight.T)], [p + "down"])
        last = i + 1 == len(dec.blocks)
        w = const("norm.w", dec.norm.w) if last else const(f"l{i + 1}.n1", dec.blocks[i + 1].n1.w)
        y = op("SkipSimplifiedLayerNormalization", [p + "x1", p + "down", w], [p + "next", "", "", p + "x2"], ms, epsilon=1e-5)
        x = p + "x2"
    neg, end = const("neg1", np.array([-1], np.int64)), const("int_max", np.array([2**62], np.int64))
    op("Slice", [y, neg, end, axis1], ["h_last"])
    op("MatMul", ["h_last", const("head.w", dec.embed.weight.T)], ["logits"])
    f, cache = TensorProto.FLOAT, ["batch", c.kv_heads, "max", c.head_dim]
    info = helper.make_tensor_value_info
    ins = [info("inputs_embeds", f, ["batch", "seq", c.width]), info("attention_mask", TensorProto.INT64, ["batch", "total"])]
    outs = [info("logits", f, ["batch", 1, c.vocab])]
    for i in range(c.dec_layers):
        for kv in ("key", "value"):
            ins.append(info(f"past_key_values.{i}.{kv}", f, cache))
            outs.append(info(f"present.{i}.{kv}", f, cache))
    g = helper.make_graph(nodes, "decoder", ins, outs, weights)
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(ms, 1)], ir_version=9)


def session(path: str) -> ort.InferenceSession:
    o = ort.SessionOptions()
    o.intra_op_num_threads = 2
    o.log_severity_level = 3
    return ort.InferenceSession(path, o, providers=["CPUExecutionProvider"])


def run_decoder(s, c: Config, chunks) -> np.ndarray:
    """Feeds the chunks [1,S,C] one after another over one cache; the logits after each."""
    cache = {f"past_key_values.{i}.{kv}": ort.OrtValue.ortvalue_from_numpy(np.zeros((1, c.kv_heads, MAX_CONTEXT, c.head_dim), np.float32))
             for i in range(c.dec_layers) for kv in ("key", "value")}
    n, out = 0, []
    for x in chunks:
        n += x.shape[1]
        io = s.io_binding()
        io.bind_output("logits")
        io.bind_cpu_input("inputs_embeds", np.ascontiguousarray(x))
        io.bind_cpu_input("attention_mask", np.ones((1, n), np.int64))
        for k, v in cache.items():
            io.bind_ortvalue_input(k, v)
            io.bind_ortvalue_output(k.replace("past_key_values", "present"), v)
        s.run_with_iobinding(io)
        out.append(io.copy_outputs_to_cpu()[0][:, 0])
    return np.stack(out, 1)


def check(dir: str, c: Config, enc, domain, text, temporal, dec, pixels: np.ndarray) -> dict[str, float]:
    """The largest difference of each graph from PyTorch, relative to the values' own size."""
    r = np.random.default_rng(0)
    out = {}

    def differ(name, got, want):
        want = want.detach().numpy()
        out[name] = max(out.get(name, 0.0), float(np.abs(got - want).max() / (np.abs(want).max() + 1e-6)))

    with torch.no_grad():
        e = EncoderGraph(enc, domain).eval()(torch.from_numpy(pixels))
        for n, g, w in zip(("tokens", "image_embed", "patch_embed", "distance"), session(os.path.join(dir, "encoder.onnx")).run(None, {"pixels": pixels}), e):
            differ("encoder." + n, g, w)
        B, W = 2, c.window
        x = torch.from_numpy(r.standard_normal((B, c.patches, c.dim)).astype(np.float32))
        rings = [torch.from_numpy(r.standard_normal((B, W, c.patches, c.dim)).astype(np.float32)) for _ in range(2 * c.temporal_layers)]
        age = torch.from_numpy(np.stack([np.r_[np.arange(5, 0, -1), np.zeros(W - 5, int)], np.arange(W, 0, -1)]))
        ins, outs = streams(c)
        got = session(os.path.join(dir, "temporal.onnx")).run(outs, dict(zip(ins, (t.numpy() for t in (x, age, *rings)))))
        for n, g, w in zip(outs, got, TemporalGraph(temporal).eval()(x, age, *rings)):
            differ("temporal." + n, g, w)
        ids = torch.randint(10, 200, (3, 7))
        mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
        differ("text", session(os.path.join(dir, "text.onnx")).run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0], text.eval()(ids, mask))
        differ("embed", session(os.path.join(dir, "embed.onnx")).run(None, {"input_ids": ids.numpy()})[0], dec.embed(ids))
        h = torch.from_numpy(r.standard_normal((1, 140, c.width)).astype(np.float32) * 0.5)
        m = torch.ones(140, 140, dtype=torch.bool).tril()[None, None]
        want = dec.logits(dec(h, torch.arange(140)[None], m))
        cuts = [101, 130, 131, 132, 140]
        got = run_decoder(session(os.path.join(dir, "decoder.onnx")), c, np.split(h.numpy(), cuts[:-1], 1))
        differ("decoder", got, want[:, [k - 1 for k in cuts]])
    return out


def speech(to: str, c: Config, temporal, dec) -> None:
    """The graphs that depend on the decoder's width: temporal.onnx, which ends in the connector, embed.onnx and decoder.onnx."""
    f = lambda name: os.path.join(to, name)
    ins, outs = streams(c)
    trace(TemporalGraph(temporal), (torch.zeros(2, c.patches, c.dim), *empty(c, 2)), f("temporal.onnx"), ins, outs, {k: {0: "b"} for k in ins + outs}, [MICROSOFT, OURS])
    m = onnx.load(f("temporal.onnx"))
    m.functions.append(ring_function(c))
    onnx.save(m, f("temporal.onnx"))
    trace(Embed(dec), (torch.ones(2, 5, dtype=torch.long),), f("embed.onnx"), ["input_ids"], ["inputs_embeds"], {"input_ids": {0: "b", 1: "s"}, "inputs_embeds": {0: "b", 1: "s"}})
    onnx.save(decoder_graph(dec, c), f("decoder.onnx"))


def write(to: str, c: Config, tok_path: str, enc, domain, text, temporal, dec, meta: dict, pixels: np.ndarray) -> dict[str, float]:
    os.makedirs(to, exist_ok=True)
    f = lambda name: os.path.join(to, name)
    trace(EncoderGraph(enc, domain), (torch.from_numpy(pixels[:2]),), f("encoder.onnx"), ["pixels"], ["tokens", "image_embed", "patch_embed", "distance"],
          {k: {0: "n"} for k in ("pixels", "tokens", "image_embed", "patch_embed", "distance")}, [MICROSOFT])
    ids = torch.ones(2, 5, dtype=torch.long)
    trace(text, (ids, ids), f("text.onnx"), ["input_ids", "attention_mask"], ["text_embed"],
          {"input_ids": {0: "b", 1: "s"}, "attention_mask": {0: "b", 1: "s"}, "text_embed": {0: "b"}})
    speech(to, c, temporal, dec)
    shutil.copyfile(tok_path, f("tokenizer.json"))
    diff = check(to, c, enc, domain, text, temporal, dec, pixels)
    manifest(to, c, tok_path, text, meta)
    return diff


def manifest(to: str, c: Config, tok_path: str, text, meta: dict) -> None:
    """Called again after anything in the folder has changed: it holds each file's hash."""
    with open(tok_path) as fh:
        t = json.load(fh)
    ids = {x["content"]: x["id"] for x in t["added_tokens"]}
    files = {}
    for name in sorted(os.listdir(to)):
        if name in ("manifest.json", "README.md", "READY"):
            continue
        with open(os.path.join(to, name), "rb") as fh:
            data = fh.read()
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    m = {
        "format": 1, "layout": "lookout", "name": "lookout-yard", "version": "1", "license": "Apache-2.0", "files": files,
        "image": {"width": MODEL_W, "height": MODEL_H, "patch": MODEL_W // GRID_W, "sample_fps": MODEL_FPS},
        "encoder": {"dim": c.dim, "embed": c.embed, "patches": c.patches, "grid_width": GRID_W, "grid_height": GRID_H},
        "temporal": {"layers": c.temporal_layers, "window": c.window, "tokens_per_frame": c.tokens, "width": c.width},
        "decoder": {"layers": c.dec_layers, "kv_heads": c.kv_heads, "head_dim": c.head_dim, "heads": c.heads, "width": c.width, "vocab": c.vocab,
                    "max_context": MAX_CONTEXT, "frames_in_window": c.frames_in_window, "rope_theta": c.rope_theta, "rotary_dim": c.head_dim, "rotary_interleaved": False},
        "tokens": {k.strip("<|>"): ids[k] for k in SPECIAL} | {w: t["model"]["vocab"][w] for w in ("yes", "no")},
        "clip": {"logit_scale": float(text.scale.detach().exp()), "logit_bias": float(text.bias.detach()), "max_tokens": text.pos.shape[1], "templates": TEMPLATES, "labels": LABELS},
        "domain": {"threshold": 1e9, "description": "a fixed camera over a simulated yard, street or loading dock"},
        "calibration": {"yesno_temperature": 1.0}, "generation": {"max_new_tokens": 96}, "precision": "fp32", "trained_on": "simulated yard", "scores": {}}
    for k, v in meta.items():
        m[k] = {**m[k], **v} if isinstance(v, dict) and isinstance(m.get(k), dict) else v
    with open(os.path.join(to, "manifest.json"), "w") as fh:
        json.dump(m, fh, indent=1)
        fh.write("\n")
