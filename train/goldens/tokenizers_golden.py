"""Makes llm/tokenizer/testdata/goldens.json.gz: a small tokenizer of each family, trained here, and what the reference
library (the `tokenizers` package) gives for 12,000 strings. The strings are not stored: Go makes the same ones from the
fragments with the same generator, so the file stays small. Each string has a checksum of its ids (special tokens
recognised, and not) and of its decoded text; the first 200 have all of them in full.

Usage: python tokenizers_golden.py [--out FILE]
"""
import argparse, gzip, io, json, zlib
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FRAGMENTS = [
    "the ", "a person ", "enters from the left", " red van", "stops", " at the gate", ". ", ", ", "It's", " they'LL", "I'm", "don't", "we've ", "'re", "'D ", "Yes.", "no", "?", "!", "...", " - ",
    "2024", "17:05:33", "3.14159", "1,000,000", "0x1F", "٣٤٥", "Ⅷ", "½", "²", "१२३",
    "def f(x):\n    return x**2\n", "if (a != b && c) { i++; }", "\tfor i := range n {\r\n", "<div class=\"x\">", "https://example.com/a?b=c#d", "SELECT * FROM t WHERE id=1;", "\\n", "${HOME}", "__init__", "camelCaseName", "snake_case",
    " ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000", "\u2028", "\u200b", "\u202e", "\x85", "\x0b", "\x0c",
    "😀", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "☃", "你好，世界。", "街道上有一辆红色的车", "日本語のテキスト", "カメラ", "안녕하세요", "\u1112\u1161\u11ab", "مرحبا بالعالم", "سَيَّارَة", "שלום", "नमस्ते दुनिया", "สวัสดี", "Привет, мир", "Ελληνικά ΣΑΣ", "Straße", "ﬁne", "İstanbul", "I\u0307", "naïve café", "nai\u0308ve cafe\u0301", "é\u0323\u0301", "Å\u212b", "Ω\u2126", "\u0344", "가\u11a8",
    "\x00", "\x01\x02", "\x1b[0m", "\x7f", "\ufeff", "\ufffd", "\ue000", "\U000f0000", "\U0010ffff",
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<image>", " <image> ", "<mask>", "  <mask>\n", "word", "swordfish", "sword ", "<0x0A>", "<0xE4>", "▁", "▁▁the", "</w>", "Ġthe", "[INST]", "<|", "|>", "<extra>",
    "x" * 40, "ab" * 30, "-" * 60, "=" * 17, " " * 50, "!?" * 12, "é" * 20, "中" * 30,
]
RANGES = [(0x20, 0x7E), (0xA1, 0x17F), (0x386, 0x3CE), (0x410, 0x44F), (0x5D0, 0x5EA), (0x621, 0x64A), (0x905, 0x939), (0xE01, 0xE3A), (0x3041, 0x3096), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x300, 0x36F), (0x1F600, 0x1F64F), (0x0, 0x1F), (0x2010, 0x2027), (0x1E00, 0x1EFF), (0x1D400, 0x1D454)]
COUNT, FULL = 12000, 200


class Random:
    """splitmix64; the Go test has the same one."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        m = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & m
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & m
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & m
        return (z ^ (z >> 31)) % n


def string(i):
    r = Random(i)
    out = b""
    for _ in range(1 + r.below(8)):
        kind = r.below(10)
        if kind < 7:
            out += FRAGMENTS[r.below(len(FRAGMENTS))].encode()
        elif kind < 9:
            lo, hi = RANGES[r.below(len(RANGES))]
            for _ in range(1 + r.below(6)):
                out += chr(lo + r.below(hi - lo + 1)).encode()
        elif i % 4 == 0:  # broken UTF-8
            for _ in range(1 + r.below(5)):
                out += bytes([0x80 + r.below(128)])
        else:
            out += bytes([0x20 + r.below(95)])
    return out


def corpus():
    yield from FRAGMENTS
    for i in range(COUNT, COUNT + 3000):
        yield string(i).decode("utf-8", errors="replace")
    for f in FRAGMENTS[:50]:
        for g in FRAGMENTS[:30]:
            yield f + g


GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = GPT4.replace("{1,3}", "")
CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
ADDED = [AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False, special=True), AddedToken("sword", single_word=True, normalized=True), AddedToken("<extra>", normalized=False), AddedToken("<image>", normalized=False, special=True)]


def train(tok, size, kind="bpe", **kw):
    if kind == "bpe":
        trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, **kw)
    else:
        trainer = trainers.UnigramTrainer(vocab_size=size, show_progress=False, **kw)
    # Unigram keeps every character it has seen, so it sees the fragments only.
    tok.train_from_iterator(corpus() if kind == "bpe" else (f + g for f in FRAGMENTS for g in FRAGMENTS[:30]), trainer)
    tok.add_tokens(ADDED)
    return tok


def families():
    alphabet = pre_tokenizers.ByteLevel.alphabet()

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.decoder = decoders.ByteLevel()
    yield "gpt2", train(t, 900, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])

    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t = train(t, 1000, initial_alphabet=alphabet, special_tokens=["<s>", "<|im_end|>"])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])])
    yield "llama3", t

    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.decoder = decoders.ByteLevel()
    yield "qwen2", train(t, 900, initial_alphabet=alphabet, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.decoder = decoders.ByteLevel()
    yield "smollm2", train(t, 800, initial_alphabet=alphabet, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])

    for name, meta in (("llama2", False), ("mistral", True)):
        t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        if meta:
            t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
        else:
            t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        # Without a split the trainer would see whole lines as words, so it trains with one.
        pre = t.pre_tokenizer
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
        t = train(t, 900, limit_alphabet=250, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])
        saved = json.loads(t.to_str())
        saved["pre_tokenizer"] = json.loads(Tokenizer(models.BPE()).to_str())["pre_tokenizer"]
        saved["added_tokens"] = [a for a in saved["added_tokens"] if not a["content"].startswith("<0x")]
        t = Tokenizer.from_str(json.dumps(saved))
        if meta:
            t.pre_tokenizer = pre
        t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
        yield name, t

    t = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CLIP), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t = train(t, 1200, initial_alphabet=alphabet, end_of_word_suffix="</w>", special_tokens=["<|startoftext|>", "<|endoftext|>"])
    t.post_processor = processors.RobertaProcessing(sep=("<|endoftext|>", 1), cls=("<|startoftext|>", 0), trim_offsets=False, add_prefix_space=False)
    yield "clip", t

    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"), ""), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    t = train(t, 700, "unigram", unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"])
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    yield "siglip", t

    # A SentencePiece model with its own normalizer (nmt_nfkc), as SigLIP's and T5's are converted.
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb

    buf = io.BytesIO()
    lines = sorted({w for f in FRAGMENTS for w in f.split()} | {f + g for f in FRAGMENTS[:60] for g in FRAGMENTS[:30]})
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(l for l in lines if "\0" not in l), model_writer=buf, vocab_size=600, hard_vocab_limit=False, normalization_rule_name="nmt_nfkc",
                                             pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2)
    m = pb.ModelProto.FromString(buf.getvalue())
    t = Tokenizer(models.Unigram([(p.piece, p.score) for p in m.pieces], unk_id=2, byte_fallback=False))
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(m.normalizer_spec.precompiled_charsmap), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<pad>", "</s>", "<unk>")])
    t.add_tokens(ADDED)
    yield "sentencepiece", t

    # Gemma's way, which SigLIP 2 uses: spaces become ▁, split before each.
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    t = train(t, 800, limit_alphabet=200, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])
    saved = json.loads(t.to_str())
    saved["added_tokens"] = [a for a in saved["added_tokens"] if not a["content"].startswith("<0x")]
    saved["pre_tokenizer"]["behavior"] = "MergedWithPrevious"
    yield "gemma", Tokenizer.from_str(json.dumps(saved))


def main():
    here = Path(__file__).resolve().parent
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", type=Path, default=here / "../../llm/tokenizer/testdata/goldens.json.gz")
    args = ap.parse_args()
    texts = [string(i).decode("utf-8", errors="replace") for i in range(COUNT)]
    out = {"fragments": FRAGMENTS, "ranges": RANGES, "count": COUNT, "families": {}}
    for name, tok in families():
        sums, full = bytearray(), []
        for i, text in enumerate(texts):
            tok.encode_special_tokens = False
            special = tok.encode(text, add_special_tokens=False).ids
            tok.encode_special_tokens = True
            plain = tok.encode(text, add_special_tokens=False).ids
            decoded = tok.decode(special)
            line = " ".join(map(str, special)) + "|" + " ".join(map(str, plain)) + "|" + decoded
            sums += (zlib.crc32(line.encode()) & 0xFFFF).to_bytes(2, "little")
            if i < FULL:
                full.append({"special": special, "plain": plain, "decoded": decoded})
        tok.encode_special_tokens = False
        wrapped = tok.encode(texts[0]).ids
        out["families"][name] = {"tokenizer": json.loads(tok.to_str()), "sums": bytes(sums).hex(), "full": full, "wrapped": wrapped}
        print(name, tok.get_vocab_size())
    data = json.dumps(out, ensure_ascii=False, separators=(",", ":")).encode()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(gzip.compress(data, 9, mtime=0))
    print(args.out, args.out.stat().st_size)


if __name__ == "__main__":
    main()
