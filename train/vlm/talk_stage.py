"""Stage B: temporal module, connector and decoder together, on the frozen encoder's tokens.

The words follow from dense targets (what each visual token should know), which teach many times faster than words do;
so the first share of the time is theirs alone.
"""
from __future__ import annotations

import copy
import dataclasses
import math
import os
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from yard.labels import COLORS, HELD_OUT, KINDS, LIGHT, MODEL_FPS, WEATHER
from yard.language import NOTHING, Teller

from . import cache, reader, repaint, targets
from .common import Clock, adamw, chance, log, restore_chance, save
from .data import Shards
from .encoder_stage import UNASKED
from .model import Config, Decoder, Temporal

GOES = torch.tensor([targets.CLAUSE[k] for k in ("enter", "leave", "start", "turn_back", "moving", "carrying")])
PACK = 112   # text tokens that share one visual prefix
ALONE = 0.12  # share of the time without words
# What a sentence, or an answer, must have to be told; of a relation the sentences before it count in: it speaks of those that they named.
SURE = {"describe_probability": 0.3, "relation_probability": 0.5, "changes_probability": 0.6, "answer_probability": 0.7}
LEAD = 150  # steps in which heads that begin anew learn alone
MISHEARD = 0.2  # share of the colours told so far that are changed
UNASK = 0.9  # share of the colours and kinds that are learned without asking for those that no picture shows together (encoder_stage.UNASKED)
POINTS = 2  # after this block of the decoder a head asks which visual token is told of


class Heads(nn.Module):
    """Dense supervision; not exported."""

    def __init__(self, c: Config):
        super().__init__()
        n = {"kind": len(KINDS), "color": len(COLORS), "clause": len(targets.CLAUSES), "way": 3, "side": 3, "fresh": 2}
        self.cell = nn.ModuleDict({k: nn.Linear(c.width, v) for k, v in n.items()})
        self.pos = nn.Linear(c.width, 1)
        self.pclause, self.pway = nn.Linear(c.dim, len(targets.CLAUSES)), nn.Linear(c.dim, 3)
        self.pvx = nn.Linear(c.dim, 1)
        self.point = nn.Linear(c.width, c.tokens)  # which visual token a word of a description is about
        self.flags, self.scene = nn.Linear(c.width, len(targets.FRAME_FLAGS)), nn.Linear(c.width, 3 + 4 + 3 + 2)


class Clips:
    """Cached tokens and everything true of them; clip i, or its mirror image."""

    def __init__(self, c: Config, data_dir: str, out: str, split: str, enc, step: int, mirror: bool = False):
        self.data = Shards(os.path.join(data_dir, split))
        self.tok = [cache.tokens(enc, c, self.data, os.path.join(out, f"tokens-{split}-{step}.npy"), False)]
        if mirror:
            self.tok.append(cache.tokens(enc, c, self.data, os.path.join(out, f"tokens-{split}-mirror-{step}.npy"), True))
        self.truth = cache.truths(os.path.join(data_dir, split), os.path.join(out, f"truth-{split}.pkl"))
        self.memo, self.effect = {}, None

    def __len__(self):
        return len(self.data)

    def grids(self, i: int, m: int) -> dict:
        g = self.data.grids(i)
        return {k: v[:, :, ::-1] for k, v in g.items()} | {"vx": -g["vx"][:, :, ::-1]} if m else g

    def scene(self, i: int, m: int, coats: dict | None = None):
        """The scene of a clip, some of its actors in other coats, and its truth."""
        s, t, _ = self.get(i, m)
        if coats:
            s = copy.copy(s)
            s.actors = [dataclasses.replace(a, color=coats.get(a.id, a.color)) for a in s.actors]
            t = [[dict(a, color=coats.get(a["id"], a["color"])) for a in f] for f in t]
        return s, t

    def dense(self, i: int, m: int, coats: dict | None = None) -> dict:
        d = self.get(i, m)[2]
        return d | {"color": targets.dense(*self.scene(i, m, coats), self.grids(i, m)["actor"])["color"].astype(np.int8)} if coats else d

    def get(self, i: int, m: int):
        """The scene of clip i, or of its mirror image; its truth; the dense targets."""
        if (i, m) not in self.memo:
            s, t = self.data.scene(i), self.truth[i]
            g = self.grids(i, m)
            if m:
                s, t = targets.mirror_scene(s), [targets.mirror_truth(a) for a in t]
            d, vx = targets.dense(s, t, g["actor"]), g["vx"].astype(np.float32)
            d["vx"] = vx.reshape(len(t), -1) / 24
            n = self.data.frames
            line = self.data.lines[i]
            d["scene"] = np.array([(LIGHT.index(line["light"]), WEATHER.index(line["weather"]), self.data.gate(i, f), self.data.lamps(i, f)) for f in range(n)])
            self.memo[i, m] = (s, t, {k: v.astype(np.float32 if v.dtype == np.float32 else np.int8) for k, v in d.items()})
        return self.memo[i, m]

    def pick(self, r: random.Random):
        """A clip to learn from: (clip, mirrored, new coats)."""
        i, m = r.randrange(len(self)), r.randrange(len(self.tok))
        if self.effect is None:
            self.effect = repaint.effects(self.data, self.tok[0])
        return i, m, repaint.choose(self.get(i, m)[0].actors, r)

    def tokens(self, i: int, m: int, coats: dict | None = None) -> np.ndarray:
        x = self.tok[m][i]
        return repaint.repaint(x, self.grids(i, m), self.get(i, m)[0].actors, coats, self.effect) if coats else x.astype(np.float32)

    def batch(self, picks):
        x = torch.from_numpy(np.stack([self.tokens(*p) for p in picks]))
        ds = [self.dense(*p) for p in picks]
        return x, {k: torch.from_numpy(np.stack([d[k] for d in ds])) if ds[0][k].dtype == np.float32 else torch.from_numpy(np.stack([d[k] for d in ds])).long() for k in ds[0]}

    def teller(self, pick, seed, plain=0.9):
        s, t = self.scene(*pick)
        return Teller(s, lambda at: t[min(int(round(at * MODEL_FPS)), len(t) - 1)], seed, plain)


def anchors(tell: Teller, frames: int, n: int, r: random.Random) -> list[int]:
    """Moments to speak of: half of them soon after something happened; few so soon that it cannot be seen yet."""
    ev = [e["t"] for e in tell.events]
    near = [f for f in range(2, frames) if any(0.25 <= f / MODEL_FPS - t < 2.0 for t in ev)]
    out = []
    while len(out) < n:
        f = r.choice(near) if near and r.random() < 0.5 else r.randrange(2, frames)
        t = f / MODEL_FPS
        if any(0 <= t - e < 0.25 or 1.9 < t - e < 2.1 for e in ev) and r.random() < 0.7:
            continue
        out.append(f)
    return out


class Packer:
    """Lays texts behind one visual prefix: each text sees the prefix's last frames and itself, never its neighbours."""

    def __init__(self, c: Config, tok):
        self.c, self.tok = c, tok
        self.id = {k: tok.token_to_id(f"<|{k}|>") for k in ("bos", "frame", "describe", "changes", "ask", "answer", "nothing", "end", "pad")}
        self.yesno = {tok.token_to_id("yes"), tok.token_to_id("no")}
        self.stop = tok.encode(".").ids[0]
        self.colors = torch.tensor([tok.encode(" " + k).ids[0] for k in COLORS[1:]])

    def points(self, tell: Teller, t: float, answer: list[int]) -> list[int]:
        """For each token of a description, the visual token of the actor that its sentence is about; -100 where none is."""
        r = tell.relation(t)
        about = tell.order(t) + ([r[0]] if r else [])
        cells, k, out = [targets.cell((a["box"][0] + a["box"][2]) / 2, (a["box"][1] + a["box"][3]) / 2) for a in about], 0, []
        for i in answer:
            out.append(cells[k] if k < len(cells) else -100)
            k += i == self.stop
        return out

    def moments(self, clips: Clips, picks, frames: int, each: int, r: random.Random):
        """`each` moments of every clip as (clip, frame, texts), and which visual token each text token is about [rows, PACK]."""
        rows, point = [], torch.full((len(picks) * each, PACK), -100)
        for j, pick in enumerate(picks):
            tell = clips.teller(pick, r.randrange(1 << 30))
            for f in anchors(tell, frames, each, r):
                texts = self.texts(tell, f / MODEL_FPS, r)
                p, a = texts[0]
                if p == self.prompt("describe"):
                    point[len(rows), len(p) - 1 : len(p) - 1 + len(a)] = torch.tensor(self.points(tell, f / MODEL_FPS, a))
                rows.append((j, f, texts))
        return rows, point

    def misheard(self, ids, told, share: float):
        """Some colours of what is told so far are changed, so that a kind is read from the picture and not guessed from its colour."""
        at = torch.isin(ids, self.colors) & told & (torch.rand(ids.shape) < share)
        return torch.where(at, self.colors[torch.randint(len(self.colors), ids.shape)], ids)

    def prompt(self, task: str, q: str = "") -> list[int]:
        return [self.id[task]] + (self.tok.encode(q).ids if q else []) + [self.id["answer"]]

    def texts(self, tell: Teller, t: float, r: random.Random) -> list[tuple[list[int], list[int]]]:
        """(prompt, answer) pairs that fit together; the description comes first."""
        e = lambda s: self.tok.encode(s).ids + [self.id["end"]]
        out = [(self.prompt("describe"), e(tell.describe(t)))]
        if r.random() < 0.9:
            out.append((self.prompt("changes"), e(tell.changes(t))))
        qa = tell.qa(t)
        r.shuffle(qa)
        out += [(self.prompt("ask", q["q"]), e(q["a"])) for q in qa]
        n, keep = 0, []
        for p, a in out:
            if n + len(p) + len(a) > PACK:
                continue
            n += len(p) + len(a)
            keep.append((p, a))
        return keep

    def pack(self, decoder: Decoder, visual, rows, n_frames: int, mishear: float = 0.0):
        """visual [B,F,T,C]; rows (clip, frame, texts). -> inputs [A,L,C], positions, mask, labels, weights over the text part."""
        c, A = self.c, len(rows)
        T, W = c.tokens, c.frames_in_window
        per = 1 + T
        nb = max(n_frames - W, 0) + 1  # a <|bos|> for each window there was: it stands just before the window's first frame
        plen = nb + n_frames * per
        ids = torch.full((A, PACK), self.id["pad"])
        pos = torch.zeros(A, PACK, dtype=torch.long)
        seg = torch.full((A, PACK), -1)
        label = torch.full((A, PACK), -100)
        weight = torch.zeros(A, PACK)
        start = torch.zeros(A, dtype=torch.long)  # the first frame of the prefix that is there
        for a, (_, f, texts) in enumerate(rows):
            start[a] = max(n_frames - 1 - f, 0)
            k = 0
            for j, (p, ans) in enumerate(texts):
                s = p + ans
                ids[a, k : k + len(s)] = torch.tensor(s)
                pos[a, k : k + len(s)] = 1 + n_frames * per + torch.arange(len(s))
                seg[a, k : k + len(s)] = j
                lo = k + len(p) - 1
                label[a, lo : lo + len(ans)] = torch.tensor(ans)
                weight[a, lo : lo + len(ans)] = 1.0
                if ans[0] in self.yesno or len(ans) == 2:
                    weight[a, lo] = 2.0
                k += len(s)
        clip = torch.tensor([x[0] for x in rows])
        frame = torch.tensor([x[1] for x in rows])
        fr = frame[:, None] + torch.arange(-n_frames + 1, 1)                                  # [A,n]
        v = visual[clip[:, None], fr.clamp(min=0)]                                            # [A,n,T,C]
        told = F.pad(label[:, :-1] >= 0, (1, 0))
        ids = self.misheard(ids, told, mishear)
        mark = decoder.embed.weight[self.id["frame"]].expand(A, n_frames, 1, -1)
        x = torch.cat([decoder.embed.weight[self.id["bos"]].expand(A, nb, -1), torch.cat([mark, v], 2).flatten(1, 2), decoder.embed(ids)], 1)
        block = torch.cat([torch.full((nb,), -1), torch.arange(n_frames).repeat_interleave(per)])  # which frame a place belongs to
        bos = torch.cat([torch.arange(nb), torch.full((n_frames * per,), -1)])                  # or whose window's <|bos|> it is
        L = torch.arange(plen)
        open_ = (block - W + 1).clamp(min=0)                                                    # the window a frame was seen in
        pp = (block[:, None] >= 0) & (L[:, None] >= L[None]) & (block[None] >= open_[:, None])
        pb = (block[:, None] >= 0) & (bos[None] >= 0)
        first = torch.maximum(open_[None], start[:, None]).clamp(max=nb - 1)                    # [A,plen] each row's window start
        there = block[None] >= start[:, None]
        mp = (pp[None] & there[:, None]) | (pb[None] & (bos[None, None] == first[:, :, None]))
        last = start.clamp(min=nb - 1) if nb > 1 else torch.zeros_like(start)
        seen = (there & (block >= n_frames - W)[None]) | (bos[None] == last.clamp(max=nb - 1)[:, None])
        tp = seen[:, None].expand(A, PACK, plen)
        tt = (seg[:, :, None] == seg[:, None]) & torch.ones(PACK, PACK, dtype=torch.bool).tril()
        mask = torch.zeros(A, 1, plen + PACK, plen + PACK, dtype=torch.bool)
        mask[:, 0, :plen, :plen], mask[:, 0, plen:, :plen], mask[:, 0, plen:, plen:] = mp, tp, tt
        mask |= torch.eye(plen + PACK, dtype=torch.bool)
        # Only differences of positions matter. Where the stream has just begun, <|bos|> stands before its first frame.
        bpos = torch.arange(nb)[None] * per + torch.zeros(A, 1, dtype=torch.long)
        bpos[:, nb - 1] = torch.maximum(bpos[:, nb - 1], start * per)
        ppos = torch.cat([bpos, (1 + torch.arange(n_frames * per)).expand(A, -1)], 1)
        return x, torch.cat([ppos, pos], 1), mask, label, weight, plen


class Unasked:
    """Which words are no answer when a colour or a kind is learned: those of the pairs that no picture shows. A picture of a blue bicycle says
    that it is blue; that it is not red would be learned of every bicycle there is. One of a black van says that it is a van; that it is no car
    would be learned of all that is black."""

    KIND, ARTICLE = len(KINDS), len(KINDS) + 1  # rows of `words` behind those of the kinds: for the word behind a colour, for the one before a coat's

    def __init__(self, tok, vocab: int):
        first = lambda s: tok.encode(s).ids[0]
        self.end, self.coat = first("<|end|>"), first(" coat")
        self.colors = {first(c): i for i, k in enumerate(COLORS) if i for c in (k, " " + k)}
        self.kind = {self.coat if k == "person" else first(" " + k): i for i, k in enumerate(KINDS) if UNASKED[i].any()}  # by the word behind the colour
        self.words = torch.zeros(len(KINDS) + 2, len(COLORS), vocab, dtype=torch.bool)  # by kind and colour of what is told of; colour 0: not told so far
        for c, k in HELD_OUT:
            i, j = KINDS.index(k), COLORS.index(c)
            self.words[i, :, [first(c), first(" " + c)]] = True
            if k == "person":
                self.words[: self.KIND, j, first(" person")] = True  # it comes before its coat's colour
                if c[0] in "aeio":
                    self.words[self.ARTICLE, 0, first(" an")] = True  # "in an" says which colour comes
            else:
                self.words[self.KIND, j, first(" " + k)] = True
        self.words = self.words.flatten(0, 1)

    def answer(self, prompt: list[int], answer: list[int]) -> list[int]:
        """For each token of an answer the row of `words`; 0 has none."""
        out = [0] * len(answer)
        row = lambda kind, color: kind * len(COLORS) + color
        for j, i in enumerate(answer):
            if i not in self.colors:
                continue
            n, c = answer[j + 1], self.colors[i]
            if n == self.end:  # "what colour is the van?"
                out[j] = next((row(self.kind[p], 0) for p in reversed(prompt) if p in self.kind), 0)
            elif n == self.coat:
                out[j], out[j - 1] = row(self.kind[n], 0), row(self.ARTICLE, 0)
            else:
                out[j], out[j + 1] = row(self.kind.get(n, 0), c), row(self.KIND, c)
        return out

    def rows(self, rows, share: float):
        """As Packer.pack lays texts: [A, PACK]; a share of it."""
        out = torch.zeros(len(rows), PACK, dtype=torch.long)
        for a, (_, _, texts) in enumerate(rows):
            k = 0
            for p, ans in texts:
                k += len(p)
                out[a, k - 1 : k - 1 + len(ans)] = torch.tensor(self.answer(p, ans))
                k += len(ans)
        return out * (torch.rand(out.shape) < share)

    def ce(self, logits, label, rows):
        """Cross-entropy of N labels. What is true is asked of all."""
        return F.cross_entropy(logits.masked_fill(self.words[rows].scatter(1, label[:, None], False), -1e4), label, reduction="none")


def dense_loss(heads: Heads, state, visual, d) -> dict:
    out, m = {}, visual[:, :, -1]  # the scene's
    visual = visual[:, :, : d["kind"].shape[2]]  # the places
    kind = d["kind"]
    on = (kind > 0).float()
    n = on.sum().clamp(min=1)
    ce = lambda l, y: F.cross_entropy(l.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
    w = torch.where(kind > 0, 1.0, 0.25)
    unasked = lambda t, k: t & (torch.rand(kind.shape) < UNASK)[..., None] & ~F.one_hot(d[k], t.shape[-1]).bool()
    out["kind"] = (ce(heads.cell["kind"](visual).masked_fill(unasked(UNASKED.T[d["color"]], "kind"), -1e4), kind) * w).sum() / w.sum()
    goes = torch.isin(d["clause"], GOES).float()  # which way somebody looks who stands still is not said, and often not to be seen
    for k in ("color", "clause", "side", "fresh"):
        l = heads.cell[k](visual)
        if k == "color":
            l = l.masked_fill(unasked(UNASKED[kind], k), -1e4)
        out[k] = (ce(l, d[k]) * on).sum() / n * (0.5 if k in ("side", "fresh") else 1.0)
    out["way"] = (ce(heads.cell["way"](visual), d["way"]) * on * goes).sum() / (on * goes).sum().clamp(min=1)
    out["pos"] = 2 * (((heads.pos(visual).sigmoid().squeeze(-1) - d["pos"]) ** 2) * on).sum() / n
    fg = (d["pclause"] > 0).float()
    out["pclause"] = (ce(heads.pclause(state), d["pclause"]) * torch.where(fg > 0, 1.0, 0.1)).sum() / fg.sum().clamp(min=1)
    pg = fg * torch.isin(d["pclause"], GOES).float()
    out["pway"] = (ce(heads.pway(state), d["pway"]) * pg).sum() / pg.sum().clamp(min=1)
    out["pvx"] = 2 * (((heads.pvx(state).squeeze(-1) - d["vx"]) ** 2) * fg).sum() / fg.sum().clamp(min=1)
    out["flags"] = 2 * F.binary_cross_entropy_with_logits(heads.flags(m), d["flags"])
    s = heads.scene(m).split([3, 4, 3, 2], -1)
    out["scene"] = 0.2 * sum(F.cross_entropy(l.flatten(0, 1), d["scene"][..., i].flatten()) for i, l in enumerate(s))
    return out


@torch.no_grad()
def speak(c, pk: Packer, temporal, dec, visual, rows, prompt, limit=90) -> list[list[tuple[str, float]]]:
    """Greedy answers as sentences, each with its probability: for checking only. rows (clip, frame), all frame >= frames_in_window."""
    n = c.frames_in_window
    x0, _, _, _, _, plen = pk.pack(dec, visual, [(i, f, []) for i, f in rows], n)
    x = torch.cat([x0[:, :plen], dec.embed(torch.tensor(prompt)).expand(len(rows), -1, -1)], 1)
    caches = [None] * c.dec_layers
    ids, logp, out = [[] for _ in rows], [0.0] * len(rows), [[] for _ in rows]
    done = [False] * len(rows)
    pos0 = 0
    for _ in range(limit):
        S = x.shape[1]
        pos = (pos0 + torch.arange(S)).expand(len(rows), -1)
        mask = (pos0 + torch.arange(S))[:, None] >= torch.arange(pos0 + S)[None]
        h = x
        for i, b in enumerate(dec.blocks):
            h, caches[i] = b.cached(h, pos, mask, caches[i])
        best, nxt = dec.logits(dec.norm(h[:, -1])).log_softmax(-1).max(-1)
        pos0 += S
        for j, t in enumerate(nxt.tolist()):
            done[j] |= t == pk.id["end"]
            if done[j]:
                continue
            ids[j].append(t)
            logp[j] += best[j].item()
            if t in (pk.stop, pk.id["nothing"]):
                out[j].append((pk.tok.decode(ids[j], skip_special_tokens=False).strip(), math.exp(logp[j])))
                ids[j], logp[j] = [], 0.0
        if all(done):
            break
        x = dec.embed(nxt)[:, None]
    return out


def told(said, least: float, relation: float = 0.0) -> list[tuple[str, str]]:
    """Of (sentences, true text) pairs: what is left when sentences less likely than `least` are left out, and relations than `relation` (0: they count as any)."""
    text = lambda s: "" if NOTHING in s else s
    sure = lambda a, i: math.prod(p for _, p in a[: i + 1]) >= relation if relation and i and a[i][0].startswith("The ") else a[i][1] >= least
    return [(" ".join(text(s) for i, (s, _) in enumerate(a) if sure(a, i)), text(b)) for a, b in said]


@torch.no_grad()
def evaluate(c, pk, val: Clips, temporal, dec, heads, clips=64, words=True, show=4) -> dict:
    temporal.eval(), dec.eval(), heads.eval()
    r = random.Random(11)
    hit = {k: [0.0, 0.0] for k in ("kind", "color", "clause", "way")}
    desc, chg, yn, qa = [], [], [], []
    for lo in range(0, clips, 16):
        picks = [(i, 0) for i in range(lo, min(lo + 16, clips))]
        x, d = val.batch(picks)
        state, visual = temporal(x, torch.arange(x.shape[1]).expand(len(picks), -1))
        on = d["kind"] > 0
        for k in hit:
            p = heads.cell[k](visual[:, :, : c.cells]).argmax(-1)
            at = on & torch.isin(d["clause"], GOES) if k == "way" else on
            hit[k][0] += (p == d[k])[at].float().sum().item()
            hit[k][1] += at.sum().item()
        if not words:
            continue
        rows, refs, crefs, qrows = [], [], [], []
        for j, (i, m) in enumerate(picks):
            tell = val.teller((i, m), i, plain=1.0)
            for f in anchors(tell, x.shape[1], 2, r):
                if f < c.frames_in_window or any(0 <= f / MODEL_FPS - e["t"] < 0.25 or 1.75 < f / MODEL_FPS - e["t"] < 2.25 for e in tell.events):
                    continue
                rows.append((j, f)), refs.append(tell.describe(f / MODEL_FPS)), crefs.append(tell.changes(f / MODEL_FPS))
                qrows.append((j, f, [(pk.prompt("ask", q["q"]), pk.tok.encode(q["a"]).ids + [pk.id["end"]]) for q in tell.qa(f / MODEL_FPS)][:7]))
        desc += zip(speak(c, pk, temporal, dec, visual, rows, pk.prompt("describe")), refs)
        chg += zip(speak(c, pk, temporal, dec, visual, rows, pk.prompt("changes"), 40), crefs)
        for a in range(0, len(qrows), 16):
            part = qrows[a : a + 16]
            part = [(j, f, [x for k, x in enumerate(t) if sum(len(p) + len(s) for p, s in t[: k + 1]) <= PACK]) for j, f, t in part]
            xx, pos, mask, label, weight, plen = pk.pack(dec, visual, part, c.frames_in_window)
            lg = dec.logits(dec(xx, pos, mask)[:, plen:])
            first = (label >= 0) & (weight == 2)
            y, n = pk.tok.token_to_id("yes"), pk.tok.token_to_id("no")
            lf, tf = lg[first], label[first]
            b = (tf == y) | (tf == n)
            yn.append(torch.stack([(lf[b][:, y] - lf[b][:, n]), (tf[b] == y).float()], 1))
            qa.append((lf.argmax(-1) == tf).float())
    out = {"cell_" + k: a / max(b, 1) for k, (a, b) in hit.items()}
    if words:
        for a, b in told(desc, 0)[:show]:
            print("   said:", a, "\n   true:", b, flush=True)
        for least in sorted({0.0, *SURE.values()}):
            log(sentences_from=least, **{f"{name}_{k}": v for name, said in (("describe", desc), ("changes", chg)) for k, v in reader.score(told(said, least, least)).items() if k in ("recall", "false")})
        desc, chg = told(desc, SURE["describe_probability"], SURE["relation_probability"]), told(chg, SURE["changes_probability"])
        out |= reader.score(desc)
        out["chg_exact"] = float(np.mean([(reader.facts(a) == reader.facts(b)) for a, b in chg]))
        out["chg_nothing"] = float(np.mean([(a == "") == (b == "") for a, b in chg]))
        z = torch.cat(yn)
        out["yesno_acc"] = ((z[:, 0] > 0) == (z[:, 1] > 0)).float().mean().item()
        p, q = z[z[:, 1] > 0, 0], z[z[:, 1] == 0, 0]
        out["auroc"] = ((p[:, None] > q[None]).float().mean() + 0.5 * (p[:, None] == q[None]).float().mean()).item()
        out["qa_first"] = torch.cat(qa).mean().item()
    temporal.train(), dec.train(), heads.train()
    return out


def run(c: Config, tok, data_dir: str, out: str, minutes: float, mirror: bool = False, bf16: bool = False, batch: int = 4, per_clip: int = 8, lr: float = 1.8e-3,
        steps: int | None = None) -> None:
    torch.manual_seed(2)
    temporal, dec, heads = Temporal(c), Decoder(c), Heads(c)
    opt = adamw(temporal, dec, heads, lr=lr)
    ck, step, used, lead, s = os.path.join(out, "talk.pt"), 0, 0.0, 0, {}
    if os.path.exists(ck):
        s = torch.load(ck, weights_only=True)
        temporal.load_state_dict(s["temporal"]), dec.load_state_dict(s["dec"])
        if "heads" in s:  # they are not in what `adopt` read from a bundle
            heads.load_state_dict(s["heads"]), opt.load_state_dict(s["opt"])
        step, used = s["step"], s["used"]
        lead = s.get("lead", 0) if "heads" in s else step + LEAD
    enc = cache.load_encoder(c, out)
    val, train = Clips(c, data_dir, out, "val", *enc), Clips(c, data_dir, out, "train", *enc, mirror=mirror)
    clock, r, pk, unasked = Clock(minutes, lr, used, steps, step, s.get("begun", 0)), random.Random(step + 7), Packer(c, tok), Unasked(tok, c.vocab)
    params = [p for m in (temporal, dec, heads) for p in m.parameters()]
    last, avg = clock.spent(), {}
    if s.get("chance"):
        restore_chance(s["chance"], r)
    while clock.share() < 1:
        words = step >= lead if lead else clock.share() >= ALONE  # an adopted decoder speaks already
        temporal.requires_grad_(step >= lead)
        clock.set_lr(opt, 0.02)
        picks = [train.pick(r) for _ in range(batch)]
        x, d = train.batch(picks)
        x = x + torch.randn_like(x) * 0.02
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            state, visual = (y.float() for y in temporal(x, torch.arange(x.shape[1]).expand(batch, -1)))
        parts = dense_loss(heads, state, visual, d)
        loss = sum(parts.values())
        if words:
            rows, point = pk.moments(train, picks, x.shape[1], per_clip, r)
            xx, pos, mask, label, weight, plen = pk.pack(dec, visual, rows, r.choice([1, 2, 2, 3]), MISHEARD)
            for k, b in enumerate(dec.blocks):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    xx = b(xx, pos, mask)
                if k == POINTS and (point >= 0).any():
                    parts["point"] = F.cross_entropy(heads.point(xx[:, plen:]).flatten(0, 1), point.flatten(), ignore_index=-100)
            h = dec.norm(xx[:, plen:])
            on = label >= 0
            ce = unasked.ce(dec.logits(h[on]), label[on], unasked.rows(rows, UNASK)[on])
            parts["words"] = (ce * weight[on]).sum() / weight[on].sum()
            loss = 0.5 * loss + 3 * parts["words"] + 0.5 * parts.get("point", 0)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        clock.step = step = step + 1
        for k, v in parts.items():
            avg[k] = 0.95 * avg.get(k, v.item()) + 0.05 * v.item()
        if step % 50 == 0:
            log(step=step, share=clock.share(), views=len(train.tok), **avg)
        if clock.spent() - last > 540 or clock.share() >= 1:
            last = clock.spent()
            save(ck, temporal=temporal.state_dict(), dec=dec.state_dict(), heads=heads.state_dict(), opt=opt.state_dict(), step=step, begun=clock.begun, lead=lead, used=clock.spent(), chance=chance(r), config=c.dict())
            with torch.random.fork_rng():  # it comes when the clock says so
                log(eval="val", **evaluate(c, pk, val, temporal, dec, heads, 24 if clock.share() < 1 else 120, words))
