#!/bin/sh
# Makes the embedded model from nothing: renders, trains each stage, writes the bundle. Goes on where it was interrupted.
# Usage: train/run.sh [steps of the encoder] [steps of the rest]   needs: pip install -r train/requirements.txt, its python first in PATH
# By default as many as the shipped weights took in all: half a day on two cores. The same steps give the same weights, interrupted or not.
# LOOKOUT_CLIPS=100 LOOKOUT_CACHE=/tmp/try LOOKOUT_BUNDLE=/tmp/try/bundle train/run.sh 20 20   tries all of it out
set -eu
cd "$(dirname "$0")"
cache=${LOOKOUT_CACHE:-$HOME/.cache/lookout}
clips=${LOOKOUT_CLIPS:-3000} # a stage: of clips that taught the encoder its tokens say more than of others, which the rest must not get used to
python -m yard.render --out "$cache/data/val" --split val --clips 200 --workers 2
python -m yard.render --out "$cache/data/encoder" --split train --clips "$clips" --workers 2
python -m yard.render --out "$cache/data/train" --split train --first "$clips" --clips "$clips" --workers 2
# PyTorch frees and takes large blocks at each step; glibc gives them back to the kernel each time, which costs half the speed.
for lib in /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4; do [ -e "$lib" ] && export LD_PRELOAD="$lib"; done
python -m vlm encoder --steps "${1:-13000}"
python -m vlm talk --steps "${2:-25600}"
python -m vlm finish --to "${LOOKOUT_BUNDLE:-../model/default}"
