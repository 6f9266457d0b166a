"""Makes a SmolVLM2-256M with random weights of a fixed seed, for transformers and as the public ONNX layout.

OUT then holds
  smolvlm2-256m/             for transformers: weights, configuration, tokenizer, processor
  smolvlm2-256m-onnx-fp32/   the same weights in fp32 ONNX files: vision_encoder, embed_tokens, decoder_model_merged
  smolvlm2-256m-onnx-best/   the decoder in int4 (accuracy level 4), the vision encoder in int8
Shapes and cost are those of the published model; the tokenizer is small, the vocabulary's rows are all there.
"""
import argparse
import os
import shutil
import sys
from pathlib import Path

from peer import need

p = argparse.ArgumentParser()
p.add_argument("--out", type=Path, required=True)
p.add_argument("--tiny", action="store_true", help="two layers, to try the script out")
a = p.parse_args()
torch, transformers, onnx, _, np = need("torch", "transformers", "onnx", "PIL", "numpy")
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
        e = self.v.embeddings.patch_embedding(x).flatten(2).transpose(1, 2) + self.v.embeddings.position_embedding(self.ids)
        return self.c(self.v.post_layernorm(self.v.encoder(inputs_embeds=e).last_hidden_state))


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
    mg.export_text(folder, model.model.text_model.embed_tokens, model.model.text_model, model.lm_head, model.config.text_config)
    describe(folder, model, proc)


def best(folder: Path):
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
    have = a.out / "smolvlm2-256m-onnx-fp32/onnx"
    (folder / "onnx").mkdir()
    q = MatMulNBitsQuantizer(onnx.load(have / "decoder_model_merged.onnx"), algo_config=DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4))
    q.process()
    onnx.save(q.model.model, folder / "onnx/decoder_model_merged_q4.onnx")
    quantize_dynamic(have / "vision_encoder.onnx", folder / "onnx/vision_encoder_int8.onnx", weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])
    shutil.copy(have / "embed_tokens.onnx", folder / "onnx/embed_tokens.onnx")
    describe(folder, model, proc)


def reference(folder: Path):
    model.save_pretrained(folder)
    describe(folder, model, proc)


if not all((a.out / n).exists() for n in ("smolvlm2-256m", "smolvlm2-256m-onnx-fp32", "smolvlm2-256m-onnx-best")):
    model, proc, _ = build()
    whole("smolvlm2-256m", reference)
    whole("smolvlm2-256m-onnx-fp32", fp32)
    whole("smolvlm2-256m-onnx-best", best)
