"""What the later stages train on, made once: each clip's patch tokens from the frozen encoder (also of the mirrored picture),
and what is true in each of its frames. Also fits the distance from the training domain."""
from __future__ import annotations

import glob
import multiprocessing
import os
import pickle

import numpy as np
import torch

from yard.labels import MODEL_FPS, MODEL_H, MODEL_W
from yard.scene import truth

from .common import log
from .data import Shards
from .model import Config, Domain, Encoder

CHUNK = 96  # frames a forward pass


def _truths(job) -> list:
    data, ids = job
    out = []
    for i in ids:
        s = data.scene(i)
        out.append([truth(s, f / MODEL_FPS)[0] for f in range(data.frames)])
    return out


_data: Shards | None = None


def _init(folder: str) -> None:
    global _data
    _data = Shards(folder)


def _work(ids) -> list:
    return _truths((_data, ids))


def truths(folder: str, path: str, workers: int = 2) -> list:
    """Per clip, per frame: the actors of scene.truth."""
    out, n = [], len(Shards(folder))
    if os.path.exists(path):
        with open(path, "rb") as f:
            out = pickle.load(f)
    if len(out) >= n:
        return out
    jobs = [range(i, min(i + 50, n)) for i in range(len(out), n, 50)]
    with multiprocessing.get_context("spawn").Pool(workers, _init, (folder,)) as pool:
        out += [t for part in pool.imap(_work, jobs) for t in part]
    with open(path + ".tmp", "wb") as f:
        pickle.dump(out, f)
    os.replace(path + ".tmp", path)
    return out


def tokens(enc: Encoder, c: Config, data: Shards, path: str, mirror: bool) -> np.ndarray:
    """float16 [clips, frames, patches, dim] on disk. ONNX Runtime is several times faster at this than PyTorch.
    `path` ends in the encoder's step; what an earlier encoder made is removed."""
    if os.path.exists(path) and len(have := np.load(path, mmap_mode="r")) >= len(data):
        return have
    for old in glob.glob(path.rsplit("-", 1)[0] + "-[0-9]*.npy"):
        os.remove(old)
    from . import export
    graph, tmp = f"{path}.{os.getpid()}.onnx", f"{path}.{os.getpid()}.tmp"
    export.trace(export.EncoderGraph(enc, Domain(c)), (torch.zeros(2, MODEL_H, MODEL_W, 3, dtype=torch.uint8),), graph, ["pixels"],
                 ["tokens", "image_embed", "patch_embed", "distance"], {"pixels": {0: "n"}, "tokens": {0: "n"}})
    s = export.session(graph)
    out = np.lib.format.open_memmap(tmp, "w+", np.float16, (len(data), data.frames, c.patches, c.dim))
    for i in range(len(data)):
        px = data.pixels(i)
        out[i] = s.run(["tokens"], {"pixels": np.ascontiguousarray(px[:, :, ::-1] if mirror else px)})[0]
        if i % 100 == 0:
            log(cache=os.path.basename(path), clips=i, of=len(data))
    out.flush()
    del out
    os.replace(tmp, path)
    os.remove(graph)
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def fit_domain(features, c: Config, data: Shards, frames: int = 6000, shrink: float = 0.02) -> Domain:
    """Mean and whitening of the pooled features (uint8 [N,H,W,3] -> [N,4D]) over frames of the training clips."""
    r = np.random.default_rng(3)
    feats = []
    for _ in range(0, frames, CHUNK):
        px = np.stack([data.pixels(int(r.integers(len(data))))[int(r.integers(data.frames))] for _ in range(CHUNK)])
        feats.append(features(px))
    x = torch.cat(feats).double()
    mean = x.mean(0)
    cov = (x - mean).T @ (x - mean) / len(x)
    cov += shrink * torch.diag(cov.diag().clamp(min=1e-6))
    val, vec = torch.linalg.eigh(cov)
    d = Domain(c)
    d.mean.copy_(mean.float())
    d.whiten.copy_((vec * val.clamp(min=1e-9).rsqrt()).float())
    return d


def load_encoder(c: Config, out: str) -> tuple[Encoder, int]:
    """The encoder, and the step that it was trained to."""
    enc = Encoder(c).to(memory_format=torch.channels_last)
    s = torch.load(os.path.join(out, "encoder.pt"), weights_only=True)
    enc.load_state_dict(s["enc"])
    return enc.eval(), s["step"]
