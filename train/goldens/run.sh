#!/bin/sh
# Remakes the goldens of public models from the reference library. Its environments (FastVLM came to it after the version that
# the others are from) go to ~/.cache/lookout. Nothing else needs them: the goldens are committed.
#
# Usage: train/goldens/run.sh                                       all of them, in their places
#        train/goldens/run.sh --sizes FILE --out DIR [--only ARCH]  models of other sizes, for LOOKOUT_PARITY_DIR
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${LOOKOUT_CACHE:-$HOME/.cache/lookout}

golden() { # ENVIRONMENT REQUIREMENTS SCRIPT [ARGUMENTS]
    python=$cache/$1/bin/python
    if [ ! -x "$python" ]; then
        echo "goldens: installing Python libraries into $cache/$1 (6 GB, once)" >&2
        "${PYTHON:-python3}" -m venv "$cache/$1"
    fi
    "$python" -m pip install --quiet --disable-pip-version-check -r "$here/$2"
    script=$3
    shift 3
    "$python" "$here/$script" "$@"
}

if [ $# = 0 ]; then
    golden goldens-venv requirements.txt tokenizers_golden.py
    golden goldens-venv requirements.txt chat_golden.py
fi
golden goldens-venv requirements.txt models_golden.py "$@"
case " $* " in
*" --only "[!f]*) ;;
*) golden fastvlm-venv requirements-fastvlm.txt models_golden.py "$@" --only fastvlm ;;
esac
