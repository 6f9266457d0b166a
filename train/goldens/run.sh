#!/bin/sh
# Remakes all goldens of public models. Usage: train/goldens/run.sh [PYTHON]
set -eu
python=$(realpath "$(command -v "${1:-python3}")" -s)
cd "$(dirname "$0")"
for script in tokenizers chat models; do "$python" "${script}_golden.py"; done
