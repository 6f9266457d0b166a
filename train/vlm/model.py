"""The small video-language model: visual encoder, temporal module, text tower, decoder.

Shapes: N frames, P patches (16x9), D width, E embedding, T visual tokens a frame, C decoder width, W window of frames.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from yard.labels import COLORS, GRID_H, GRID_W, KINDS


@dataclass
class Config:
    dim: int = 128
    enc_layers: int = 4
    enc_heads: int = 4
    embed: int = 128
    temporal_layers: int = 2
    window: int = 16
    sky: int = 3      # rows of patches in which nobody's middle ever is: they are told of by the scene's token alone
    merge_h: int = 2  # rows below them that share a token
    looks: int = 4    # weighted means of the whole picture that the scene's token is made of
    width: int = 192
    dec_layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 512
    vocab: int = 640
    rope_theta: float = 10000.0
    frames_in_window: int = 2

    @property
    def patches(self) -> int:
        return GRID_W * GRID_H

    @property
    def cells(self) -> int:
        """Visual tokens that stand for a place."""
        return GRID_W * ((GRID_H - self.sky) // self.merge_h)

    @property
    def tokens(self) -> int:
        return self.cells + 1

    dict = asdict


class MLP(nn.Module):
    def __init__(self, d: int, k: int = 4):
        super().__init__()
        self.a, self.b = nn.Linear(d, k * d), nn.Linear(k * d, d)

    def forward(self, x):
        return self.b(F.gelu(self.a(x)))


def attend(q, k, v, bias=None):
    """Softmax attention written out: at these lengths it trains twice as fast on a CPU as the fused kernel."""
    s = (q * int(q.shape[-1]) ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        s = s + bias.to(s.dtype)
    return s.softmax(-1).to(v.dtype) @ v


class MultiHead(torch.autograd.Function):
    """Attention [B,S,D] as a graph has it: one operator, for which runtimes have kernels, in place of ten."""

    @staticmethod
    def forward(ctx, q, k, v, heads: int):
        split = lambda y: y.unflatten(-1, (heads, -1)).transpose(1, 2)
        return attend(split(q), split(k), split(v)).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(g, q, k, v, heads: int):
        return g.op("com.microsoft::MultiHeadAttention", q, k, v, num_heads_i=heads).setType(q.type())


class RingAttention(torch.autograd.Function):
    """Attention of each patch place to what it was in the frames before (`ring_attention`), as a graph has it: one operator of our own,
    for which Lookout has a kernel. `export.ring_function` is what it is made of, for all others."""

    @staticmethod
    def forward(ctx, *args):
        return ring_attention(*args)

    @staticmethod
    def symbolic(g, q, *rest):
        return g.op("lookout.video::RingAttention", q, *rest).setType(q.type())


def ring_attention(q, k, v, ring_k, ring_v, age, age_bias, age_key):
    """q, k, v [B,P,D] of the new frame; ring_k, ring_v [B,W,P,D] and age [B,W] (0: empty slot) of those before; age_bias [H,W+1] and
    age_key [W+1,D] what an age adds to the scores of a head and to a key -> [B,P,D]."""
    (P, D), W, H = map(int, q.shape[1:]), int(age.shape[1]), int(age_bias.shape[0])
    heads, scale = lambda y: y.reshape(-1, *map(int, y.shape[1:-1]), H, D // H), (D // H) ** -0.5
    qh, kh, vh, ring_k, ring_v = (heads(y) for y in (q, k, v, ring_k, ring_v))        # [B,P,H,hd], [B,W,P,H,hd]
    # The ring is read where it lies, the new frame beside it: joining them would copy the ring twice.
    a = age.clamp(0, W)
    by_age = qh.transpose(1, 2) @ heads(age_key[a]).permute(0, 2, 3, 1)              # [B,H,P,W]
    past = (qh.unsqueeze(1) * ring_k).sum(-1).permute(0, 3, 2, 1) + by_age           # [B,H,P,W]
    past = past * scale + age_bias[:, a].transpose(0, 1).unsqueeze(2)
    past = past.masked_fill(((age <= 0) | (age > W))[:, None, None], -1e9)
    own = (qh * (kh + heads(age_key[:1]))).sum(-1) * scale + age_bias[:, 0]
    s = torch.cat([past, own.transpose(1, 2).unsqueeze(-1)], -1).softmax(-1).permute(0, 3, 2, 1).unsqueeze(-1)
    # Summed over the ring by a product with ones: ONNX Runtime's ReduceSum over an outer axis takes seven times as long.
    flat = lambda y: y.reshape(-1, *map(int, y.shape[1:-3]), P * D)
    y = torch.ones(1, W) @ flat(s[:, :-1] * ring_v) + flat(s[:, -1:] * vh.unsqueeze(1))
    return y.reshape(-1, P, D)


class Attention(nn.Module):
    """Multi-head attention over the last but one axis; `bias` is added to the scores."""

    def __init__(self, d: int, heads: int, fixed: bool = True):
        super().__init__()
        self.d, self.h, self.fixed = d, heads, fixed
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def sizes(self, x) -> list[int]:
        """Of x [...,D] without the last. If `fixed`, all but the first are numbers to the export: else its graph computes them, at a tenth of its time."""
        return [-1, *(map(int, x.shape[1:-1]) if self.fixed else x.shape[1:-1])]

    def heads(self, x):
        return x.reshape(*self.sizes(x), self.h, self.d // self.h)

    def split(self, x):
        return self.heads(x).transpose(-2, -3)

    def forward(self, x, bias=None):
        q, k, v = self.qkv(x).split(self.d, -1)
        if torch.onnx.is_in_onnx_export() and self.fixed and bias is None:
            return self.out(MultiHead.apply(q, k, v, self.h))
        q, k, v = map(self.split, (q, k, v))
        y = attend(q, k, v, bias).transpose(-2, -3)
        return self.out(y.reshape(*self.sizes(x), self.d))


class Block(nn.Module):
    def __init__(self, d: int, heads: int, k: int = 4, fixed: bool = True):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn, self.mlp = Attention(d, heads, fixed), MLP(d, k)

    def forward(self, x, bias=None):
        x = x + self.attn(self.n1(x), bias)
        return x + self.mlp(self.n2(x))


class Encoder(nn.Module):
    """Pixels to patch tokens. A convolutional stem (Xiao et al. 2021, "Early convolutions help transformers see better")."""

    def __init__(self, c: Config):
        super().__init__()
        layers = [(3, 64, 7, 4), (64, 128, 3, 2), (128, c.dim, 3, 2)]
        self.stem = nn.Sequential(*[m for i, o, k, s in layers for m in (
            nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU())], nn.Conv2d(c.dim, c.dim, 1))
        self.pos = nn.Parameter(torch.randn(1, c.patches, c.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(c.dim, c.enc_heads) for _ in range(c.enc_layers))
        self.norm = nn.LayerNorm(c.dim)
        self.patch_proj, self.image_proj = nn.Linear(c.dim, c.embed), nn.Linear(c.dim, c.embed)
        self.pool = nn.Linear(c.dim, 1)

    @staticmethod
    def planes(pixels):
        """uint8 [N,H,W,3] -> [N,3,H,W], what the stem reads."""
        return pixels.permute(0, 3, 1, 2).to(torch.float32) * (1 / 58.0) - 2.0

    def stem_tokens(self, pixels):
        """uint8 [N,H,W,3] -> [N,P,D], before any attention."""
        return self.stem(self.planes(pixels).contiguous(memory_format=torch.channels_last)).reshape(-1, self.pos.shape[2], self.pos.shape[1]).transpose(1, 2)

    def forward(self, pixels):
        """uint8 [N,H,W,3] -> tokens [N,P,D]."""
        return self.body(self.stem_tokens(pixels))

    def body(self, stem):
        x = stem + self.pos
        for b in self.blocks:
            x = b(x)
        return self.norm(x)

    def embeds(self, tokens):
        """tokens -> image_embed [N,E], patch_embed [N,P,E], both unit length."""
        w = self.pool(tokens).softmax(1)
        return F.normalize(self.image_proj((w * tokens).sum(1)), dim=-1), F.normalize(self.patch_proj(tokens), dim=-1)


class Domain(nn.Module):
    """How far a picture is from the training domain: Mahalanobis distance of pooled features, as a share of their number."""

    def __init__(self, c: Config):
        super().__init__()
        n = 4 * c.dim
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("whiten", torch.eye(n))

    @staticmethod
    def features(stem, tokens):
        """Mean and spread of each channel over the patches, before and after attention. [N,4D]"""
        out = []
        for x in (stem, tokens):
            m = x.mean(1)
            out += [m, ((x - m[:, None]) ** 2).mean(1).add(1e-6).sqrt()]
        return torch.cat(out, -1)

    def forward(self, stem, tokens):
        z = (self.features(stem, tokens) - self.mean) @ self.whiten
        return (z * z).mean(-1)


class EncoderHeads(nn.Module):
    """Dense supervision from the simulator; not exported."""

    def __init__(self, c: Config):
        super().__init__()
        self.cls, self.color, self.cover = nn.Linear(c.dim, len(KINDS)), nn.Linear(c.dim, len(COLORS)), nn.Linear(c.dim, 1)
        self.light, self.weather, self.gate, self.lamps = (nn.Linear(c.dim, n) for n in (3, 4, 3, 2))
        self.count, self.gate_patch, self.body = nn.Linear(c.dim, len(KINDS)), nn.Linear(c.dim, 3), nn.Linear(c.dim, 4)


class TextTower(nn.Module):
    def __init__(self, c: Config, layers: int = 2, length: int = 16):
        super().__init__()
        d = c.embed
        self.tok, self.pos = nn.Embedding(c.vocab, d), nn.Parameter(torch.randn(1, length, d) * 0.02)
        self.blocks = nn.ModuleList(Block(d, 4, fixed=False) for _ in range(layers))  # texts have any length
        self.norm, self.out = nn.LayerNorm(d), nn.Linear(d, d)
        self.scale, self.bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-5.0))

    def forward(self, ids, mask):
        ids, mask = ids[:, : self.pos.shape[1]], mask[:, : self.pos.shape[1]]  # what is longer is cut
        x = self.tok(ids) + self.pos[:, : ids.shape[1]]
        bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(mask == 0, -1e9)[:, None, None, :]
        for b in self.blocks:
            x = b(x, bias)
        m = mask[..., None].to(x.dtype)
        return F.normalize(self.out((self.norm(x) * m).sum(1) / m.sum(1)), dim=-1)


class TemporalBlock(nn.Module):
    """Divided space-time attention (Bertasius et al. 2021), causal in time: first over the same patch place in the
    last W frames, then within the frame: a depthwise convolution over the neighbouring places, and attention over all."""

    def __init__(self, c: Config):
        super().__init__()
        self.c, self.h = c, c.enc_heads
        self.nt, self.t = nn.LayerNorm(c.dim), Attention(c.dim, c.enc_heads)
        # Each head begins by looking so many frames back: what moves shows as the difference between them.
        back = torch.tensor([1.0, 2.0, 4.0, 8.0]).repeat(c.enc_heads)[: c.enc_heads].clamp(max=c.window)
        self.age = nn.Parameter(-1.5 * (torch.arange(c.window + 1)[None] - back[:, None]).abs().clamp(max=6))
        self.age_key = nn.Parameter(torch.randn(c.window + 1, c.dim) * 0.02)
        nn.init.normal_(self.t.out.weight, std=0.05)
        nn.init.zeros_(self.t.out.bias)
        self.place = nn.Parameter(torch.randn(c.patches, c.dim) * 0.02)
        self.nc, self.near = nn.LayerNorm(c.dim), nn.Conv2d(c.dim, c.dim, 3, padding=1, groups=c.dim)
        self.mix = nn.Linear(c.dim, c.dim)
        self.space = Block(c.dim, c.enc_heads, 2)

    def within(self, x):
        """Within the frame [N,P,D]: first the neighbouring places (where was it a moment ago?), then all of them."""
        d = self.c.dim
        y = self.nc(x).transpose(1, 2).reshape(-1, d, GRID_H, GRID_W)
        y = self.near(y).reshape(-1, d, self.c.patches).transpose(1, 2)
        return self.space(x + self.mix(F.gelu(y)) + self.place)

    def forward(self, x, ticks):
        """x [B,F,P,D]; ticks [B,F] when each frame was taken, in samples. Parallel over frames, equal to `step`."""
        B, Fr, P, D = x.shape
        q, k, v = self.t.qkv(self.nt(x)).transpose(1, 2).chunk(3, -1)           # [B,P,F,D]
        q, k, v = (self.t.split(y) for y in (q, k, v))                          # [B,P,H,F,hd]
        age = ticks[:, :, None] - ticks[:, None, :]                             # [B,F,F]
        ok = (age >= 0) & (age <= self.c.window)
        a = age.clamp(0, self.c.window)
        bias = self.age[:, a].transpose(0, 1).float()                           # [B,H,F,F]
        ek = self.age_key.unflatten(-1, (self.h, -1)).transpose(0, 1)           # [H,W+1,hd]
        bias = bias[:, None] + (torch.einsum("bphfd,hwd->bphfw", q.float(), ek.float()) * q.shape[-1] ** -0.5).gather(
            -1, a[:, None, None].expand(B, P, self.h, Fr, Fr))
        bias = bias.masked_fill(~ok[:, None, None], -1e9)
        y = attend(q, k, v, bias)
        x = x + self.t.out(y.transpose(-2, -3).flatten(-2).transpose(1, 2))
        return self.within(x.flatten(0, 1)).unflatten(0, (B, Fr))

    def step(self, x, ring_k, ring_v, age):
        """One frame: x [B,P,D], ring_k and ring_v [B,W,P,D], age [B,W] (0: empty slot) -> x, new_k, new_v [B,P,D]."""
        q, k, v = self.t.qkv(self.nt(x)).split(self.c.dim, -1)
        ring = RingAttention.apply if torch.onnx.is_in_onnx_export() else ring_attention
        y = ring(q, k, v, ring_k, ring_v, age, self.age, self.age_key)
        return self.within(x + self.t.out(y)), k, v


class Temporal(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.blocks = nn.ModuleList(TemporalBlock(c) for _ in range(c.temporal_layers))
        self.norm = nn.LayerNorm(c.dim)
        self.connector = nn.Sequential(nn.Linear(c.dim * c.merge_h, c.width * 2), nn.GELU(), nn.Linear(c.width * 2, c.width))
        self.look, self.scene = nn.Linear(c.dim, c.looks), nn.Linear(c.dim * c.looks, c.width)
        self.bridge = nn.Identity()  # to the width of another language model

    def pool(self, x):
        """[...,P,D] -> visual tokens [...,T,C]: the patches of each place on the ground side by side, as pixel shuffle does, and
        behind them one token of the whole picture, for the light, the weather, the gate."""
        c, lead = self.c, [*map(int, x.shape[1:-2])]
        x = x.reshape(-1, GRID_H, GRID_W, c.dim)
        y = x[:, c.sky :].reshape(-1, (GRID_H - c.sky) // c.merge_h, c.merge_h, GRID_W, c.dim).permute(0, 3, 1, 2, 4)  # columns first: words go from left to right
        y = self.connector(y.reshape(-1, c.cells, c.merge_h * c.dim))
        x = x.reshape(-1, c.patches, c.dim)
        whole = self.scene((self.look(x).softmax(1).transpose(1, 2) @ x).reshape(-1, 1, c.looks * c.dim))
        return self.bridge(torch.cat([y, whole], 1)).reshape(-1, *lead, c.tokens, c.width)

    def forward(self, x, ticks):
        for b in self.blocks:
            x = b(x, ticks)
        x = self.norm(x)
        return x, self.pool(x)

    def step(self, x, age, ring_k, ring_v):
        """One frame: x [B,P,D], age [B,W], a ring [B,W,P,D] of keys and one of values for each layer -> visual tokens [B,T,C], x, and what
        is new of keys and values [B,P,D] for each layer."""
        new_k, new_v = [], []
        for b, k, v in zip(self.blocks, ring_k, ring_v):
            x, k, v = b.step(x, k, v, age)
            new_k.append(k)
            new_v.append(v)
        x = self.norm(x)
        return self.pool(x), x, new_k, new_v


def rope(x, pos, theta: float):
    """Half-split rotary embedding (Su et al. 2021). x [B,H,S,hd], pos [B,S]."""
    hd = x.shape[-1]
    inv = theta ** (-torch.arange(0, hd, 2, device=x.device, dtype=torch.float32) / hd)
    a = pos[:, None, :, None].float() * inv
    c, s = a.cos(), a.sin()
    x1, x2 = x.float().chunk(2, -1)
    return torch.cat([x1 * c - x2 * s, x2 * c + x1 * s], -1).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.w = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5) * self.w).to(x.dtype)


class DecoderBlock(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.n1, self.n2 = RMSNorm(c.width), RMSNorm(c.width)
        self.q = nn.Linear(c.width, c.heads * c.head_dim, bias=False)
        self.k, self.v = (nn.Linear(c.width, c.kv_heads * c.head_dim, bias=False) for _ in range(2))
        self.o = nn.Linear(c.heads * c.head_dim, c.width, bias=False)
        self.gate, self.up = (nn.Linear(c.width, c.ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(c.ffn, c.width, bias=False)

    def forward(self, x, pos, mask):
        return self.cached(x, pos, mask, None)[0]

    def cached(self, x, pos, mask, past):
        """`past` holds the keys and values so far; they come back with the new ones behind them."""
        c, y = self.c, self.n1(x)
        q, k, v = (p(y).unflatten(-1, (-1, c.head_dim)).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = rope(q, pos, c.rope_theta), rope(k, pos, c.rope_theta)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        rep = c.heads // c.kv_heads
        y = attend(q, k.repeat_interleave(rep, 1), v.repeat_interleave(rep, 1), torch.zeros(mask.shape).masked_fill_(~mask, -1e9))
        x = x + self.o(y.transpose(1, 2).flatten(-2))
        y = self.n2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), (k, v)


class Decoder(nn.Module):
    """A Llama-style decoder; the output head shares the embedding."""

    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab, c.width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList(DecoderBlock(c) for _ in range(c.dec_layers))
        self.norm = RMSNorm(c.width)

    def forward(self, x, pos, mask):
        for b in self.blocks:
            x = b(x, pos, mask)
        return self.norm(x)

    def logits(self, h):
        return h @ self.embed.weight.T.to(h.dtype)
