"""Turns the weights of a written bundle into 8 bits. Scales of what flows between are fixed beforehand on training frames, so that
a frame gives the same numbers alone and in a batch."""
from __future__ import annotations

import logging
import os
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from .data import Shards
from .export import empty, session, streams
from .model import Config, Domain

logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)  # a line for each node

CLIPS, FRAMES = 8, 96  # training clips for the temporal module's scales, frames for the encoder's


class Feeds(CalibrationDataReader):
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def frames(data: Shards, n: int):
    r = np.random.default_rng(4)
    for _ in range(n):
        yield {"pixels": np.ascontiguousarray(data.pixels(int(r.integers(len(data))))[int(r.integers(data.frames))][None])}


def steps(c: Config, data: Shards, encoder: ort.InferenceSession, temporal: ort.InferenceSession, clips: int):
    """What the temporal module is fed while clips are watched."""
    ins, outs = streams(c)
    for i in np.random.default_rng(5).integers(len(data), size=clips):
        age, *rings = (t.numpy() for t in empty(c))
        for f in range(data.frames):
            x = encoder.run(["tokens"], {"pixels": np.ascontiguousarray(data.pixels(int(i))[f][None])})[0]
            feed = dict(zip(ins, (x, age.copy(), *(t.copy() for t in rings))))
            if f % 3 == 2:
                yield feed
            age = np.where(age > 0, age + 1, 0)
            age[0, f % c.window] = 1
            for ring, new in zip(rings, temporal.run(outs[2:], feed)):
                ring[:, f % c.window] = new


def static(src: str, to: str, feeds) -> None:
    # The distance from the domain stays exact: its whitening magnifies small differences. So do sums, which are products with ones.
    g = onnx.load(src).graph
    fixed = {w.name for w in g.initializer} | {n.output[0] for n in g.node if n.op_type in ("Constant", "ConstantOfShape")}
    keep = [n.name for n in g.node if n.op_type == "MatMul" and ("/domain/" in n.name or n.input[0] in fixed)]
    quantize_static(src, to, Feeds(feeds), quant_format=QuantFormat.QDQ, op_types_to_quantize=["MatMul"], per_channel=True, nodes_to_exclude=keep,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
                    extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]})


def unsigned(path: str) -> None:
    """Weights from -127 to 127 become such from 1 to 255, around 128. CPUs that have no sums of four products of 8 bits (AVX2, AVX-512 without VNNI)
    cut off sums of two where weights have a sign."""
    m = onnx.load(path)
    of = {d.input[i] for d in m.graph.node if d.op_type == "DequantizeLinear" for i in (0, 2)}
    for w in m.graph.initializer:
        if w.data_type == onnx.TensorProto.INT8 and w.name in of:
            w.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(w).astype(np.int16) + 128).astype(np.uint8), w.name))
    onnx.save(m, path)


def blocks(src: str, to: str, size: int = 32) -> None:
    """A token at a time, the decoder is bound by the reading of weights: 8 bits, a scale for each block of `size`."""
    q = MatMulNBitsQuantizer(onnx.load(src), algo_config=DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=True, accuracy_level=4, bits=8))
    q.process()
    onnx.save(q.model.model, to)


def set_domain(path: str, d: Domain) -> None:
    m = onnx.load(path)
    want = {tuple(t.shape): t.numpy() for t in (d.mean, d.whiten)}
    found = 0
    for w in m.graph.initializer:
        if w.name.split(".")[-1] in ("mean", "whiten") and tuple(w.dims) in want:
            w.CopyFrom(numpy_helper.from_array(want[tuple(w.dims)], w.name))
            found += 1
    if found != 2:
        raise SystemExit(f"{path}: {found} of the domain's two constants are there")
    onnx.save(m, path)


def graphs(c: Config, data: Shards, dir: str) -> None:
    """Encoder, temporal module and decoder of the folder, in place."""
    f = lambda n: os.path.join(dir, n)
    with tempfile.TemporaryDirectory() as tmp:
        t = lambda n: os.path.join(tmp, n)
        enc, tem = session(f("encoder.onnx")), session(f("temporal.onnx"))
        static(f("encoder.onnx"), t("encoder.onnx"), frames(data, FRAMES))
        static(f("temporal.onnx"), t("temporal.onnx"), steps(c, data, enc, tem, CLIPS))
        unsigned(t("encoder.onnx")), unsigned(t("temporal.onnx"))
        blocks(f("decoder.onnx"), t("decoder.onnx"))
        for n in os.listdir(tmp):
            os.replace(t(n), f(n))
