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
# llama.cpp: a wheel if there is one for this machine, else built for this very CPU (about ten minutes).
if pip install --quiet --disable-pip-version-check --only-binary llama-cpp-python "llama-cpp-python==0.3.16" 2>/dev/null; then
    echo "ready: llama.cpp (wheel)"
elif command -v c++ >/dev/null; then
    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF" CMAKE_BUILD_PARALLEL_LEVEL=2 get llama.cpp "llama-cpp-python==0.3.16"
else
    echo "NOT ready: llama.cpp (no wheel, no C++ compiler)" >&2; failed="$failed llama.cpp"
fi
[ -z "$failed" ] || { echo "not set up:$failed" >&2; exit 1; }
echo "peers are ready in $root"
