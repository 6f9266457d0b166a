"""The LLM swap, by LLaVA's recipe (Liu et al. 2023): a language model that knows nothing of pictures stays frozen, and a connector
learns to give it the embedded model's visual tokens as if they were words; low-rank adapters (Hu et al. 2021), merged at the end,
and a row for each of our own special tokens learn with it.

The connector begins as a dictionary: its last layer is solved, by least squares, so that each visual token is the sum of the
embeddings of the words for who is in its cell, in which colour, and what they do. That takes seconds and no run of the language
model, which then reads from the first step on.
"""
from __future__ import annotations

import json
import os
import random
import shutil

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from yard.labels import COLORS, KINDS

from . import cache, export, finish, quantize, talk_stage
from .common import Clock, adamw, log, save
from .data import SPECIAL
from .model import Config, Decoder, Temporal, TextTower

NAME = "lookout-yard-smollm2"
RANK = 16      # of the adapters
PAIRS = 120    # clips that the dictionary is made of
POINTS = 9     # after this block a head asks which visual token is told of
CLIPS, EACH = 4, 2  # clips a step, moments a clip
MEANS = {"<|pad|>": "<|im_end|>", "<|bos|>": "<|im_start|>", "<|end|>": "<|im_end|>", "<|frame|>": " picture", "<|describe|>": " describe", "<|changes|>": " changes",
         "<|ask|>": " question", "<|answer|>": " answer", "<|nothing|>": " nothing", "<|cannot_tell|>": " unknown"}  # what a new row begins as
SAYS = ["nothing", "enters", "leaves", "stopped", "starts", "turns back", "drops", "picks up", "falls", "gets up", "moves", "carries a box", "lies", "stands"]
CARD = """# {name}

SmolLM2-135M-Instruct (Apache-2.0, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), frozen, behind Lookout's embedded encoder and temporal
module. A connector and low-rank adapters of rank {rank} (merged into the weights) were trained on {clips:,} clips of the simulated yard by
`make swap`; the same limits hold as for the embedded model. Its scores are in docs/swap.md.

| score | value |
|---|---|
{scores}
"""


def read_safetensors(path: str) -> dict[str, torch.Tensor]:
    """float32 tensors, mapped from the file."""
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        head = json.loads(f.read(n))
    raw = np.memmap(path, np.uint8, "c", offset=8 + n)
    return {k: torch.from_numpy(raw[slice(*v["data_offsets"])].view(np.float32).reshape(v["shape"])) for k, v in head.items() if k != "__metadata__"}


def config(lm: str) -> Config:
    """The sizes of a Llama in `lm`, behind the embedded model's encoder, with our special tokens behind its vocabulary."""
    with open(os.path.join(lm, "config.json")) as f:
        j = json.load(f)
    if j["model_type"] != "llama" or not j["tie_word_embeddings"] or j.get("rope_scaling") or abs(j["rms_norm_eps"] - 1e-5) > 1e-7:
        raise SystemExit(f"{lm} is not a Llama with a tied head, plain RoPE and an epsilon of 1e-5")
    return Config(width=j["hidden_size"], dec_layers=j["num_hidden_layers"], heads=j["num_attention_heads"], kv_heads=j["num_key_value_heads"], head_dim=j["head_dim"],
                  ffn=j["intermediate_size"], vocab=j["vocab_size"] + len(SPECIAL), rope_theta=j["rope_theta"], frames_in_window=1)


def tokenizer(lm: str, path: str) -> Tokenizer:
    """The language model's, with our special tokens behind its own; written to `path`."""
    tok = Tokenizer.from_file(os.path.join(lm, "tokenizer.json"))
    tok.add_special_tokens(SPECIAL)
    tok.save(path)
    return tok


class Words(nn.Module):
    """The frozen table of word embeddings, and behind it the rows that are trained. Read as an nn.Embedding is."""

    def __init__(self, table, mine):
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.mine = nn.Parameter(mine)

    def forward(self, ids):
        k = ids - len(self.table)
        return torch.where((k >= 0)[..., None], F.embedding(k.clamp(min=0), self.mine), F.embedding(ids.clamp(max=len(self.table) - 1), self.table))

    @property
    def weight(self):
        return self

    def __getitem__(self, i: int):
        return self(torch.tensor(i))


class LoRA(nn.Module):
    """A frozen matrix with a low-rank change."""

    def __init__(self, base: nn.Linear, rank: int = RANK):
        super().__init__()
        self.base = base
        self.a, self.b = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features ** -0.5), nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + (x @ self.a.T) @ self.b.T

    def merged(self):
        return self.base.weight + self.b @ self.a


class Adapted(Decoder):
    """A frozen Llama that learns by its adapters and by the rows of our special tokens."""

    MATRICES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}

    def __init__(self, c: Config, weights: dict, tok: Tokenizer):
        with torch.device("meta"):  # random weights that are overwritten at once would take a minute
            super().__init__(c)
        self.to_empty(device="cpu")
        table = weights["model.embed_tokens.weight"].clone()
        self.embed = Words(table, torch.stack([table[tok.encode(MEANS[s]).ids].mean(0) for s in SPECIAL]))
        for p in [*self.blocks.parameters(), *self.norm.parameters()]:
            p.requires_grad_(False)
        self.norm.w.copy_(weights["model.norm.weight"])
        for i, b in enumerate(self.blocks):
            p = f"model.layers.{i}."
            b.n1.w.copy_(weights[p + "input_layernorm.weight"]), b.n2.w.copy_(weights[p + "post_attention_layernorm.weight"])
            for ours, theirs in self.MATRICES.items():
                getattr(b, ours).weight.copy_(weights[p + theirs + ".weight"])
                setattr(b, ours, LoRA(getattr(b, ours)))

    def logits(self, h):
        return torch.cat([h @ self.embed.table.T, h @ self.embed.mine.T], -1)

    def learned(self) -> dict:
        return {k: p.detach() for k, p in self.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def merged(self) -> Decoder:
        """The same as one plain decoder."""
        with torch.device("meta"):
            out = Decoder(self.c)
        out.to_empty(device="cpu")
        out.embed.weight.copy_(torch.cat([self.embed.table, self.embed.mine]))
        out.norm.w.copy_(self.norm.w)
        for to, b in zip(out.blocks, self.blocks):
            to.n1.w.copy_(b.n1.w), to.n2.w.copy_(b.n2.w)
            for name in self.MATRICES:
                getattr(to, name).weight.copy_(getattr(b, name).merged())
        return out


def connect(small: Temporal, c: Config, norm: float) -> Temporal:
    """The frozen temporal module, its connector followed by one to the language model's width, whose tokens begin as long as words."""
    t = Temporal(c)
    for part in ("blocks", "norm", "connector", "look", "scene"):
        setattr(t, part, getattr(small, part).requires_grad_(False))
    bridge = nn.Sequential(nn.LayerNorm(small.c.width), nn.Linear(small.c.width, 2 * c.width), nn.GELU(), nn.Linear(2 * c.width, c.width))
    with torch.no_grad():
        bridge[-1].weight.mul_(norm / bridge(torch.randn(256, small.c.width)).norm(dim=-1).mean())
    t.bridge = bridge
    return t


class Dictionary:
    """What a visual token is called: the sum of the embeddings of the words for who is in its cell, in which colour, what they do, which way."""

    def __init__(self, tok: Tokenizer, table):
        word = lambda s: table[tok.encode(" " + s).ids].mean(0)
        still = torch.zeros(table.shape[1])
        self.words = {"kind": torch.stack([word("empty"), *(word(k) for k in KINDS[1:])]), "color": torch.stack([still, *(word(k) for k in COLORS[1:])]),
                      "clause": torch.stack([still, *(word(k) for k in SAYS[1:])]), "way": torch.stack([still, word("left"), word("right")])}

    def names(self, d):
        """Dense targets [B,F,T] -> [B,F,T,C], and how much each counts."""
        on = d["kind"] > 0
        out = self.words["kind"][d["kind"]]
        for k in ("color", "clause", "way"):
            said = on & torch.isin(d["clause"], talk_stage.GOES) if k == "way" else on
            out = out + self.words[k][d[k]] * said[..., None]
        return out, torch.where(on, 1.0, 0.05)

    @torch.no_grad()
    def teach(self, temporal: Temporal, train: talk_stage.Clips, clips: int = PAIRS, at_once: int = 4) -> float:
        """Solves the last layer of the bridge; the share of the variance of names that it leaves over."""
        layer = temporal.bridge[-1]
        n = layer.in_features + 1
        xx, xy = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, layer.out_features, dtype=torch.float64)
        seen = {}
        hook = layer.register_forward_pre_hook(lambda _, a: seen.update(x=a[0][:, : temporal.c.cells]))
        for lo in range(0, clips, at_once):
            x, d = train.batch([(i % len(train), 0) for i in range(lo, lo + at_once)])
            temporal(x, torch.arange(x.shape[1]).expand(at_once, -1))
            y, w = self.names(d)
            h = F.pad(seen["x"], (0, 1), value=1.0).flatten(0, -2)
            y, w = y.flatten(0, -2), w.flatten()[:, None]
            xx += (h * w).T @ h
            xy += (h * w).T @ y
        hook.remove()
        best = torch.linalg.solve(xx + 1e-3 * xx.diag().mean() * torch.eye(n), xy)
        layer.weight.copy_(best[:-1].T), layer.bias.copy_(best[-1])
        # How much of them is left over, of clips that it was not made of.
        x, d = train.batch([(len(train) - 1 - i, 0) for i in range(at_once)])
        y, w = self.names(d)
        got = temporal(x, torch.arange(x.shape[1]).expand(at_once, -1))[1][:, :, : temporal.c.cells]
        w = (w * (d["kind"] > 0))[..., None]
        mean = (y * w).sum((0, 1, 2)) / w.sum()
        return float((((got - y) ** 2) * w).sum() / (((y - mean) ** 2) * w).sum())


def prepare(lm: str, out: str):
    c = config(lm)
    tok = tokenizer(lm, os.path.join(out, "tokenizer-swap.json"))
    weights = read_safetensors(os.path.join(lm, "model.safetensors"))
    small, talk = Temporal(Config()), torch.load(os.path.join(out, "talk.pt"), weights_only=True)
    small.load_state_dict(talk["temporal"])
    dec = Adapted(c, weights, tok)
    return talk["step"], c, tok, dec, connect(small, c, dec.embed.table.norm(dim=-1).mean().item())


def manifest(base: str, encoder_step: int) -> dict:
    """The embedded bundle's, if its encoder is the one that the connector learns behind."""
    with open(os.path.join(base, "manifest.json")) as f:
        m = json.load(f)
    if (has := m["scores"]["encoder_steps"]) != encoder_step:
        raise SystemExit(f"{base} has an encoder of {has} steps, the checkpoint is of {encoder_step}: run `python -m vlm finish` first")
    return m


def run(lm: str, base: str, data_dir: str, out: str, minutes: float, to: str, lr: float = 1e-3) -> None:
    torch.manual_seed(3)
    talked, c, tok, dec, temporal = prepare(lm, out)
    heads, pk = talk_stage.Heads(c), talk_stage.Packer(c, tok)
    bridge = temporal.connector[1]
    opt = adamw(bridge, heads, dec, lr=lr)
    ck, step, used = os.path.join(out, "swap.pt"), 0, 0.0
    if os.path.exists(ck) and (s := torch.load(ck, weights_only=True))["talk_step"] == talked:  # else the visual tokens are others
        bridge.load_state_dict(s["bridge"]), heads.load_state_dict(s["heads"]), dec.load_state_dict(s["dec"], strict=False), opt.load_state_dict(s["opt"])
        step, used = s["step"], s["used"]
    enc = cache.load_encoder(Config(), out)
    manifest(base, enc[1])
    train = talk_stage.Clips(c, data_dir, out, "train", *enc)
    if not step:
        log(dictionary="fitted", left=Dictionary(tok, dec.embed.table).teach(temporal, train))
    clock, r = Clock(minutes, lr, used), random.Random(step + 5)
    params = [p for g in opt.param_groups for p in g["params"]]
    last, avg = clock.spent(), {}
    log(stage="swap", learned=sum(p.numel() for p in params), of=sum(p.numel() for p in dec.parameters()) + dec.embed.table.numel(), share=clock.share())
    while clock.share() < 1:
        clock.set_lr(opt)
        picks = [(r.randrange(len(train)), 0) for _ in range(CLIPS)]
        x, d = train.batch(picks)
        x = x + torch.randn_like(x) * 0.02
        state, visual = temporal(x, torch.arange(x.shape[1]).expand(CLIPS, -1))
        parts = {"dense": sum(talk_stage.dense_loss(heads, state, visual, d).values())}
        rows, point = pk.moments(train, picks, x.shape[1], EACH, r)
        h, pos, mask, label, weight, plen = pk.pack(dec, visual, rows, c.frames_in_window, talk_stage.MISHEARD)
        for k, b in enumerate(dec.blocks):
            h = b(h, pos, mask)
            if k == POINTS:
                parts["point"] = F.cross_entropy(heads.point(F.layer_norm(h[:, plen:], h.shape[-1:])).flatten(0, 1), point.flatten(), ignore_index=-100)
        on = label >= 0
        ce = F.cross_entropy(dec.logits(dec.norm(h[:, plen:][on])), label[on], reduction="none")
        parts["words"] = (ce * weight[on]).sum() / weight[on].sum()
        loss = parts["words"] + 0.2 * parts["point"] + 0.02 * parts["dense"]
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        for k, v in parts.items():
            avg[k] = 0.95 * avg.get(k, v.item()) + 0.05 * v.item()
        if step % 10 == 0:
            log(step=step, share=clock.share(), **avg)
        if clock.spent() - last > 240 or clock.share() >= 1:
            last = clock.spent()
            save(ck, bridge=bridge.state_dict(), heads=heads.state_dict(), dec=dec.learned(), opt=opt.state_dict(), step=step, talk_step=talked, used=clock.spent())
    write(c, tok, data_dir, out, base, to, temporal, dec.merged(), heads, step, len(train))


def write(c: Config, tok: Tokenizer, data_dir: str, out: str, base: str, to: str, temporal, dec, heads, step: int, trained: int, clips: int = 48) -> None:
    """Scores on validation clips, calibration, and the bundle: what sees comes from the embedded one in `base`, the rest is written
    in fp32, checked against PyTorch, and the decoder turned into 8 bits."""
    small = Config()
    enc, enc_step = cache.load_encoder(small, out)
    text = TextTower(small)
    text.load_state_dict(torch.load(os.path.join(out, "encoder.pt"), weights_only=True)["text"])
    m = manifest(base, enc_step)
    for x in (temporal, dec, heads, text):
        x.eval()
    val, pk = talk_stage.Clips(c, data_dir, out, "val", enc, enc_step), talk_stage.Packer(c, tok)
    temp, cal = finish.temperature(finish.yesno(c, pk, val, temporal, dec, clips))
    got = talk_stage.evaluate(c, pk, val, temporal, dec, heads, clips)
    temporal.eval(), dec.eval()
    scores = {"where": "validation clips, PyTorch", "clips": clips, "encoder_steps": enc_step, "swap_steps": step, "description_recall": got["recall"], "description_false": got["false"],
              "changes_exact": got["chg_exact"], "changes_nothing": got["chg_nothing"], **cal}
    scores = {k: round(v, 4) if isinstance(v, float) else v for k, v in scores.items()}
    log(scores=scores, temperature=temp)
    os.makedirs(to, exist_ok=True)
    f = lambda name: os.path.join(to, name)
    for name, new in (("encoder.onnx", "encoder.onnx"), ("text.onnx", "text.onnx"), ("tokenizer.json", "text_tokenizer.json")):
        shutil.copyfile(os.path.join(base, name), f(new))
    export.speech(to, c, temporal, dec)
    if (differ := max(check(to, c, temporal, dec))) > 1e-3:
        raise SystemExit(f"a graph differs from PyTorch by {differ}")
    quantize.blocks(f("decoder.onnx"), f("decoder.onnx"))
    shutil.copyfile(os.path.join(out, "tokenizer-swap.json"), f("tokenizer.json"))
    with open(f("MODEL_CARD.md"), "w") as card:
        card.write(CARD.format(name=NAME, rank=RANK, clips=trained, scores="\n".join(f"| {k} | {v} |" for k, v in scores.items())))
    export.manifest(to, c, f("tokenizer.json"), text, {
        "name": NAME, "domain": m["domain"], "calibration": {"yesno_temperature": temp}, "scores": scores, "precision": "int8", "trained_on": m["trained_on"]})


@torch.no_grad()
def check(dir: str, c: Config, temporal, dec) -> tuple[float, float]:
    """How far the connector's and the decoder's graphs are from PyTorch, relative to the values' own size."""
    feed = [torch.randn(2, c.patches, c.dim), torch.arange(c.window, 0, -1).expand(2, -1), *(torch.randn(2, c.window, c.patches, c.dim) for _ in range(2 * c.temporal_layers))]
    got = export.session(os.path.join(dir, "temporal.onnx")).run(["visual"], dict(zip(export.streams(c)[0], (t.numpy() for t in feed))))[0]
    want = export.TemporalGraph(temporal)(*feed)[0].numpy()
    h = dec.embed(torch.randint(c.vocab, (1, 40)))
    logits = dec.logits(dec(h, torch.arange(40)[None], torch.ones(40, 40, dtype=torch.bool).tril()[None, None]))[:, [29, 30, 39]].numpy()
    said = export.run_decoder(export.session(os.path.join(dir, "decoder.onnx")), c, np.split(h.numpy(), [30, 31], 1))
    return tuple(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in ((got, want), (said, logits)))
