"""Trains the embedded model, stage by stage. Run from train/: python -m vlm encoder --minutes 60

Each stage goes on from its checkpoint, so it may be interrupted at any time and started again with the same words.
"""
import argparse
import os

import torch
from tokenizers import Tokenizer

from . import encoder_stage
from .data import Shards, make_tokenizer
from .model import Config


def main() -> None:
    cache = os.path.join(os.environ.get("LOOKOUT_CACHE", os.path.expanduser("~/.cache/lookout")))
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("stage", choices=["tokenizer", "encoder"])
    ap.add_argument("--data", default=os.path.join(cache, "data"), help="folder with train/ and val/ shards")
    ap.add_argument("--out", default=os.path.join(cache, "train"), help="checkpoints")
    ap.add_argument("--minutes", type=float, default=60, help="wall-clock for the stage, earlier runs of it counted in")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    os.makedirs(a.out, exist_ok=True)
    c = Config()
    train, val = os.path.join(a.data, "train"), os.path.join(a.data, "val")
    path = os.path.join(a.out, "tokenizer.json")
    if not os.path.exists(path):
        make_tokenizer(Shards(train), c.vocab, path)
    tok = Tokenizer.from_file(path)
    if a.stage == "encoder":
        encoder_stage.run(c, tok, train, val, a.out, a.minutes)


if __name__ == "__main__":
    main()
