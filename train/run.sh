#!/bin/sh
# Trains the embedded model from nothing: render, then each stage. Goes on where it was interrupted.
# Usage: train/run.sh [minutes a stage]   needs: pip install -r train/requirements.txt
set -eu
cd "$(dirname "$0")"
cache=${LOOKOUT_CACHE:-$HOME/.cache/lookout}
minutes=${1:-60}
# PyTorch frees and takes large blocks at each step; glibc gives them back to the kernel each time, which costs half the speed.
for lib in /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4; do [ -e "$lib" ] && export LD_PRELOAD="$lib"; done
python -m yard.render --out "$cache/data/val" --split val --clips 200 --workers 2
python -m yard.render --out "$cache/data/train" --split train --clips 6000 --workers 2
python -m vlm encoder --minutes "$minutes"
