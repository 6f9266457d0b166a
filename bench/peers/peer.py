"""What all peer scripts share: how they say that something is missing, and how they hand over their figures."""
import importlib
import json
import sys

MISSING = 3  # the exit code that bench/peer.go reads as "not set up"


def missing(why: str):
    print(why, file=sys.stderr)
    raise SystemExit(MISSING)


def need(*names: str):
    """Imports modules, or exits with the name of the first that is not there."""
    out = []
    for n in names:
        try:
            out.append(importlib.import_module(n))
        except ImportError as e:
            missing(f"{n}: {e}; bench/peers/setup.sh installs it")
    return out[0] if len(out) == 1 else out


def finish(**values: float):
    """The last line on stdout: one JSON object of numbers."""
    print(json.dumps({k: float(v) for k, v in values.items()}), flush=True)
