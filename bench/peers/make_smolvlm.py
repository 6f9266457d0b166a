"""Makes a SmolVLM2-256M with random weights of a fixed seed, for transformers and as the public ONNX layout.

OUT then holds
  smolvlm2-256m/             for transformers: weights, configuration, tokenizer, processor
  smolvlm2-256m-onnx-fp32/   the same weights in fp32 ONNX files: vision_encoder, embed_tokens, decoder_model_merged
  smolvlm2-256m-onnx-best128/   the decoder in int4 (blocks of 128, accuracy level 4), the vision encoder in int8
The ONNX files have fused attention: MultiHeadAttention in the vision encoder, and the decoder from onnxruntime-genai's model
builder (GroupQueryAttention, which writes its cache in place) with the head on the last token only.
Shapes and cost are those of the published model; the tokenizer is small, the vocabulary's rows are all there.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from peer import need

p = argparse.ArgumentParser()
p.add_argument("--out", type=Path, required=True)
p.add_argument("--tiny", action="store_true", help="two layers, to try the script out")
a = p.parse_args()
torch, transformers, onnx, _, _, np = need("torch", "transformers", "onnx", "PIL", "onnxruntime_genai", "numpy")
sys.path.insert(0, str(Path(__file__).resolve().parent / "../../train/goldens"))
import models_golden as mg  # noqa: E402  the exporter that the layout's tests are made with

S = dict(hidden=576, layers=30, heads=9, kv_heads=3, inner=1536, rows=49280, vision_hidden=768, vision_layers=12, vision_heads=12, vision_inner=3072,
         image=512, patch=16, scale=4)
if a.tiny:
    S |= dict(layers=2, vision_layers=2, rows=1024)
torch.set_num_threads(2)


def build():
    from transformers.models.smolvlm import configuration_smolvlm as c
    rows = [f"<row_{r}_col_{k}>" for r in range(1, 7) for k in range(1, 7)]
    tok = mg.tokenizer("smollm2", 400, ["<fake_token_around_image>", "<image>", "<video>", "<end_of_utterance>", "<global-img>"] + rows)
    cfg = c.SmolVLMConfig(
        text_config=mg.text_config(S, transformers.LlamaConfig, rope_theta=100000.0, tie_word_embeddings=False).to_dict() | {"model_type": "llama"},
        vision_config=dict(hidden_size=S["vision_hidden"], num_hidden_layers=S["vision_layers"], num_attention_heads=S["vision_heads"],
                           intermediate_size=S["vision_inner"], image_size=S["image"], patch_size=S["patch"]),
        scale_factor=S["scale"], image_token_id=tok.convert_tokens_to_ids("<image>"), pad_token_id=0, tie_word_embeddings=False)
    cfg._attn_implementation = "eager"
    torch.manual_seed(8)
    model = transformers.SmolVLMForConditionalGeneration(cfg).eval()
    ip = transformers.SmolVLMImageProcessor(size={"longest_edge": 4 * S["image"]}, max_image_size={"longest_edge": S["image"]})
    vp = transformers.SmolVLMVideoProcessor(size={"longest_edge": S["image"]}, max_image_size={"longest_edge": S["image"]},
                                            video_sampling={"fps": 1, "max_frames": 64, "video_size": {"longest_edge": S["image"]}})
    n = (S["image"] // S["patch"]) ** 2 // S["scale"] ** 2
    proc = transformers.SmolVLMProcessor(ip, tok, vp, image_seq_len=n, chat_template=mg.SMOLVLM_CHAT)
    return model, proc, cfg


class Attention(torch.autograd.Function):
    """Attention as one operator of ONNX Runtime: the scores are never written out."""

    @staticmethod
    def forward(ctx, q, k, v, heads):
        split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
        return torch.nn.functional.scaled_dot_product_attention(split(q), split(k), split(v)).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(g, q, k, v, heads):
        return g.op("com.microsoft::MultiHeadAttention", q, k, v, num_heads_i=heads).setType(q.type())


class Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.nn.functional.gelu(x, approximate="tanh")

    @staticmethod
    def symbolic(g, x):
        return g.op("com.microsoft::FastGelu", x).setType(x.type())


class Vision(torch.nn.Module):
    """The vision encoder and connector on whole pictures: the same as the reference's, without its loop over masks."""

    def __init__(self, model):
        super().__init__()
        self.v, self.c = model.model.vision_model, model.model.connector
        side = S["image"] // S["patch"]
        edges = torch.arange(1 / side, 1.0, 1 / side)
        b = torch.bucketize(torch.arange(side).float() / side * (1 - 1e-6), edges, right=True)
        self.register_buffer("ids", (b[:, None] * side + b).flatten()[None])

    def forward(self, pixels, mask):
        x = (pixels * mask.to(pixels.dtype)[:, :, None]).flatten(0, 1)
        x = self.v.embeddings.patch_embedding(x).flatten(2).transpose(1, 2) + self.v.embeddings.position_embedding(self.ids)
        for b in self.v.encoder.layers:
            y, at = b.layer_norm1(x), b.self_attn
            x = x + at.out_proj(Attention.apply(at.q_proj(y), at.k_proj(y), at.v_proj(y), S["vision_heads"]))
            x = x + b.mlp.fc2(Gelu.apply(b.mlp.fc1(b.layer_norm2(x))))
        return self.c(self.v.post_layernorm(x))


def decoder(path: Path, precision: str, block: int = 32):
    """The language model through the model builder, as one file."""
    with tempfile.TemporaryDirectory() as tmp:
        own = {k: v for k, v in model.config.text_config.to_dict().items() if k not in ("model_type", "architectures")}
        lm = transformers.LlamaForCausalLM(transformers.LlamaConfig(**own))
        lm.model.load_state_dict(model.model.text_model.state_dict())
        lm.lm_head.load_state_dict(model.lm_head.state_dict())
        lm.save_pretrained(tmp + "/hf")
        proc.tokenizer.save_pretrained(tmp + "/hf")
        subprocess.run([sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", tmp + "/hf", "-o", tmp + "/out", "-p", precision, "-e", "cpu", "-c", tmp + "/cache",
                        "--extra_options", "exclude_embeds=true", "int4_accuracy_level=4", f"int4_block_size={block}"], check=True)
        m = onnx.load(tmp + "/out/model.onnx")
    g = m.graph
    logits = next(o for o in g.output if o.name == "logits")
    at, head = next((i, n) for i, n in enumerate(g.node) if "logits" in n.output)
    for name, value in (("last_from", -1), ("last_to", 2**62), ("last_axis", 1)):
        g.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    g.node.insert(at, onnx.helper.make_node("Slice", [head.input[0], "last_from", "last_to", "last_axis"], ["last_hidden"], name="last"))
    head.input[0] = "last_hidden"
    logits.type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(m, path)


def whole(name: str, make):
    path = a.out / name
    if path.exists():
        return
    tmp = a.out / (name + ".tmp")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    make(tmp)
    os.replace(tmp, path)
    print(path, flush=True)


def describe(folder: Path, model, proc):
    model.config.to_json_file(str(folder / "config.json"), use_diff=False)
    model.generation_config.save_pretrained(folder)
    proc.save_pretrained(folder)


def fp32(folder: Path):
    vision = Vision(model).eval()
    pix, mask = torch.randn(1, 1, 3, S["image"], S["image"]), torch.ones(1, 1, S["image"], S["image"], dtype=torch.bool)
    with torch.no_grad():
        assert torch.allclose(vision(pix, mask), model.model.get_image_features(pix, mask), atol=1e-3)
    mg.export(vision, (pix, mask), folder / "onnx/vision_encoder.onnx", ["pixel_values", "pixel_attention_mask"], ["image_features"],
              {"pixel_values": {0: "batch", 1: "images"}, "pixel_attention_mask": {0: "batch", 1: "images"}, "image_features": {0: "n"}})
    mg.export(model.model.text_model.embed_tokens, (torch.ones(1, 3, dtype=torch.long),), folder / "onnx/embed_tokens.onnx", ["input_ids"], ["inputs_embeds"],
              {"input_ids": {0: "batch", 1: "seq"}, "inputs_embeds": {0: "batch", 1: "seq"}})
    decoder(folder / "onnx/decoder_model_merged.onnx", "fp32")
    describe(folder, model, proc)


def best(folder: Path):
    from onnxruntime.quantization import QuantType, quantize_dynamic
    (folder / "onnx").mkdir()
    # A scale for 128 weights, as GPTQ and AWQ have it: a token reads 15 % less than with 32, and a prompt costs a third less.
    decoder(folder / "onnx/decoder_model_merged_q4.onnx", "int4", 128)
    have = a.out / "smolvlm2-256m-onnx-fp32/onnx"
    quantize_dynamic(have / "vision_encoder.onnx", folder / "onnx/vision_encoder_int8.onnx", weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])
    shutil.copy(have / "embed_tokens.onnx", folder / "onnx/embed_tokens.onnx")
    describe(folder, model, proc)


def reference(folder: Path):
    model.save_pretrained(folder)
    describe(folder, model, proc)


if not all((a.out / n).exists() for n in ("smolvlm2-256m", "smolvlm2-256m-onnx-fp32", "smolvlm2-256m-onnx-best128")):
    model, proc, _ = build()
    whole("smolvlm2-256m", reference)
    whole("smolvlm2-256m-onnx-fp32", fp32)
    whole("smolvlm2-256m-onnx-best128", best)
