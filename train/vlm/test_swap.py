"""Run from train/: python -m unittest vlm.test_swap   (the last test needs `make smollm2`)"""
import json
import os
import struct
import tempfile
import unittest

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vlm import export, swap_stage
from vlm.data import SPECIAL
from vlm.model import Config, Temporal
from yard.labels import GRID_W

SMOLLM2 = os.environ.get("LOOKOUT_SMOLLM2", os.path.expanduser("~/.cache/lookout/models/local--smollm2-135m"))


def small_llama(folder: str) -> dict[str, torch.Tensor]:
    """A Llama of random weights, laid out as `make smollm2` lays out its own."""
    d, ffn, heads, kv, hd, layers = 48, 80, 6, 2, 16, 3
    t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "yes", "no"])}, merges=[]))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    t.save(os.path.join(folder, "tokenizer.json"))
    vocab = t.get_vocab_size()
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(dict(model_type="llama", tie_word_embeddings=True, rms_norm_eps=1e-5, rope_scaling=None, hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads,
                       num_key_value_heads=kv, head_dim=hd, intermediate_size=ffn, vocab_size=vocab, rope_theta=1e5), f)
    w = {"model.embed_tokens.weight": torch.randn(vocab, d), "model.norm.weight": torch.rand(d) + 0.5}
    for i in range(layers):
        p = f"model.layers.{i}."
        w[p + "input_layernorm.weight"], w[p + "post_attention_layernorm.weight"] = torch.rand(d) + 0.5, torch.rand(d) + 0.5
        for name, o, n in (("self_attn.q_proj", heads * hd, d), ("self_attn.k_proj", kv * hd, d), ("self_attn.v_proj", kv * hd, d), ("self_attn.o_proj", d, heads * hd),
                           ("mlp.gate_proj", ffn, d), ("mlp.up_proj", ffn, d), ("mlp.down_proj", d, ffn)):
            w[p + name + ".weight"] = torch.randn(o, n) * n ** -0.5
    head, at = {"__metadata__": {"format": "pt"}}, 0
    for k, v in w.items():
        head[k] = {"dtype": "F32", "shape": list(v.shape), "data_offsets": [at, at + v.numel() * 4]}
        at += v.numel() * 4
    head = json.dumps(head).encode()
    head += b" " * (-len(head) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + b"".join(v.numpy().tobytes() for v in w.values()))
    return w


def causal(dec, ids):
    n = len(ids)
    return dec.logits(dec(dec.embed(torch.tensor(ids))[None], torch.arange(n)[None], torch.ones(n, n, dtype=torch.bool).tril()[None, None]))[0]


class SwapTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.manual_seed(0)
        cls.dir = tempfile.TemporaryDirectory()
        cls.weights = small_llama(cls.dir.name)
        cls.c = swap_stage.config(cls.dir.name)
        cls.tok = swap_stage.tokenizer(cls.dir.name, os.path.join(cls.dir.name, "swapped.json"))
        cls.read = swap_stage.read_safetensors(os.path.join(cls.dir.name, "model.safetensors"))

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def adapted(self, trained=True):
        dec = swap_stage.Adapted(self.c, self.read, self.tok)
        for m in dec.modules():
            if trained and isinstance(m, swap_stage.LoRA):
                torch.nn.init.normal_(m.b, std=0.05)
        return dec

    def test_only_the_adapters_and_our_rows_learn(self):
        dec = self.adapted()
        before = {k: v.clone() for k, v in dec.state_dict().items()}
        opt = torch.optim.SGD([p for p in dec.parameters() if p.requires_grad], lr=0.1)
        ids = self.tok.encode("a van").ids + [self.tok.token_to_id("<|end|>")]
        torch.nn.functional.cross_entropy(causal(dec, ids)[:-1], torch.tensor(ids[1:])).backward()
        opt.step()
        changed = {k for k, v in dec.state_dict().items() if not torch.equal(v, before[k])}
        self.assertEqual(changed, set(dec.learned()))
        self.assertTrue(all(k == "embed.mine" or k.endswith((".a", ".b")) for k in changed))
        torch.testing.assert_close(dec.embed.table, self.weights["model.embed_tokens.weight"], atol=0, rtol=0)

    def test_untrained_adapters_change_nothing(self):
        plain, dec = self.adapted(False).merged(), self.adapted(False)
        ids = self.tok.encode("where is it?").ids
        torch.testing.assert_close(causal(dec, ids), causal(plain, ids), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(plain.blocks[1].up.weight, self.weights["model.layers.1.mlp.up_proj.weight"], atol=0, rtol=0)

    def test_merged_graph_equals_the_adapters(self):
        """What is exported is what was trained: the merged decoder as a graph, with its cache, gives the unmerged one's logits."""
        dec = self.adapted()
        path = os.path.join(self.dir.name, "decoder.onnx")
        import onnx
        onnx.save(export.decoder_graph(dec.merged(), self.c), path)
        ids = [self.tok.token_to_id("<|bos|>"), *self.tok.encode("a red car stands on the left").ids, self.tok.token_to_id("<|nothing|>")]
        with torch.no_grad():
            want = causal(dec, ids)
            x = dec.embed(torch.tensor(ids))[None].numpy()
        got = export.run_decoder(export.session(path), self.c, np.split(x, [7, 8, 9], 1))
        np.testing.assert_allclose(got[0], want[[6, 7, 8, -1]].numpy(), atol=1e-3, rtol=1e-3)
        self.assertGreater((causal(self.adapted(False), ids) - want).abs().max().item(), 0.1, "the adapters make no difference")

    def test_special_tokens_stand_behind_the_vocabulary(self):
        n = self.weights["model.embed_tokens.weight"].shape[0]
        self.assertEqual([self.tok.token_to_id(s) for s in SPECIAL], list(range(n, n + len(SPECIAL))))
        self.assertEqual(self.c.vocab, n + len(SPECIAL))
        dec = self.adapted(False)
        torch.testing.assert_close(dec.embed.mine[SPECIAL.index("<|bos|>")], dec.embed.table[self.tok.token_to_id("<|im_start|>")])

    def test_visual_tokens_begin_as_long_as_words(self):
        t = swap_stage.connect(Temporal(Config()), self.c, 3.0)
        visual = t.pool(torch.randn(2, 5, self.c.patches, self.c.dim))
        self.assertEqual(visual.shape, (2, 5, self.c.tokens, self.c.width))
        self.assertAlmostEqual(visual.norm(dim=-1).mean().item(), 3.0, delta=0.5)
        self.assertTrue(all(p.requires_grad == k.startswith("bridge.") for k, p in t.named_parameters()))

    def test_the_dictionary_names_what_the_tokens_show(self):
        """The connector's last layer is solved so that tokens which tell kinds and colours apart become those words."""
        r, c = torch.Generator().manual_seed(1), Config()
        kinds = torch.randn(12, c.dim, generator=r) * 3

        class Made:
            def __len__(self):
                return 1000

            def batch(self, picks):
                d = {k: torch.zeros(len(picks), 2, c.cells, dtype=torch.long) for k in ("kind", "color", "clause", "way")}
                d["kind"] = torch.randint(0, 12, d["kind"].shape, generator=r)
                # A visual token pools two patches, one below the other; columns first.
                x = kinds[d["kind"]].unflatten(2, (GRID_W, -1)).transpose(2, 3).repeat_interleave(c.merge_h, 2)
                return F.pad(x, (0, 0, 0, 0, c.sky, 0)).flatten(2, 3), d

        t = swap_stage.connect(Temporal(c), self.c, 3.0)
        left = swap_stage.Dictionary(self.tok, self.weights["model.embed_tokens.weight"]).teach(t, Made(), clips=48)
        self.assertLess(left, 0.1)

    @unittest.skipUnless(os.path.exists(os.path.join(SMOLLM2, "golden.json")), "make smollm2 was not run")
    def test_smollm2_says_what_transformers_says(self):
        with open(os.path.join(SMOLLM2, "golden.json")) as f:
            case = json.load(f)["cases"][0]
        with tempfile.TemporaryDirectory() as d:
            tok = swap_stage.tokenizer(SMOLLM2, os.path.join(d, "tokenizer.json"))
        dec = swap_stage.Adapted(swap_stage.config(SMOLLM2), swap_stage.read_safetensors(os.path.join(SMOLLM2, "model.safetensors")), tok)
        with torch.no_grad():
            lg = causal(dec, case["input_ids"] + case["greedy"])[len(case["input_ids"]) - 1 : -1]
        want = np.fromfile(os.path.join(SMOLLM2, "golden.bin"), np.float32, case["logits"]["shape"][0], offset=case["logits"]["at"])
        lg = lg[:, : len(want)]  # behind them are tokens of ours
        self.assertEqual(lg.argmax(-1).tolist(), case["greedy"])
        np.testing.assert_allclose(lg[0], want, atol=1e-3)


if __name__ == "__main__":
    unittest.main()
