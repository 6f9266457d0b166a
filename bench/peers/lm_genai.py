"""onnxruntime-genai: prefill of PAST tokens, then greedy decode of TOKENS, tokens a second."""
import argparse
import os
import time

from peer import finish, missing, need

p = argparse.ArgumentParser()
p.add_argument("--model", required=True, help="folder of the model builder (make_models.py)")
p.add_argument("--past", type=int, default=512)
p.add_argument("--tokens", type=int, default=64)
p.add_argument("--threads", type=int, default=2)
a = p.parse_args()
og, np = need("onnxruntime_genai", "numpy")
if not os.path.exists(os.path.join(a.model, "genai_config.json")):
    missing(f"{a.model}: no model of the builder; bench/peers/make_models.py makes it")

config = og.Config(a.model)
config.overlay('{"model":{"decoder":{"session_options":{"intra_op_num_threads":%d}}}}' % a.threads)
model = og.Model(config)
prompt = np.arange(a.past, dtype=np.int32) % 4000 + 3


def run():
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=a.past + a.tokens + 1, min_length=a.past + a.tokens + 1, do_sample=False, past_present_share_buffer=True)
    g = og.Generator(model, params)
    t0 = time.perf_counter()
    g.append_tokens(prompt[None])
    g.generate_next_token()  # the first token belongs to the prefill
    t1 = time.perf_counter()
    for _ in range(a.tokens):
        g.generate_next_token()
    return t1 - t0, time.perf_counter() - t1


run()
prefill, decode = run()
finish(prefill_tokens_per_second=a.past / prefill, decode_tokens_per_second=a.tokens / decode)
