"""Trains the embedded model, stage by stage. Run from train/: python -m vlm encoder --minutes 60

Each stage goes on from its checkpoint, so it may be interrupted at any time and started again with the same words.
"""
import argparse
import os

import numpy as np
import torch
from tokenizers import Tokenizer

from yard.labels import MODEL_H, MODEL_W

from . import adopt, encoder_stage, export, finish, public, swap_stage, talk_stage
from .data import make_tokenizer
from .model import Config, Decoder, Domain, Encoder, Temporal, TextTower


def main() -> None:
    cache = os.path.join(os.environ.get("LOOKOUT_CACHE", os.path.expanduser("~/.cache/lookout")))
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("stage", choices=["tokenizer", "adopt", "encoder", "untrained", "talk", "finish", "swap", "public"])
    ap.add_argument("--data", default=os.path.join(cache, "data"), help="folder with the shards: encoder/ teaches the encoder, train/ the rest, val/ checks both")
    ap.add_argument("--out", default=os.path.join(cache, "train"), help="checkpoints")
    ap.add_argument("--minutes", type=float, default=60, help="wall-clock for the stage, earlier runs of it counted in")
    ap.add_argument("--steps", type=int, help="encoder, talk: as many steps in place of --minutes, with which the same comes out each time on a machine of a kind")
    ap.add_argument("--lr", type=float, help="encoder, talk: highest learning rate (default 1.5e-3 and 1.8e-3; an adopted bundle goes on well at a fifth of it)")
    ap.add_argument("--mirror", action="store_true", help="talk: train on the mirrored pictures too (twice the cache)")
    ap.add_argument("--bf16", action="store_true", help="talk: multiply in bfloat16 (nearly twice as fast on AMD's Zen 4, slower on an Intel without AMX)")
    ap.add_argument("--to", help="folder that `finish`, `swap` or `public` writes")
    ap.add_argument("--base", default="../model/default", help="adopt, swap, public: folder of the embedded bundle")
    ap.add_argument("--lm", default=os.path.join(cache, "models", "local--smollm2-135m"), help="swap: folder of the language model, as `make smollm2` leaves it")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    os.makedirs(a.out, exist_ok=True)
    c = Config()
    path = os.path.join(a.out, "tokenizer.json")
    if a.stage == "adopt":
        adopt.run(c, a.base, a.data, a.out)
        return
    if a.stage == "public":
        public.run(c, a.base, a.to or os.path.join(a.out, "yard-llava"))
        return
    if not os.path.exists(path):
        make_tokenizer(c.vocab, path)
    tok = Tokenizer.from_file(path)
    if a.stage == "untrained":  # a bundle of the right shapes to build against
        torch.manual_seed(0)
        to = os.path.join(a.out, "bundle-untrained")
        print(export.write(to, c, path, Encoder(c), Domain(c), TextTower(c), Temporal(c), Decoder(c), {"version": "untrained"},
                           np.random.default_rng(0).integers(0, 255, (3, MODEL_H, MODEL_W, 3), np.uint8)))
        open(os.path.join(to, "READY"), "w").close()
    if a.stage == "finish":
        finish.run(c, tok, a.data, a.out, a.to or os.path.join(a.out, "bundle"), os.path.join(os.path.dirname(__file__), "card.md"))
    if a.stage == "swap":
        swap_stage.run(a.lm, a.base, a.data, a.out, a.minutes, a.to or os.path.join(a.out, "bundle-smollm2"))
    rate = {"lr": a.lr} if a.lr else {}
    if a.stage == "talk":
        talk_stage.run(c, tok, a.data, a.out, a.minutes, a.mirror, a.bf16, steps=a.steps, **rate)
    if a.stage == "encoder":
        encoder_stage.run(c, tok, os.path.join(a.data, "encoder"), os.path.join(a.data, "val"), a.out, a.minutes, steps=a.steps, **rate)


if __name__ == "__main__":
    main()
