#!/bin/sh
# Trains a connector and low-rank adapters, so that SmolLM2-135M-Instruct speaks of what the embedded encoder sees, and writes
# a bundle for --model. Goes on where it was interrupted. It needs what train/run.sh leaves in ~/.cache/lookout: clips and checkpoints.
#
# Usage: train/swap.sh [minutes]
set -eu
cd "$(dirname "$0")"
cache=${LOOKOUT_CACHE:-$HOME/.cache/lookout}
lm=${LOOKOUT_SMOLLM2:-${XDG_CACHE_HOME:-$HOME/.cache}/lookout/models/local--smollm2-135m}
[ -f "$cache/train/talk.pt" ] || { echo "$cache/train/talk.pt is not there: train the embedded model first (train/run.sh)" >&2; exit 1; }
[ -f "$lm/model.safetensors" ] || ./smollm2.sh
python=$cache/train-venv/bin/python
[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$cache/train-venv"
"$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
for lib in /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4; do [ -e "$lib" ] && export LD_PRELOAD="$lib"; done # see run.sh
"$python" -m vlm swap --lm "$lm" --minutes "${1:-60}"
