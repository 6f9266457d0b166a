"""The last stage: calibration of yes and no, the bundle in fp32 (kept beside the checkpoints) and in 8 bits, the distance from the domain of each."""
from __future__ import annotations

import os
import random
import shutil

import numpy as np
import torch
import torch.nn.functional as F

from yard.labels import MODEL_FPS

from . import cache, export, quantize, talk_stage
from .common import log, save
from .data import Shards
from .model import Config, Decoder, Domain, Encoder, Temporal, TextTower

MARGIN = 1.05  # above the farthest of the validation frames: a camera's every frame is asked


@torch.no_grad()
def domain(enc: Encoder, graph: str, name: str, c: Config, data_dir: str, out: str) -> tuple[Domain, float]:
    """The distance, of the tokens that `graph` gives, and its threshold: a little above the farthest frame of the validation
    clips. Strange pictures play no part in it. `name` says which encoder it is."""
    path = os.path.join(out, "domain.pt")
    d = Domain(c)
    known = torch.load(path, weights_only=True) if os.path.exists(path) else {}
    if name in known:
        d.load_state_dict(known[name]["domain"])
        return d, known[name]["threshold"]
    s = export.session(graph)

    def features(px):
        stem = enc.stem_tokens(torch.from_numpy(px))
        return Domain.features(stem, torch.from_numpy(s.run(["tokens"], {"pixels": px})[0]))

    d = cache.fit_domain(features, c, Shards(os.path.join(data_dir, "train")), frames=5000, shrink=0.0003)
    val = Shards(os.path.join(data_dir, "val"))
    far = torch.cat([((features(np.ascontiguousarray(val.pixels(i)[3::6])) - d.mean) @ d.whiten).pow(2).mean(-1) for i in range(len(val))])
    t = MARGIN * float(far.max())
    log(domain=name, median=float(far.median()), p99=float(far.quantile(0.99)), threshold=t)
    save(path, **known, **{name: {"domain": d.state_dict(), "threshold": t}})
    return d, t


@torch.no_grad()
def yesno(c: Config, pk: talk_stage.Packer, val: talk_stage.Clips, temporal: Temporal, dec: Decoder, clips: int = 200) -> torch.Tensor:
    """[n,2]: logit of yes minus logit of no, and whether yes is right; over questions about the validation clips."""
    r, out = random.Random(21), []
    y, n = pk.tok.token_to_id("yes"), pk.tok.token_to_id("no")
    for lo in range(0, clips, 16):
        picks = [(i, 0) for i in range(lo, min(lo + 16, clips))]
        x, _ = val.batch(picks)
        _, visual = temporal(x, torch.arange(x.shape[1]).expand(len(picks), -1))
        rows = []
        for j, (i, m) in enumerate(picks):
            tell = val.teller((i, m), 1000 + i)
            for f in talk_stage.anchors(tell, x.shape[1], 3, r):
                if f >= c.frames_in_window:
                    qs = [(pk.prompt("ask", q["q"]), pk.tok.encode(q["a"]).ids + [pk.id["end"]]) for q in tell.qa(f / MODEL_FPS) if q["a"][:2] in ("ye", "no")][:7]
                    rows.append((j, f, qs))
        xx, pos, mask, label, weight, plen = pk.pack(dec, visual, rows, c.frames_in_window)
        lg = dec.logits(dec(xx, pos, mask)[:, plen:])
        at = (label == y) | (label == n)
        out.append(torch.stack([lg[at][:, y] - lg[at][:, n], (label[at] == y).float()], 1))
    return torch.cat(out)


def temperature(z: torch.Tensor) -> tuple[float, dict[str, float]]:
    """The temperature of least cross entropy, and what remains of the calibration error."""
    best = min((F.binary_cross_entropy_with_logits(z[:, 0] / t, z[:, 1]).item(), t) for t in np.exp(np.linspace(-1.5, 1.5, 121)).tolist())[1]
    p = (z[:, 0] / best).sigmoid()
    bins = (p * 10).long().clamp(max=9)
    ece = sum(((p[bins == b].mean() - z[bins == b, 1].mean()).abs() * (bins == b).float().mean()).item() for b in range(10) if (bins == b).any())
    a, b = z[z[:, 1] > 0, 0], z[z[:, 1] == 0, 0]
    auc = ((a[:, None] > b[None]).float().mean() + 0.5 * (a[:, None] == b[None]).float().mean()).item()
    return best, {"yesno_n": len(z), "yesno_auroc": auc, "yesno_ece": ece, "yesno_accuracy": ((z[:, 0] > 0) == (z[:, 1] > 0)).float().mean().item()}


def run(c: Config, tok, data_dir: str, out: str, to: str, card: str, clips: int = 120) -> None:
    torch.manual_seed(0)
    s = torch.load(os.path.join(out, "encoder.pt"), weights_only=True)
    enc, text, temporal, dec, heads = Encoder(c), TextTower(c), Temporal(c), Decoder(c), talk_stage.Heads(c)
    enc.load_state_dict(s["enc"]), text.load_state_dict(s["text"])
    t = torch.load(os.path.join(out, "talk.pt"), weights_only=True)
    temporal.load_state_dict(t["temporal"]), dec.load_state_dict(t["dec"]), heads.load_state_dict(t["heads"])
    for m in (enc, text, temporal, dec, heads):
        m.eval()
    val = talk_stage.Clips(c, data_dir, out, "val", enc, s["step"])
    pk = talk_stage.Packer(c, tok)
    temp, cal = temperature(yesno(c, pk, val, temporal, dec, clips))
    got = talk_stage.evaluate(c, pk, val, temporal, dec, heads, clips)
    for m in (temporal, dec, heads):
        m.eval()
    scores = {"where": "validation clips, PyTorch", "clips": clips, "encoder_steps": s["step"], "talk_steps": t["step"],
              "description_recall": got["recall"], "description_false": got["false"], "noun_recall": got["noun_recall"], "noun_false": got["noun_false"],
              "changes_exact": got["chg_exact"], "changes_nothing": got["chg_nothing"], **cal}
    scores = {k: round(v, 4) if isinstance(v, float) else v for k, v in scores.items()}
    px = np.ascontiguousarray(val.data.pixels(0)[:3])
    meta = {"version": "1", "calibration": {"yesno_temperature": temp} | talk_stage.SURE, "scores": scores,
            "trained_on": "clips of six seconds of a simulated yard, rendered from seeds and really encoded (H.264, VP8)"}
    path, plain = os.path.join(out, "tokenizer.json"), os.path.join(out, "bundle-fp32")
    diff = export.write(plain, c, path, enc, Domain(c), text, temporal, dec, meta, px)
    log(scores=scores, temperature=temp, differ=max(diff.values()))
    if max(diff.values()) > 1e-3:
        raise SystemExit(f"a graph differs from PyTorch: {diff}")
    for dir, precision in ((plain, "fp32"), (to, "int8")):
        if dir == to:
            shutil.copytree(plain, to, dirs_exist_ok=True)
            quantize.graphs(c, Shards(os.path.join(data_dir, "train")), to)
        graph = os.path.join(dir, "encoder.onnx")
        d, t = domain(enc, graph, f"{s['step']}-{precision}", c, data_dir, out)
        quantize.set_domain(graph, d)
        if os.path.exists(card):
            with open(card) as f, open(os.path.join(dir, "MODEL_CARD.md"), "w") as g:
                g.write(f.read().replace("{{scores}}", "\n".join(f"| {k} | {v} |" for k, v in scores.items())))
        export.manifest(dir, c, path, text, meta | {"domain": {"threshold": t}, "precision": precision})
    log(int8_differs={k: round(v, 4) for k, v in export.check(to, c, enc, d, text, temporal, dec, px).items()})
