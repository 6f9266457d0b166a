#!/bin/sh
# Sets up the benchmark's peers in a virtual environment of their own. Nothing else needs them.
# Run it once before `make bench`; what is there already is kept. A peer that can't be set up is said here,
# and named as missing in the results.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=${LOOKOUT_PEERS:-$HOME/.cache/lookout/peers}
python=${PYTHON:-python3}
mkdir -p "$root"
[ -x "$root/venv/bin/python" ] || "$python" -m venv "$root/venv"
pip() { "$root/venv/bin/python" -m pip "$@"; }
failed=""
get() { # name, then pip's arguments
    name=$1; shift
    if pip install --quiet --disable-pip-version-check "$@"; then echo "ready: $name"; else echo "NOT ready: $name" >&2; failed="$failed $name"; fi
}
# torch for CPUs is a smaller wheel where its own index can be reached; PyPI's works as well.
if [ -n "${TORCH_INDEX:-}" ]; then
    get torch --index-url "$TORCH_INDEX" "torch==2.10.0"
else
    get torch "torch==2.10.0"
fi
get transformers "transformers==4.57.6" "tokenizers==0.22.2" "safetensors==0.8.0" "numpy==2.4.6" "torchvision==0.25.0" "num2words==0.5.14"
get pyav "av==18.1.0" "pillow==13.0.0"
get gguf "gguf==0.19.0"
get onnx "onnx==1.23.2" "onnxruntime==1.24.4"
get onnxruntime-genai "onnxruntime-genai==0.11.4" "onnx_ir==0.1.16"
[ -f "$root/clips/static.mp4" ] || "$root/venv/bin/python" "$here/make_clips.py" --out "$root/clips" || failed="$failed clips"
"$root/venv/bin/python" "$here/make_models.py" --out "$root/models" || failed="$failed models"
"$root/venv/bin/python" "$here/make_smolvlm.py" --out "$root/models" || failed="$failed smolvlm"
# llama.cpp: its release as libraries for every CPU, which pick the kernels for this one when they are loaded.
if [ -f "$root/llama.cpp/libggml-base.so" ]; then
    echo "ready: llama.cpp"
elif [ "$(uname -sm)" = "Linux x86_64" ] && command -v npm >/dev/null && (
    tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT && cd "$tmp" && npm pack --silent @node-llama-cpp/linux-x64@3.22.1 >/dev/null &&
    echo "0d953e1503d5ab4608d8ed5b739132308c81ac05ffeb760d2a7f30e08a9f90e0  node-llama-cpp-linux-x64-3.22.1.tgz" | sha256sum -c --quiet &&
    tar xzf ./*.tgz && mv package/bins/linux-x64 "$root/llama.cpp"); then
    echo "ready: llama.cpp"
else
    echo "NOT ready: llama.cpp (needs npm, on Linux x86-64)" >&2; failed="$failed llama.cpp"
fi
[ -z "$failed" ] || { echo "not set up:$failed" >&2; exit 1; }
echo "peers are ready in $root"
