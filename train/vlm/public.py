"""The embedded model in the layout that public LLaVA models have, so that the code for those can be scored on pictures that a model really
understands: their own weights come from a hub, or are random. What it sees of a frame is what the temporal module gives of one without a past:
who is there, not what has just happened."""
from __future__ import annotations

import json
import os

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from yard.labels import MODEL_H, MODEL_W

from . import adopt, export
from .model import Config, Decoder, Encoder, Temporal

IMAGE = "<image>"  # stands for a picture until its tokens take the place
ROOM = 256         # positions: two frames of 49 tokens, what is written around them, a question and an answer
CHAT = ("<|bos|>{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<|frame|>" + IMAGE +
        "{% elif 'escribe' in part['text'] %}<|describe|>{% else %}<|ask|>{{ part['text'] | lower }}{% endif %}{% endfor %}{% endfor %}<|answer|>")


class See(nn.Module):
    """pixel_values [n,3,H,W] between -1 and 1 -> image_features [n,tokens,width]."""

    def __init__(self, enc: Encoder, temporal: Temporal):
        super().__init__()
        self.enc, self.temporal = enc, temporal

    def forward(self, pixel_values):
        x = self.enc((pixel_values * 127.5 + 127.5).permute(0, 2, 3, 1))
        for b in self.temporal.blocks:
            _, _, own = b.t.qkv(b.nt(x)).chunk(3, -1)  # a frame without a past attends to itself alone
            x = b.within(x + b.t.out(own))
        return self.temporal.pool(self.temporal.norm(x))


def write(to: str, c: Config, tokenizer: str, enc: Encoder, temporal: Temporal, dec: Decoder) -> None:
    os.makedirs(os.path.join(to, "onnx"), exist_ok=True)
    graph = lambda name: os.path.join(to, "onnx", name + ".onnx")
    n = {0: "n"}
    export.trace(See(enc, temporal), (torch.zeros(2, 3, MODEL_H, MODEL_W),), graph("vision_encoder"), ["pixel_values"], ["image_features"],
                 {"pixel_values": n, "image_features": n}, domains=[export.MICROSOFT])
    see = onnx.load(graph("vision_encoder"))
    for dim, size in zip(see.graph.output[0].type.tensor_type.shape.dim[1:], (c.tokens, c.width)):  # how many tokens there are no other file tells
        dim.dim_value = size
    onnx.save(see, graph("vision_encoder"))
    with open(tokenizer) as f:
        tok = json.load(f)
    image = len(tok["model"]["vocab"])
    tok["added_tokens"].append({"id": image, "content": IMAGE, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True})
    ids = {t["content"]: t["id"] for t in tok["added_tokens"]}
    wide = nn.Embedding.from_pretrained(torch.cat([dec.embed.weight.detach(), torch.zeros(1, c.width)]))
    export.trace(wide, (torch.ones(1, 3, dtype=torch.long),), graph("embed_tokens"), ["input_ids"], ["inputs_embeds"], {k: {0: "batch", 1: "seq"} for k in ("input_ids", "inputs_embeds")})
    decoder = export.decoder_graph(dec, c)
    place(decoder, c)
    onnx.save(decoder, graph("decoder_model_merged"))
    ends = [ids[f"<|{k}|>"] for k in ("end", "nothing", "cannot_tell")]
    for name, what in {
        "config": {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": image, "vision_feature_select_strategy": "full",
                   "vision_config": {"model_type": "siglip_vision_model", "image_size": MODEL_W, "patch_size": MODEL_W // 16},
                   "text_config": {"model_type": "llama", "hidden_size": c.width, "num_hidden_layers": c.dec_layers, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
                                   "head_dim": c.head_dim, "vocab_size": c.vocab, "max_position_embeddings": ROOM, "rope_theta": c.rope_theta}},
        "generation_config": {"eos_token_id": ends},
        "preprocessor_config": {"image_processor_type": "SiglipImageProcessor", "size": {"height": MODEL_H, "width": MODEL_W}, "do_resize": True, "resample": 2,
                                "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        "tokenizer_config": {"eos_token": "<|end|>", "chat_template": CHAT},
        "tokenizer": tok,
    }.items():
        with open(os.path.join(to, name + ".json"), "w") as f:
            json.dump(what, f)


def place(model: onnx.ModelProto, c: Config) -> None:
    """Lets a decoder be told each token's place, as public ones are, in place of counting what its cache holds."""
    g, nodes = model.graph, []
    g.initializer.append(numpy_helper.from_array(np.array([c.heads, c.kv_heads, c.kv_heads], np.int64) * c.head_dim, "widths"))
    for n in g.node:
        if n.op_type == "GroupQueryAttention":
            qkv, cos, sin = n.input[0], n.input[7], n.input[8]
            q, k, v = (f"{qkv}.{x}" for x in "qkv")
            nodes.append(helper.make_node("Split", [qkv, "widths"], [q, k, v], axis=-1))
            for x, heads in ((q, c.heads), (k, c.kv_heads)):
                nodes.append(helper.make_node("RotaryEmbedding", [x, "position_ids", cos, sin], [x + ".turned"], domain=export.MICROSOFT, num_heads=heads))
            attributes = {a.name: helper.get_attribute_value(a) for a in n.attribute if a.name not in ("do_rotary", "rotary_interleaved")}
            n = helper.make_node(n.op_type, [q + ".turned", k + ".turned", v, *n.input[3:7]], list(n.output), domain=n.domain, **attributes)
        nodes.append(n)
    del g.node[:]
    g.node.extend(nodes)
    g.input.append(helper.make_tensor_value_info("position_ids", onnx.TensorProto.INT64, ["batch", "seq"]))


def run(c: Config, base: str, to: str) -> None:
    enc, _, temporal, dec = adopt.read(c, base)
    write(to, c, os.path.join(base, "tokenizer.json"), enc, temporal, dec)
