"""llama.cpp (llama-cpp-python): prefill of PAST tokens, then decode of TOKENS, tokens a second."""
import argparse
import os
import time

from peer import finish, missing, need

p = argparse.ArgumentParser()
p.add_argument("--model", required=True, help="a .gguf file (make_models.py)")
p.add_argument("--past", type=int, default=512)
p.add_argument("--tokens", type=int, default=64)
p.add_argument("--threads", type=int, default=2)
a = p.parse_args()
llama_cpp = need("llama_cpp")
if not os.path.exists(a.model):
    missing(f"{a.model}: not there; bench/peers/make_models.py makes it")

llm = llama_cpp.Llama(a.model, n_ctx=a.past + a.tokens + 8, n_batch=a.past, n_ubatch=a.past, n_threads=a.threads, n_threads_batch=a.threads, verbose=False)
prompt = [i % 4000 + 3 for i in range(a.past)]


def run():
    llm.reset()
    t0 = time.perf_counter()
    llm.eval(prompt)
    t1 = time.perf_counter()
    # What is decoded does not matter to the time: a fixed token spares the sampler on all sides.
    for i in range(a.tokens):
        llm.eval([1000 + i])
    return t1 - t0, time.perf_counter() - t1


run()
prefill, decode = run()
finish(prefill_tokens_per_second=a.past / prefill, decode_tokens_per_second=a.tokens / decode)
