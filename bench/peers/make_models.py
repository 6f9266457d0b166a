"""Makes the language model that all sides run: SmolLM2-135M's sizes with random weights of a fixed seed.

Shapes and cost are those of the published model, whose weights can't be had everywhere. OUT then holds
  smollm2-135m-hf/     for transformers
  smollm2-135m/        int4 ONNX of the onnxruntime-genai model builder: genai and Lookout
  smollm2-135m.gguf    Q4_0, the head as well: llama.cpp. Symmetric 4-bit blocks of 32 like the ONNX file's, and the
                       format that llama.cpp repacks for the CPU's integer instructions
What a missing library can't make is said and left out.
"""
import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys

from peer import need

p = argparse.ArgumentParser()
p.add_argument("--out", required=True)
p.add_argument("--size", choices=("135m", "1.7b", "tiny"), default="135m",
               help="SmolLM2's published size; tiny: two layers and a small vocabulary, to try the script out. The names in OUT stay (default %(default)s)")
a = p.parse_args()
np, torch, transformers = need("numpy", "torch", "transformers")
os.makedirs(a.out, exist_ok=True)

VOCAB = 4096 if a.size == "tiny" else 49152
SIZES = dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3)
if a.size == "tiny":
    SIZES["num_hidden_layers"] = 2
elif a.size == "1.7b":
    SIZES = dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32, num_key_value_heads=32)
TEXT = dict(SIZES, vocab_size=VOCAB, max_position_embeddings=8192, rope_theta=100000.0, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
            pad_token_id=2)


def once(name: str, make):
    """Makes OUT/name whole or not at all; what is there already is kept."""
    path = os.path.join(a.out, name)
    if os.path.exists(path):
        return path
    tmp = path + ".tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    make(tmp)
    os.replace(tmp, path)
    print(path, flush=True)
    return path


def tokenizer(path: str):
    """A byte-level tokenizer of the right size: builders want one, the benchmark gives token ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<unk>", "<s>", "</s>"] + letters + [f"<unused{i}>" for i in range(VOCAB - 3 - len(letters))]
    t = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[], unk_token="<unk>"))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(path)
    return words


def smollm(path: str):
    torch.manual_seed(7)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)).save_pretrained(path)
    tokenizer(path)


def genai(path: str):
    cmd = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", os.path.join(a.out, "smollm2-135m-hf"), "-o", path, "-p", "int4", "-e", "cpu",
           "-c", os.path.join(a.out, "cache"), "--extra_options", "int4_accuracy_level=4"]
    subprocess.run(cmd, check=True)
    for name in ("config.json", "chat_template.jinja"):  # what the builder leaves out and Lookout reads
        if not os.path.exists(os.path.join(path, name)):
            shutil.copy(os.path.join(a.out, "smollm2-135m-hf", name), path)
    with open(os.path.join(path, "bench.json"), "w") as f:
        json.dump(dict(weights_read=weights_read(os.path.join(path, "model.onnx"))), f)


def weights_read(path: str) -> int:
    """Bytes of weights that each decoded token reads: all but tables of which it takes one row. Scales count as the 16 bits that Lookout's own
    kernels keep of them: where the library's run instead, it is more."""
    import onnx
    g = onnx.load(path).graph
    rows = {i for n in g.node if n.op_type in ("Gather", "GatherBlockQuantized") for i in n.input}
    rows -= {i for n in g.node if n.op_type in ("MatMul", "MatMulNBits") for i in n.input}
    rows |= {i for n in g.node if n.op_type == "GroupQueryAttention" for i in n.input[7:9]}  # the tables of the rotation
    scales = {n.input[2] for n in g.node if n.op_type == "MatMulNBits"}
    return sum(len(t.raw_data) // (2 if t.name in scales else 1) for t in g.initializer if t.name not in rows)


def gguf(path: str):
    import gguf as G
    m = transformers.LlamaForCausalLM.from_pretrained(os.path.join(a.out, "smollm2-135m-hf"), dtype=torch.float32)
    w = G.GGUFWriter(path, "llama")
    heads, kv = TEXT["num_attention_heads"], TEXT["num_key_value_heads"]
    w.add_context_length(TEXT["max_position_embeddings"])
    w.add_embedding_length(TEXT["hidden_size"])
    w.add_block_count(TEXT["num_hidden_layers"])
    w.add_feed_forward_length(TEXT["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(TEXT["rms_norm_eps"])
    w.add_rope_dimension_count(TEXT["hidden_size"] // heads)
    w.add_rope_freq_base(TEXT["rope_theta"])
    w.add_vocab_size(VOCAB)
    w.add_file_type(G.LlamaFileType.MOSTLY_Q4_0)
    words = ["<unk>", "<s>", "</s>"] + [f"<unused{i}>" for i in range(VOCAB - 3)]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("default")
    w.add_token_list(words)
    w.add_token_types([int(G.TokenType.CONTROL)] * 3 + [int(G.TokenType.NORMAL)] * (VOCAB - 3))
    w.add_token_merges(["a b"])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)

    def put(name: str, x, kind=None):
        x = x.detach().numpy().astype(np.float32)
        if kind is None:
            w.add_tensor(name, x)
        else:
            w.add_tensor(name, G.quants.quantize(x, kind), raw_dtype=kind)

    def rope_order(x, n: int):  # llama.cpp rotates neighbours, the reference halves
        return x.reshape(n, 2, x.shape[0] // n // 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)

    Q4 = G.GGMLQuantizationType.Q4_0
    put("token_embd.weight", m.model.embed_tokens.weight, Q4)
    put("output_norm.weight", m.model.norm.weight)
    for i, b in enumerate(m.model.layers):
        at, ff = b.self_attn, b.mlp
        for name, x in (("attn_q", rope_order(at.q_proj.weight, heads)), ("attn_k", rope_order(at.k_proj.weight, kv)), ("attn_v", at.v_proj.weight),
                        ("attn_output", at.o_proj.weight), ("ffn_gate", ff.gate_proj.weight), ("ffn_up", ff.up_proj.weight), ("ffn_down", ff.down_proj.weight)):
            put(f"blk.{i}.{name}.weight", x, Q4)
        put(f"blk.{i}.attn_norm.weight", b.input_layernorm.weight)
        put(f"blk.{i}.ffn_norm.weight", b.post_attention_layernorm.weight)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


once("smollm2-135m-hf", smollm)
for module, name, make in (("gguf", "smollm2-135m.gguf", gguf), ("onnxruntime_genai", "smollm2-135m", genai)):
    if importlib.util.find_spec(module) is None:
        print(f"{name} is left out: {module} is not installed", file=sys.stderr)
        continue
    try:
        once(name, make)
    except Exception as e:  # one peer that can't be made must not cost the others
        print(f"{name} is left out: {type(e).__name__}: {e}", file=sys.stderr)
