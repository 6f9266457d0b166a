"""llama.cpp (its libraries, built for every CPU): prefill of PAST tokens, then decode of TOKENS, tokens a second."""
import argparse
import ctypes as c
import glob
import os
import time

from peer import finish, missing

p = argparse.ArgumentParser()
p.add_argument("--model", required=True, help="a .gguf file (make_models.py)")
p.add_argument("--libraries", required=True, help="folder of libllama and libggml (setup.sh)")
p.add_argument("--past", type=int, default=512)
p.add_argument("--tokens", type=int, default=64)
p.add_argument("--threads", type=int, default=2)
a = p.parse_args()
if not os.path.exists(a.model):
    missing(f"{a.model}: not there; bench/peers/make_models.py makes it")


def library(name: str):
    found = sorted(glob.glob(os.path.join(a.libraries, name + ".*so*")) + glob.glob(os.path.join(a.libraries, name + ".so*")))
    if not found:
        missing(f"llama.cpp: no {name} in {a.libraries}; bench/peers/setup.sh gets it")
    return c.CDLL(found[0], mode=c.RTLD_GLOBAL)


ggml, lib = library("libggml"), library("libllama")


class Params(c.Structure):
    """Parameters of a model or a context: of those only the first numbers are known here, the rest keeps its defaults."""
    _fields_ = [("first", c.c_uint32 * 4), ("rest", c.c_byte * 496)]


class Batch(c.Structure):
    _fields_ = [("n", c.c_int32), ("token", c.c_void_p), ("embd", c.c_void_p), ("pos", c.c_void_p), ("n_seq_id", c.c_void_p), ("seq_id", c.c_void_p), ("logits", c.c_void_p)]


for name, result, args in (
        ("llama_model_default_params", Params, []), ("llama_context_default_params", Params, []), ("llama_model_load_from_file", c.c_void_p, [c.c_char_p, Params]),
        ("llama_init_from_model", c.c_void_p, [c.c_void_p, Params]), ("llama_batch_get_one", Batch, [c.c_void_p, c.c_int32]), ("llama_decode", c.c_int32, [c.c_void_p, Batch]),
        ("llama_get_memory", c.c_void_p, [c.c_void_p]), ("llama_memory_clear", None, [c.c_void_p, c.c_bool]), ("llama_set_n_threads", None, [c.c_void_p, c.c_int32, c.c_int32]),
        ("llama_log_set", None, [c.c_void_p, c.c_void_p])):
    f = getattr(lib, name)
    f.restype, f.argtypes = result, args
Log = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
quiet = Log(lambda level, text, data: None)
lib.llama_log_set(quiet, None)
ggml.ggml_backend_load_all_from_path.argtypes = [c.c_char_p]
ggml.ggml_backend_load_all_from_path(os.fsencode(a.libraries))  # takes the one for this CPU
lib.llama_backend_init()
model = lib.llama_model_load_from_file(os.fsencode(a.model), lib.llama_model_default_params())
params = lib.llama_context_default_params()
assert list(params.first)[:3] == [512, 2048, 512], "another version of llama.cpp: n_ctx, n_batch and n_ubatch are not where they were"
params.first[0], params.first[1], params.first[2] = a.past + a.tokens + 8, a.past, a.past
ctx = model and lib.llama_init_from_model(model, params)
assert ctx, "llama.cpp does not load the model"
lib.llama_set_n_threads(ctx, a.threads, a.threads)
prompt = (c.c_int32 * a.past)(*(i % 4000 + 3 for i in range(a.past)))


def read(tokens, n: int):
    if lib.llama_decode(ctx, lib.llama_batch_get_one(tokens, n)) != 0:
        raise SystemExit("llama.cpp: decode failed")


def run():
    lib.llama_memory_clear(lib.llama_get_memory(ctx), True)
    t0 = time.perf_counter()
    read(prompt, a.past)
    t1 = time.perf_counter()
    # What is decoded does not matter to the time: a fixed token spares the sampler.
    for i in range(a.tokens):
        read((c.c_int32 * 1)(1000 + i), 1)
    return t1 - t0, time.perf_counter() - t1


run()
prefill, decode = run()
finish(prefill_tokens_per_second=a.past / prefill, decode_tokens_per_second=a.tokens / decode)
