"""Makes the goldens of vlm/: for each architecture, tiny models with random weights from the reference library's own
classes (transformers), exported into the public ONNX layout under the public input and output names, and what the
reference gives for them at each stage: pixels, visual features, prompt ids, logits, 64 greedy tokens.

Usage: python models_golden.py [--out DIR] [--sizes FILE] [--only ARCH]
Each model becomes DIR/ARCH-NAME.tar.gz. LOOKOUT_PARITY_DIR=DIR makes the Go tests read them from there.

       python models_golden.py --checkpoint DIR
A LLaVA of random weights as the reference itself loads it, for a server that sees pictures.
"""
import argparse, gzip, io, json, math, os, shutil, tarfile, tempfile, warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.cache_utils import DynamicCache, DynamicLayer

import tokenizers_golden as tg

tf.logging.set_verbosity_error()
NEW = 64  # greedy tokens
SMOLVLM_CHAT = "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% elif line['type'] == 'video' %}{{ '<video>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
IDEFICS3_CHAT = SMOLVLM_CHAT.replace("<|im_start|>", "<|begin_of_text|>").replace("{% elif line['type'] == 'video' %}{{ '<video>' }}", "")
VICUNA_CHAT = "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
QWEN_VL_CHAT = "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}{# Render all video then #}{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}{# Render all text next #}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
SMOLLM_CHAT = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


# --- tokenizers ------------------------------------------------------------------------------------------------------

def tokenizer(kind, vocab, special):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    kw = dict(vocab_size=vocab, show_progress=False)
    text = [f + " " + g for f in tg.FRAGMENTS[:40] for g in tg.FRAGMENTS[:20]]
    if kind == "llama2":
        t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
        t.train_from_iterator(text, trainers.BpeTrainer(limit_alphabet=60, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)], **kw))
        saved = json.loads(t.to_str())
        saved["pre_tokenizer"]["split"] = False
        saved["added_tokens"] = [a for a in saved["added_tokens"] if not a["content"].startswith("<0x")]
        t = Tokenizer.from_str(json.dumps(saved))
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
        fast = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>")
    elif kind == "clip":
        t = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
        t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(tg.CLIP), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        t.decoder = decoders.ByteLevel()
        t.train_from_iterator(text, trainers.BpeTrainer(initial_alphabet=alphabet, end_of_word_suffix="</w>", special_tokens=["<|startoftext|>", "<|endoftext|>"], **kw))
        end = t.token_to_id("<|endoftext|>")
        t.post_processor = processors.RobertaProcessing(sep=("<|endoftext|>", end), cls=("<|startoftext|>", 0), trim_offsets=False, add_prefix_space=False)
        fast = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token="<|endoftext|>")
    elif kind == "siglip":
        t = Tokenizer(models.Unigram())
        t.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"), ""), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
        t.train_from_iterator(text, trainers.UnigramTrainer(unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"], **kw))
        t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
        fast = dict(eos_token="</s>", unk_token="<unk>", pad_token="</s>")
    else:
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        if kind == "llama3":
            first = ["<|end_of_text|>", "<|begin_of_text|>", "<|eot_id|>"]
            t = Tokenizer(models.BPE(ignore_merges=True))
            t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(tg.GPT4), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
            t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B", special_tokens=[("<|begin_of_text|>", 1)])])
        if kind == "qwen2":
            t.normalizer = normalizers.NFC()
            t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(tg.QWEN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        t.decoder = decoders.ByteLevel()
        t.train_from_iterator(text, trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=first, **kw))
        fast = dict(bos_token=first[1], eos_token=first[2], unk_token=first[0], pad_token=first[2])
    t.add_special_tokens(special)
    extra = {"image_token": "<image>"} if "<image>" in special else {}
    extra |= {"video_token": "<video>"} if "<video>" in special else {}
    return tf.PreTrainedTokenizerFast(tokenizer_object=t, extra_special_tokens=extra, **fast)


# --- weights, images, export -----------------------------------------------------------------------------------------

def randomise(model, seed):
    """Weights on a coarse grid: as random as any, and a fifth of the bytes once compressed."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters(), key=lambda np: np[0]):
            r = torch.randn(p.shape, generator=g)
            r = (r * 3).round().clamp(-8, 8) / 3
            if name.endswith(("logit_scale", "logit_bias")):
                p.fill_(2.5 if name.endswith("scale") else -3.25)
            elif p.dim() < 2:
                p.copy_(r * 0.125 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            elif "embed" in name and p.dim() == 2:
                p.copy_(r * 0.75)
            else:
                p.copy_(r * 2 ** round(math.log2(1.2 / math.sqrt(p[0].numel()))))
    return model.eval().float()


def picture(w, h, seed):
    """Soft shapes: nothing that a resize filter cannot get wrong, and small once compressed."""
    r = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    out = np.zeros((h, w, 3))
    for c in range(3):
        a, b, p = r.uniform(0.05, 0.5, 3)
        out[..., c] = 128 + 100 * np.sin(a * x + b * y + 6 * p)
    for _ in range(4):
        x0, y0 = r.integers(0, w), r.integers(0, h)
        out[y0:y0 + h // 3, x0:x0 + w // 3] = r.integers(0, 256, 3)
    return Image.fromarray(out.clip(0, 255).astype(np.uint8))


class Decoder(torch.nn.Module):
    """The language model as the public layout wants it: embeddings, mask, past in; logits, present out. The variants are what exports
    differ in: "ids" embeds itself, "fp16kv" has a cache of float16 and "fp16" all else too, "cache_branch" is told whether there is a past."""

    def __init__(self, embed, text, head, layers, variant):
        super().__init__()
        self.embed, self.text, self.head, self.layers, self.variant = embed, text, head, layers, variant

    def forward(self, *args):
        args = list(args)
        embeds, mask = args.pop(0), args.pop(0)
        if self.variant == "ids":
            embeds = self.embed(embeds)
        embeds = embeds.float()
        s, total = embeds.shape[1], mask.shape[1]
        keep = None
        if self.variant == "no_position_ids":
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, total - s:]
        else:
            positions = args.pop(0)
        if self.variant == "logits_to_keep":
            keep = args.pop(0)
        if self.variant == "cache_branch":
            branch = args.pop(0)
        cache = DynamicCache()
        for i in range(len(args) // 2):
            layer = DynamicLayer()
            layer.keys, layer.values = args[2 * i].float(), args[2 * i + 1].float()
            layer.dtype, layer.device, layer.is_initialized = torch.float32, embeds.device, True
            cache.layers.append(layer)
        q = torch.arange(s)[:, None] + (total - s)
        seen = (torch.arange(total)[None, :] <= q)[None, None] & (mask[:, None, None, :] > 0)
        causal = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        hidden = self.text(inputs_embeds=embeds, attention_mask=causal, position_ids=positions, past_key_values=cache, use_cache=True).last_hidden_state
        if keep is not None:
            hidden = hidden[:, s - keep:]
        out = [self.head(hidden)]
        if self.variant == "cache_branch":  # whoever tells it wrong gets no numbers
            out[0] = torch.where(branch == (mask.sum() > s), out[0], torch.full_like(out[0], math.nan))
        for layer in cache.layers:
            kv = [layer.keys, layer.values]
            out += [x.half() for x in kv] if self.variant in ("fp16kv", "fp16") else kv
        return tuple([out[0].half(), *out[1:]] if self.variant == "fp16" else out)


def export(module, args, path, inputs, outputs, axes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        torch.onnx.export(module, args, str(path), input_names=inputs, output_names=outputs, dynamic_axes=axes, opset_version=17, dynamo=False, do_constant_folding=True)
    import onnx
    m = onnx.load(path)
    for n in m.graph.node:
        n.doc_string = ""
        n.ClearField("metadata_props")
    onnx.save(m, path)


def export_text(folder, embed, text, head, cfg, variant=""):
    h, n, kv = cfg.hidden_size, cfg.num_hidden_layers, cfg.num_key_value_heads
    hd = getattr(cfg, "head_dim", None) or h // cfg.num_attention_heads
    if variant != "ids":
        export(torch.nn.Sequential(embed, Half()) if variant == "fp16" else embed, (torch.ones(1, 3, dtype=torch.long),), folder / "onnx/embed_tokens.onnx", ["input_ids"], ["inputs_embeds"], {"input_ids": {0: "batch", 1: "seq"}, "inputs_embeds": {0: "batch", 1: "seq"}})
    dec = Decoder(embed, text, head, n, variant)

    def one(path, with_past):
        past = 2 if with_past else 0
        first = torch.ones(1, 3, dtype=torch.long) if variant == "ids" else torch.randn(1, 3, h).to(torch.float16 if variant == "fp16" else torch.float32)
        names, args = ["input_ids" if variant == "ids" else "inputs_embeds", "attention_mask"], [first, torch.ones(1, past + 3, dtype=torch.long)]
        axes = {names[0]: {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "total"}, "logits": {0: "batch", 1: "kept" if variant == "logits_to_keep" else "seq"}}
        if variant != "no_position_ids":
            names.append("position_ids"); args.append(torch.arange(past, past + 3)[None]); axes["position_ids"] = {0: "batch", 1: "seq"}
        if variant == "logits_to_keep":
            names.append("num_logits_to_keep"); args.append(torch.tensor(1))
        if variant == "cache_branch":
            names.append("use_cache_branch"); args.append(torch.tensor([True]))
        outs = ["logits"]
        for i in range(n):
            for k in ("key", "value"):
                if with_past:
                    names.append(f"past_key_values.{i}.{k}")
                    args.append(torch.randn(1, kv, past, hd).to(torch.float16 if variant in ("fp16kv", "fp16") else torch.float32))
                    axes[names[-1]] = {0: "batch", 2: "past"}
                outs.append(f"present.{i}.{k}")
                axes[outs[-1]] = {0: "batch", 2: "total"}
        export(dec, tuple(args), path, names, outs, axes)

    if variant == "unmerged":
        one(folder / "onnx/decoder_model.onnx", False)
        one(folder / "onnx/decoder_with_past_model.onnx", True)
    else:
        one(folder / ("onnx/model.onnx" if variant == "ids" else "onnx/decoder_model_merged.onnx"), True)


class Half(torch.nn.Module):
    def forward(self, x):
        return x.half()


class Golden:
    """golden.json names what golden.bin holds: arrays one after the other, little-endian."""

    def __init__(self):
        self.data, self.at, self.cases, self.info = [], 0, [], {}

    def put(self, a):
        if isinstance(a, torch.Tensor):
            a = a.detach().numpy()
        a = np.ascontiguousarray(a)
        a = a.astype(np.uint8 if a.dtype == np.uint8 else np.float32)
        ref = {"at": self.at, "shape": list(a.shape), "type": str(a.dtype)}
        self.data.append(a.tobytes()); self.at += a.nbytes
        return ref

    def image(self, im):
        return self.put(np.asarray(im))

    def save(self, folder):
        (folder / "golden.json").write_text(json.dumps({"cases": self.cases, **self.info}, ensure_ascii=False))
        (folder / "golden.bin").write_bytes(b"".join(self.data))


def pack(folder, out):
    """A .tar.gz that is the same bytes each time."""
    buf = io.BytesIO()
    with tarfile.open(fileobj=buf, mode="w") as t:
        for f in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = tarfile.TarInfo(str(f.relative_to(folder)))
            info.size = f.stat().st_size
            t.addfile(info, io.BytesIO(f.read_bytes()))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(gzip.compress(buf.getvalue(), 9, mtime=0))
    print(out.name, out.stat().st_size, flush=True)


def text_config(s, cls, **kw):
    return cls(hidden_size=s["hidden"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"], num_key_value_heads=s["kv_heads"], intermediate_size=s["inner"], vocab_size=s["rows"], max_position_embeddings=4096, attn_implementation="eager", **kw)


def answer(model, golden, case, inputs):
    """Logits at the prompt's end and greedy tokens, from the reference's own generate."""
    inputs = {k: v for k, v in inputs.items() if k != "token_type_ids"}
    with torch.no_grad():
        out = model(**inputs)
        case["logits"] = golden.put(out.logits[0, -1])
        gen = model.generate(**inputs, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, eos_token_id=None, pad_token_id=0)
    case["input_ids"] = inputs["input_ids"][0].tolist()
    case["greedy"] = gen[0, inputs["input_ids"].shape[1]:].tolist()
    assert len(case["greedy"]) == NEW
    golden.cases.append(case)


def save(folder, model, processor, golden, out):
    model.config.to_json_file(str(folder / "config.json"), use_diff=False)
    model.generation_config.save_pretrained(folder) if hasattr(model, "generation_config") and model.generation_config else None
    processor.save_pretrained(folder)
    golden.save(folder)
    pack(folder, out)


# --- architectures ---------------------------------------------------------------------------------------------------

class TiledVision(torch.nn.Module):
    """The encoder and connector of SmolVLM and Idefics3; the places' ids are made outside of what a trace cannot follow."""

    def __init__(self, model, s):
        super().__init__()
        self.v, self.c = model.vision_model, model.connector
        side = s["image"] // s["patch"]
        edges = torch.arange(1 / side, 1.0, 1 / side)
        b = torch.bucketize(torch.arange(side).float() / side * (1 - 1e-6), edges, right=True)
        self.register_buffer("ids", (b[:, None] * side + b).flatten()[None])

    def forward(self, pixels, mask):
        x = (pixels * mask.to(pixels.dtype)[:, :, None]).flatten(0, 1)
        e = self.v.embeddings.patch_embedding(x).flatten(2).transpose(1, 2) + self.v.embeddings.position_embedding(self.ids)
        return self.c(self.v.post_layernorm(self.v.encoder(inputs_embeds=e).last_hidden_state))


def export_tiled(folder, model, s, inp, feats):
    vision = TiledVision(model, s).eval()
    pix, mask = inp["pixel_values"], inp["pixel_attention_mask"].bool()
    assert torch.allclose(vision(pix, mask), feats, atol=1e-5)
    export(vision, (pix, mask), folder / "onnx/vision_encoder.onnx", ["pixel_values", "pixel_attention_mask"], ["image_features"],
           {"pixel_values": {0: "batch", 1: "images"}, "pixel_attention_mask": {0: "batch", 1: "images"}, "image_features": {0: "n"}})


def smolvlm(s, folder, out):
    from transformers.models.smolvlm import configuration_smolvlm as c
    rows = [f"<row_{r}_col_{k}>" for r in range(1, 7) for k in range(1, 7)]
    tok = tokenizer("smollm2", s["vocab"], ["<fake_token_around_image>", "<image>", "<video>", "<end_of_utterance>", "<global-img>"] + rows)
    s["rows"] = len(tok)
    cfg = c.SmolVLMConfig(
        text_config=text_config(s, tf.LlamaConfig, rope_theta=100000.0, tie_word_embeddings=False).to_dict() | {"model_type": "llama"},
        vision_config=dict(hidden_size=s["vision_hidden"], num_hidden_layers=s["vision_layers"], num_attention_heads=s["vision_heads"], intermediate_size=s["vision_inner"], image_size=s["image"], patch_size=s["patch"]),
        scale_factor=s["scale"], image_token_id=tok.convert_tokens_to_ids("<image>"), pad_token_id=0, tie_word_embeddings=False)
    cfg._attn_implementation = "eager"
    model = randomise(tf.SmolVLMForConditionalGeneration(cfg), 1)
    n = (s["image"] // s["patch"]) ** 2 // s["scale"] ** 2
    ip = tf.SmolVLMImageProcessor(size={"longest_edge": s["longest"]}, max_image_size={"longest_edge": s["image"]})
    vp = tf.SmolVLMVideoProcessor(size={"longest_edge": s["image"]}, max_image_size={"longest_edge": s["image"]}, video_sampling={"fps": 1, "max_frames": 64, "video_size": {"longest_edge": s["image"]}})
    proc = tf.SmolVLMProcessor(ip, tok, vp, image_seq_len=n, chat_template=SMOLVLM_CHAT)
    g = Golden()

    frames = [picture(w, h, 10 + i) for i, (w, h) in enumerate(s["frames"])]
    times = [1, 4, 62][:len(frames)] + [70 + i for i in range(len(frames) - 3)]
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens at the gate?"}]}]
    text = tf.ProcessorMixin.apply_chat_template(proc, chat, add_generation_prompt=True)
    meta = [dict(fps=1.0, total_num_frames=times[-1] + 1, duration=float(times[-1] + 1), frames_indices=times)]
    video = torch.from_numpy(np.stack([np.asarray(f) for f in frames])).permute(0, 3, 1, 2)
    inp = proc(text=text, videos=[[video]], video_metadata=[meta], do_sample_frames=False, return_tensors="pt")
    feats = model.model.get_image_features(inp["pixel_values"], inp["pixel_attention_mask"])
    case = dict(kind="video", question="What happens at the gate?", times=times, duration=times[-1] + 1, images=[g.image(f) for f in frames], pixels=g.put(inp["pixel_values"][0]), features=g.put(feats))
    answer(model, g, case, {k: inp[k] for k in ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask")})

    im = picture(*s["still"], 20)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a red van? 12 of them"}]}]
    text = tf.ProcessorMixin.apply_chat_template(proc, chat, add_generation_prompt=True)
    inp = proc(text=text, images=[[im]], return_tensors="pt")
    feats = model.model.get_image_features(inp["pixel_values"], inp["pixel_attention_mask"])
    case = dict(kind="still", question="Is there a red van? 12 of them", images=[g.image(im)], pixels=g.put(inp["pixel_values"][0]), features=g.put(feats))
    answer(model, g, case, {k: inp[k] for k in ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask")})

    export_tiled(folder, model.model, s, inp, feats)
    export_text(folder, model.model.text_model.embed_tokens, model.model.text_model, model.lm_head, cfg.text_config)
    save(folder, model, proc, g, out)


def idefics3(s, folder, out):
    """Knows pictures only: a still in tiles, and the frames of a stream as so many pictures, each whole."""
    rows = [f"<row_{r}_col_{k}>" for r in range(1, 7) for k in range(1, 7)]
    tok = tokenizer("llama3", s["vocab"], ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"] + rows)
    s["rows"] = len(tok)
    cfg = tf.Idefics3Config(
        text_config=text_config(s, tf.LlamaConfig, rope_theta=500000.0, tie_word_embeddings=False).to_dict() | {"model_type": "llama"},
        vision_config=dict(hidden_size=s["vision_hidden"], num_hidden_layers=s["vision_layers"], num_attention_heads=s["vision_heads"], intermediate_size=s["vision_inner"], image_size=s["image"], patch_size=s["patch"]),
        scale_factor=s["scale"], image_token_id=tok.convert_tokens_to_ids("<image>"), pad_token_id=0, tie_word_embeddings=False)
    cfg._attn_implementation = "eager"
    model = randomise(tf.Idefics3ForConditionalGeneration(cfg), 8)
    ip = tf.Idefics3ImageProcessor(size={"longest_edge": s["longest"]}, max_image_size={"longest_edge": s["image"]})
    proc = tf.Idefics3Processor(ip, tok, image_seq_len=(s["image"] // s["patch"]) ** 2 // s["scale"] ** 2, chat_template=IDEFICS3_CHAT)
    g = Golden()
    for kind, pictures in (("still", [picture(*s["still"], 80)]), ("frames", [picture(w, h, 81 + i) for i, (w, h) in enumerate(s["frames"])])):
        q = "Is the gate open?"
        text = proc.apply_chat_template([{"role": "user", "content": [{"type": "image"}] * len(pictures) + [{"type": "text", "text": q}]}], add_generation_prompt=True)
        ip.do_image_splitting = kind == "still"
        inp = proc(text=text, images=[pictures], return_tensors="pt")
        feats = model.model.get_image_features(inp["pixel_values"], inp["pixel_attention_mask"])
        case = dict(kind=kind, question=q, images=[g.image(im) for im in pictures], pixels=g.put(inp["pixel_values"][0]), features=g.put(feats))
        answer(model, g, case, {k: inp[k] for k in ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask")})
    ip.do_image_splitting = True  # as published
    export_tiled(folder, model.model, s, inp, feats)
    export_text(folder, model.model.text_model.embed_tokens, model.model.text_model, model.lm_head, cfg.text_config)
    save(folder, model, proc, g, out)


class LlavaVision(torch.nn.Module):
    def __init__(self, model, layer, drop, newline):
        super().__init__()
        self.tower, self.proj, self.layer, self.drop = model.vision_tower, model.multi_modal_projector, layer, drop
        self.newline = newline

    def forward(self, pixels):
        h = self.tower(pixels, output_hidden_states=True).hidden_states[self.layer]
        out = self.proj(h[:, 1:] if self.drop else h)
        # The newline hangs on the input, or the exporter would fold it away with its name.
        return (out, self.newline + pixels[0, 0, 0, 0] * 0) if self.newline is not None else out


def export_llava(folder, model, cfg, s, drop, newline):
    vision = LlavaVision(model, cfg.vision_feature_layer, drop, newline).eval()
    export(vision, (torch.randn(2, 3, s["image"], s["image"]),), folder / "onnx/vision_encoder.onnx", ["pixel_values"], ["image_features"] + (["image_newline"] if newline is not None else []), {"pixel_values": {0: "n"}, "image_features": {0: "n"}})
    return vision


def llava_next(s, folder, out):
    tok = tokenizer("llama2", s["vocab"], ["<image>"])
    s["rows"] = len(tok)
    cfg = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(hidden_size=s["vision_hidden"], num_hidden_layers=s["vision_layers"], num_attention_heads=s["vision_heads"], intermediate_size=s["vision_inner"], image_size=s["image"], patch_size=s["patch"], projection_dim=16),
        text_config=text_config(s, tf.MistralConfig, sliding_window=None, tie_word_embeddings=False), image_grid_pinpoints=s["grid"], image_token_index=tok.convert_tokens_to_ids("<image>"), vision_feature_layer=-2, vision_feature_select_strategy="default")
    cfg._attn_implementation = "eager"
    model = randomise(tf.LlavaNextForConditionalGeneration(cfg), 2)
    ip = tf.LlavaNextImageProcessor(size={"shortest_edge": s["image"]}, crop_size={"height": s["image"], "width": s["image"]}, image_grid_pinpoints=s["grid"])
    proc = tf.LlavaNextProcessor(ip, tok, patch_size=s["patch"], vision_feature_select_strategy="default", chat_template=VICUNA_CHAT, image_token="<image>", num_additional_image_tokens=1)
    g = Golden()
    for i, size in enumerate([s["still"], s["still"][::-1], [s["image"] - 3, s["image"] - 5]]):
        im = picture(*size, 30 + i)
        q = "Who is there?"
        text = proc.apply_chat_template([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": q}]}], add_generation_prompt=True)
        inp = proc(text=text, images=im, return_tensors="pt")
        feats = torch.cat(list(model.model.get_image_features(inp["pixel_values"], inp["image_sizes"])) if False else model.model.pack_image_features(
            torch.split(model.model.multi_modal_projector(model.model.vision_tower(inp["pixel_values"][0], output_hidden_states=True).hidden_states[-2][:, 1:]), [inp["pixel_values"].shape[1]]),
            inp["image_sizes"], "default", model.model.image_newline)[0])
        case = dict(kind="still", question=q, images=[g.image(im)], pixels=g.put(inp["pixel_values"][0]), features=g.put(feats))
        answer(model, g, case, dict(inp))
    export_llava(folder, model.model, cfg, s, True, model.model.image_newline)
    export_text(folder, model.model.language_model.embed_tokens, model.model.language_model, model.lm_head, cfg.text_config)
    save(folder, model, proc, g, out)


def siglip_vision(s):
    return tf.SiglipVisionConfig(hidden_size=s["vision_hidden"], num_hidden_layers=s["vision_layers"], num_attention_heads=s["vision_heads"], intermediate_size=s["vision_inner"], image_size=s["image"], patch_size=s["patch"], vision_use_head=False)


def llava_onevision(s, folder, out):
    tok = tokenizer("qwen2", s["vocab"], ["<image>", "<video>"])
    s["rows"] = len(tok)
    cfg = tf.LlavaOnevisionConfig(vision_config=siglip_vision(s), text_config=text_config(s, tf.Qwen2Config, tie_word_embeddings=True), image_grid_pinpoints=s["grid"], vision_aspect_ratio=s["aspect"],
                                  image_token_index=tok.convert_tokens_to_ids("<image>"), video_token_index=tok.convert_tokens_to_ids("<video>"), vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True)
    cfg._attn_implementation = "eager"
    model = randomise(tf.LlavaOnevisionForConditionalGeneration(cfg), 3)
    side = {"height": s["image"], "width": s["image"]}
    n = (s["image"] // s["patch"]) ** 2
    ip = tf.LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=s["grid"])
    proc = tf.LlavaOnevisionProcessor(ip, tok, tf.LlavaOnevisionVideoProcessor(size=side), num_image_tokens=n, vision_feature_select_strategy="full", chat_template=QWEN_VL_CHAT, vision_aspect_ratio=s["aspect"])
    g = Golden()
    for i, size in enumerate([s["still"], s["still"][::-1]]):
        im = picture(*size, 40 + i)
        q = "How many people?"
        text = proc.apply_chat_template([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": q}]}], add_generation_prompt=True)
        inp = proc(text=text, images=im, return_tensors="pt")
        feats = torch.cat(model.model.get_image_features(inp["pixel_values"], inp["image_sizes"], vision_feature_layer=-1, vision_feature_select_strategy="full", vision_aspect_ratio=s["aspect"]))
        case = dict(kind="still", question=q, images=[g.image(im)], pixels=g.put(inp["pixel_values"][0]), features=g.put(feats))
        answer(model, g, case, {k: inp[k] for k in ("input_ids", "attention_mask", "pixel_values", "image_sizes")} | {"vision_aspect_ratio": s["aspect"]})
    frames = [picture(w, h, 50 + i) for i, (w, h) in enumerate(s["frames"])]
    q = "What changed?"
    text = proc.apply_chat_template([{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": q}]}], add_generation_prompt=True)
    video = torch.from_numpy(np.stack([np.asarray(f) for f in frames])).permute(0, 3, 1, 2)
    inp = proc(text=text, videos=[video], return_tensors="pt")
    feats = model.model.get_video_features(inp["pixel_values_videos"], -1, "full")[0]
    feats = torch.cat([feats, model.model.image_newline[None]])
    case = dict(kind="video", question=q, times=list(range(len(frames))), duration=len(frames), images=[g.image(f) for f in frames], pixels=g.put(inp["pixel_values_videos"][0]), features=g.put(feats))
    answer(model, g, case, {k: inp[k] for k in ("input_ids", "attention_mask", "pixel_values_videos")})
    export_llava(folder, model.model, cfg, s, False, model.model.image_newline)
    export_text(folder, model.model.language_model.embed_tokens, model.model.language_model, model.lm_head, cfg.text_config)
    save(folder, model, proc, g, out)


def llava_model(s):
    tok = tokenizer("qwen2", s["vocab"], ["<image>", "<video>"])
    s["rows"] = len(tok)
    cfg = tf.LlavaConfig(vision_config=siglip_vision(s), text_config=text_config(s, tf.Qwen2Config, tie_word_embeddings=True), image_token_index=tok.convert_tokens_to_ids("<image>"), vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True)
    cfg._attn_implementation = "eager"
    model = randomise(tf.LlavaForConditionalGeneration(cfg), 4)
    ip = tf.SiglipImageProcessor(size={"height": s["image"], "width": s["image"]})
    proc = tf.LlavaProcessor(ip, tok, patch_size=s["patch"], vision_feature_select_strategy="full", chat_template=QWEN_VL_CHAT, image_token="<image>", num_additional_image_tokens=0)
    return model, cfg, proc


def llava(s, folder, out):
    """LLaVA-NeXT-Interleave: any number of images, each as its patches."""
    model, cfg, proc = llava_model(s)
    g = Golden()
    for images in (1, 3):
        ims = [picture(*s["still"], 60 + images + i) for i in range(images)]
        q = "What differs?"
        text = proc.apply_chat_template([{"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": q}]}], add_generation_prompt=True)
        inp = proc(text=text, images=ims, return_tensors="pt")
        feats = torch.cat(list(model.model.get_image_features(inp["pixel_values"], -1, "full")))
        case = dict(kind="still", question=q, images=[g.image(im) for im in ims], pixels=g.put(inp["pixel_values"]), features=g.put(feats))
        answer(model, g, case, dict(inp))
    export_llava(folder, model.model, cfg, s, False, None)
    export_text(folder, model.model.language_model.embed_tokens, model.model.language_model, model.lm_head, cfg.text_config)
    save(folder, model, proc, g, out)


FASTVLM_CHAT = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n'}}{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}{# Render all text next #}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def fastvlm(s, folder, out):
    """LLaVA with a convolutional encoder, which has no patches: the processor's configuration tells how many tokens there are."""
    if not hasattr(tf, "FastVlmConfig"):
        print("fastvlm is left out: transformers", tf.__version__, "does not have it; see requirements-fastvlm.txt", flush=True)
        return
    tok = tokenizer("qwen2", s["vocab"], ["<image>"])
    s["rows"] = len(tok)
    dims = s["stages"]
    vision = tf.TimmWrapperConfig(architecture="fastvit_mci3", do_pooling=True, global_pool="avg", hidden_size=2 * dims[-1],
                                  model_args=dict(inference_mode=True, embed_dims=dims, layers=s["layers_each"], mlp_ratios=[1] * 5, downsamples=s["halved"]))
    cfg = tf.FastVlmConfig(vision_config=vision.to_dict(), text_config=text_config(s, tf.Qwen2Config, tie_word_embeddings=True).to_dict(), image_token_id=tok.convert_tokens_to_ids("<image>"), tie_word_embeddings=True)
    cfg._attn_implementation = "eager"
    model = randomise(tf.FastVlmForConditionalGeneration(cfg), 9)
    side = {"height": s["image"], "width": s["image"]}
    ip = tf.CLIPImageProcessor(size={"shortest_edge": s["image"]}, crop_size=side, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    proc = tf.LlavaProcessor(ip, tok, patch_size=4 * 2 ** sum(s["halved"]), vision_feature_select_strategy="full", chat_template=FASTVLM_CHAT, image_token="<image>")
    g = Golden()
    for images in range(1, s["most"] + 1):
        ims = [picture(*s["still"], 90 + images + i) for i in range(images)]
        q = "Where is the van?"
        text = proc.apply_chat_template([{"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": q}]}], add_generation_prompt=True)
        inp = proc(text=text, images=ims, return_tensors="pt")
        feats = torch.cat(list(model.model.get_image_features(inp["pixel_values"], return_dict=True).pooler_output))
        case = dict(kind="still", question=q, images=[g.image(im) for im in ims], pixels=g.put(inp["pixel_values"]), features=g.put(feats))
        answer(model, g, case, {k: inp[k] for k in ("input_ids", "attention_mask", "pixel_values")})

    class Vision(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower, self.proj = model.model.vision_tower.timm_model, model.model.multi_modal_projector

        def forward(self, pixels):
            return self.proj(self.tower.forward_features(pixels).flatten(2).permute(0, 2, 1))

    tower = Vision().eval()
    assert torch.allclose(tower(inp["pixel_values"]).flatten(0, 1), feats, atol=1e-5)
    export(tower, (inp["pixel_values"],), folder / "onnx/vision_encoder.onnx", ["pixel_values"], ["image_features"], {"pixel_values": {0: "n"}, "image_features": {0: "n", 1: "tokens"}})
    export_text(folder, model.model.language_model.embed_tokens, model.model.language_model, model.lm_head, cfg.text_config)
    save(folder, model, proc, g, out)


def llama(s, folder, out):
    tok = tokenizer("smollm2", s["vocab"], [])
    tok.chat_template = SMOLLM_CHAT
    s["rows"] = len(tok)
    cfg = text_config(s, tf.LlamaConfig, rope_theta=100000.0, tie_word_embeddings=True)
    model = randomise(tf.LlamaForCausalLM(cfg), 5)
    g = Golden()
    for q in ("Is there a red van at the gate?", "Wie spät ist es? 你好 🦊\n\n 2024"):
        ids = tok(tok.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True), return_tensors="pt", add_special_tokens=False)
        case = dict(kind="text", question=q)
        inputs = {k: ids[k] for k in ("input_ids", "attention_mask")}
        answer(model, g, case, inputs)
        if s["variant"] in ("fp16kv", "fp16"):  # what is handed on is rounded to half at each step, so the reference is rounded too
            dec, cache, new = Decoder(None, model.model, model.lm_head, s["layers"], s["variant"]), [], []
            x = model.model.embed_tokens(inputs["input_ids"])
            with torch.no_grad():
                while len(new) < NEW:
                    x = x.half() if s["variant"] == "fp16" else x
                    past = cache[0].shape[2] if cache else 0
                    total = past + x.shape[1]
                    o = dec(x, torch.ones(1, total, dtype=torch.long), torch.arange(past, total)[None], *cache)
                    cache = list(o[1:])
                    a, b = o[0][0, -1].float().topk(2).values
                    assert s["variant"] != "fp16" or a - b > 2e-3 * abs(a), "too near a tie for logits of half precision: try other sizes"
                    new.append(int(o[0][0, -1].argmax()))
                    x = model.model.embed_tokens(torch.tensor([[new[-1]]]))
            case["greedy"] = new
    export_text(folder, model.model.embed_tokens, model.model, model.lm_head, cfg, s["variant"])
    save(folder, model, tok, g, out)


TEXTS = ["a photo of a red van", "Two people, walking!", "a gate that is closed at night " * 12, "你好", ""]


def pair(s, folder, out, model, proc, tok, vision, text, g):
    im = picture(*s["still"], 70)
    ids = tok(TEXTS, padding="max_length", truncation=True, max_length=model.config.text_config.max_position_embeddings, return_tensors="pt")
    inp = {"pixel_values": proc.image_processor(im, return_tensors="pt")["pixel_values"], **{k: v for k, v in ids.items() if k in ("input_ids", "attention_mask")}}
    with torch.no_grad():
        o = model(**inp)
        image, texts = vision(inp["pixel_values"]), text(inp["input_ids"])
        same = torch.nn.functional.normalize(image, dim=-1)
        assert torch.allclose(same, o.image_embeds, atol=1e-5)
    g.cases.append(dict(kind="pair", images=[g.image(im)], pixels=g.put(inp["pixel_values"]), texts=TEXTS, ids=inp["input_ids"].tolist(), image_embeds=g.put(o.image_embeds), text_embeds=g.put(o.text_embeds), logits=g.put(o.logits_per_image[0])))
    export(vision, (inp["pixel_values"],), folder / "onnx/vision_model.onnx", ["pixel_values"], ["image_embeds" if model.config.model_type == "clip" else "pooler_output"], {"pixel_values": {0: "n"}, "image_embeds": {0: "n"}, "pooler_output": {0: "n"}})
    export(text, (inp["input_ids"],), folder / "onnx/text_model.onnx", ["input_ids"], ["text_embeds" if model.config.model_type == "clip" else "pooler_output"], {"input_ids": {0: "n", 1: "seq"}, "text_embeds": {0: "n"}, "pooler_output": {0: "n"}})
    # The public layout has no place for the trained scale and bias: config.json takes them.
    model.config.logit_scale = float(model.logit_scale)
    if hasattr(model, "logit_bias"):
        model.config.logit_bias = float(model.logit_bias)
    save(folder, model, proc, g, out)


class Text(torch.nn.Module):
    """A text tower for padded ids; the mask is made outside of what a trace cannot follow."""

    def __init__(self, tower, project, causal):
        super().__init__()
        self.t, self.p, self.causal = tower, project, causal

    def forward(self, ids):
        x = self.t.embeddings(input_ids=ids)
        n = ids.shape[1]
        if not self.causal:
            x = self.t.encoder(inputs_embeds=x).last_hidden_state
            return self.t.head(self.t.final_layer_norm(x)[:, -1])
        mask = torch.full((n, n), torch.finfo(x.dtype).min).triu(1)[None, None]
        for layer in self.t.encoder.layers:
            x = layer(x, mask, mask)[0] if "causal_attention_mask" in layer.forward.__code__.co_varnames else layer(x, mask)
            x = x[0] if isinstance(x, tuple) else x
        x = self.t.final_layer_norm(x)
        end = (ids == self.t.eos_token_id).int().argmax(-1)
        return self.p(x.gather(1, end[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0])


def clip(s, folder, out):
    tok = tokenizer("clip", s["vocab"], [])
    tok.model_max_length = 40
    eos = tok.eos_token_id
    cfg = tf.CLIPConfig(text_config=dict(vocab_size=len(tok), hidden_size=s["hidden"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"], intermediate_size=s["inner"], max_position_embeddings=40, eos_token_id=eos, bos_token_id=0, pad_token_id=eos),
                        vision_config=dict(hidden_size=s["vision_hidden"], num_hidden_layers=s["vision_layers"], num_attention_heads=s["vision_heads"], intermediate_size=s["vision_inner"], image_size=s["image"], patch_size=s["patch"]), projection_dim=s["projection"])
    cfg._attn_implementation = "eager"
    model = randomise(tf.CLIPModel(cfg), 6)
    ip = tf.CLIPImageProcessor(size={"shortest_edge": s["image"]}, crop_size={"height": s["image"], "width": s["image"]})
    proc = type("P", (), {"image_processor": ip, "save_pretrained": lambda self, f: (ip.save_pretrained(f), tok.save_pretrained(f))})()

    class Vision(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.m = model

        def forward(self, pixels):
            return self.m.get_image_features(pixel_values=pixels)

    pair(s, folder, out, model, proc, tok, Vision(), Text(model.text_model, model.text_projection, True), Golden())


def siglip(s, folder, out):
    tok = tokenizer("siglip", s["vocab"], [])
    tok.model_max_length = 24
    cfg = tf.SiglipConfig(text_config=dict(vocab_size=len(tok), hidden_size=s["hidden"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"], intermediate_size=s["inner"], max_position_embeddings=24, projection_size=s["hidden"]),
                          vision_config=dict(hidden_size=s["hidden"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"], intermediate_size=s["inner"], image_size=s["image"], patch_size=s["patch"]))
    cfg._attn_implementation = "eager"
    model = randomise(tf.SiglipModel(cfg), 7)
    ip = tf.SiglipImageProcessor(size={"height": s["image"], "width": s["image"]})
    proc = type("P", (), {"image_processor": ip, "save_pretrained": lambda self, f: (ip.save_pretrained(f), tok.save_pretrained(f))})()

    class Vision(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.m = model

        def forward(self, pixels):
            return self.m.get_image_features(pixel_values=pixels)

    class Pair(type(model)):
        def forward(self, input_ids, pixel_values, attention_mask=None):  # SigLIP is used without a mask
            return super().forward(input_ids=input_ids, pixel_values=pixel_values)

    model.__class__ = Pair
    pair(s, folder, out, model, proc, tok, Vision(), Text(model.text_model, None, False), Golden())


def main():
    here = Path(__file__).resolve().parent
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", type=Path, default=here / "../../vlm/testdata")
    ap.add_argument("--sizes", type=Path, default=here / "sizes.json")
    ap.add_argument("--only")
    ap.add_argument("--checkpoint", type=Path)
    args = ap.parse_args()
    torch.set_num_threads(1)
    sizes_of = json.loads(args.sizes.read_text())
    if args.checkpoint:
        model, _, proc = llava_model(dict(sizes_of["llava"][0]))
        # Without token_type_ids, which LLaVA does not take. What was given at the start is saved, with the value it has by then.
        proc.tokenizer.model_input_names = proc.tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
        model.save_pretrained(args.checkpoint)
        proc.save_pretrained(args.checkpoint)
        return
    for arch, sizes in sizes_of.items():
        if args.only and arch != args.only:
            continue
        for s in sizes:
            with tempfile.TemporaryDirectory() as tmp:
                globals()[arch](dict(s), Path(tmp), args.out / f"{arch}-{s['name']}.tar.gz")


if __name__ == "__main__":
    main()
