"""Run from train/: python -m unittest vlm.test_export"""
import hashlib
import json
import os
import shutil
import tempfile
import unittest

import numpy as np
import onnx
import torch

from vlm import adopt, export, public, quantize
from vlm.data import make_tokenizer
from vlm.model import Config, Decoder, Domain, Encoder, Temporal, TextTower
from yard.labels import MODEL_H, MODEL_W


class ExportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.manual_seed(0)
        cls.dir = tempfile.TemporaryDirectory()
        cls.c = c = Config()
        tok = os.path.join(cls.dir.name, "tokenizer.json")
        make_tokenizer(c.vocab, tok, scenes=150)
        cls.to = os.path.join(cls.dir.name, "bundle")
        temporal, domain = Temporal(c), Domain(c)
        for b in temporal.blocks:  # as trained: not near zero
            torch.nn.init.normal_(b.t.out.weight, std=0.1)
        domain.whiten.copy_(torch.randn_like(domain.whiten))
        pixels = np.random.default_rng(0).integers(0, 255, (3, MODEL_H, MODEL_W, 3), np.uint8)
        cls.made = Encoder(c), TextTower(c), temporal, Decoder(c)
        for b in adopt.norms(cls.made[0]):
            for t in (b.weight, b.bias, b.running_mean):
                torch.nn.init.normal_(t)
        for m in cls.made:
            for p in m.parameters():  # as trained: values that are equal would be written once
                p.data.add_(torch.randn_like(p) * 0.01)
            m.eval()
        cls.diff = export.write(cls.to, c, tok, cls.made[0], domain, *cls.made[1:], {"version": "test"}, pixels)

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def test_graphs_equal_pytorch(self):
        """Every output of every graph; the decoder also with a cache that is already filled, over several calls."""
        self.assertEqual(set(self.diff), {"encoder.tokens", "encoder.image_embed", "encoder.patch_embed", "encoder.distance", *("temporal." + n for n in export.streams(self.c)[1]),
                                          "text", "embed", "decoder"})
        for name, d in self.diff.items():
            self.assertLess(d, 2e-5, name)

    def test_the_public_layout_sees_the_same(self):
        """What a LLaVA's vision encoder gives of a picture is what the streaming graphs give of the first frame."""
        c, to = self.c, os.path.join(self.dir.name, "llava")
        public.run(c, self.to, to)
        px = np.random.default_rng(1).integers(0, 255, (3, MODEL_H, MODEL_W, 3), np.uint8)
        run = lambda path, feed, out: export.session(path).run([out], feed)[0]
        tokens = run(os.path.join(self.to, "encoder.onnx"), {"pixels": px}, "tokens")
        stream = dict(zip(export.streams(c)[0], [tokens, *(t.numpy() for t in export.empty(c, 3))]))
        want = run(os.path.join(self.to, "temporal.onnx"), stream, "visual")
        got = run(os.path.join(to, "onnx", "vision_encoder.onnx"), {"pixel_values": (px.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)}, "image_features")
        self.assertLess(np.abs(got - want).max() / np.abs(want).max(), 1e-4)
        with open(os.path.join(to, "config.json")) as f:
            image = json.load(f)["image_token_index"]
        ids = np.array([[3, image]])
        self.assertEqual(run(os.path.join(to, "onnx", "embed_tokens.onnx"), {"input_ids": ids}, "inputs_embeds").shape, (1, 2, c.width))

        dec = export.session(os.path.join(to, "onnx", "decoder_model_merged.onnx"))
        empty = {f"past_key_values.{i}.{x}": np.zeros((1, c.kv_heads, 8, c.head_dim), np.float32) for i in range(c.dec_layers) for x in ("key", "value")}
        feed = {"inputs_embeds": np.random.default_rng(2).normal(0, 1, (1, 4, c.width)).astype(np.float32), "attention_mask": np.ones((1, 4), np.int64)}
        counted = export.session(os.path.join(self.to, "decoder.onnx")).run(["logits"], feed | empty)[0]
        for places, same in (((0, 1, 2, 3), True), ((9, 10, 11, 12), True), ((0, 1, 5, 6), False)):  # what counts is how far apart they are
            got = dec.run(["logits"], feed | empty | {"position_ids": np.array([places])})[0]
            self.assertEqual(np.abs(got - counted).max() / np.abs(counted).max() < 1e-3, same, places)

    def test_a_bundle_is_read_back(self):
        """`adopt` gives the modules that were written: what they compute is the same, also once the encoder can be trained again."""
        enc, text, temporal, dec = adopt.read(self.c, self.to)
        px = torch.randint(0, 255, (4, MODEL_H, MODEL_W, 3), dtype=torch.uint8)
        ids, x, age = torch.randint(10, 200, (2, 5)), torch.randn(2, self.c.patches, self.c.dim), torch.arange(self.c.window, 0, -1).expand(2, -1)
        rings = [torch.randn(2, self.c.window, self.c.patches, self.c.dim) for _ in range(2 * self.c.temporal_layers)]
        runs = [lambda e, *_: e(px), lambda e, *_: e.embeds(e(px))[0], lambda _, t, *__: t.scale.exp() * t(ids, torch.ones_like(ids)) + t.bias,
                lambda *m: m[2].step(x, age, *export.split(rings))[0],
                lambda *m: m[3].logits(m[3](m[3].embed(ids), torch.arange(5)[None], torch.ones(5, 5, dtype=torch.bool).tril()[None, None]))]

        class Frames:
            frames = 4

            def __len__(self):
                return 1

            def pixels(self, _):
                return px.numpy()

        for after in (None, lambda: adopt.unfold(enc, Frames())):
            if after:
                after()
            with torch.no_grad():
                for run in runs:
                    want = run(*self.made)
                    torch.testing.assert_close(run(enc, text, temporal, dec), want, atol=1e-4 * want.abs().max().item(), rtol=0)
        for b in adopt.norms(enc):  # while training, a batch norm takes the mean away: it has to be the one it was given
            self.assertGreater(b.running_mean.abs().max().item(), 0.01)

    def test_eight_bits_are_read_back(self):
        path = os.path.join(self.dir.name, "eight.onnx")
        quantize.blocks(os.path.join(self.to, "decoder.onnx"), path)
        want = adopt.weights(os.path.join(self.to, "decoder.onnx"))
        for k, a in adopt.weights(path).items():
            if k in want and a.ndim == 2:
                np.testing.assert_allclose(a, want[k], atol=np.abs(want[k]).max() / 127, err_msg=k)

    def test_any_batch(self):
        s = export.session(os.path.join(self.to, "encoder.onnx"))
        px = np.random.default_rng(1).integers(0, 255, (5, MODEL_H, MODEL_W, 3), np.uint8)
        many = s.run(None, {"pixels": px})
        one = s.run(None, {"pixels": px[3:4]})
        for a, b in zip(many, one):
            np.testing.assert_allclose(a[3:4], b, rtol=1e-3, atol=1e-5)
        self.assertEqual(many[0].shape, (5, self.c.patches, self.c.dim))
        np.testing.assert_allclose(np.linalg.norm(many[1], axis=-1), 1, atol=1e-5)

    def test_long_text_is_cut(self):
        s = export.session(os.path.join(self.to, "text.onnx"))
        ids = np.random.default_rng(2).integers(10, 200, (1, 40))
        a = s.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        b = s.run(None, {"input_ids": ids[:, :16], "attention_mask": np.ones_like(ids[:, :16])})[0]
        np.testing.assert_allclose(a, b, atol=1e-6)

    def test_manifest_tells_the_files(self):
        with open(os.path.join(self.to, "manifest.json")) as f:
            m = json.load(f)
        self.assertEqual(set(m["files"]), set(os.listdir(self.to)) - {"manifest.json"})
        for name, want in m["files"].items():
            with open(os.path.join(self.to, name), "rb") as f:
                data = f.read()
            self.assertEqual((hashlib.sha256(data).hexdigest(), len(data)), (want["sha256"], want["size"]))
        self.assertEqual(len(set(m["tokens"].values())), 12)

    def test_decoder_shares_its_cache(self):
        g = onnx.load(os.path.join(self.to, "decoder.onnx")).graph
        shape = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*g.input, *g.output]}
        for i in range(self.c.dec_layers):
            self.assertEqual(shape[f"past_key_values.{i}.key"], shape[f"present.{i}.key"])
        self.assertEqual(shape["logits"], ["batch", 1, self.c.vocab])

    def test_eight_bits(self):
        """Near the exact graphs, the same alone and in a batch, and the distance follows the constants that are put in."""
        r, to = np.random.default_rng(3), os.path.join(self.dir.name, "int8")
        shutil.copytree(self.to, to)

        class Noise:
            frames = 6

            def __len__(self):
                return 4

            def pixels(self, i):
                return np.random.default_rng(i).integers(0, 255, (self.frames, MODEL_H, MODEL_W, 3), np.uint8)

        quantize.graphs(self.c, Noise(), to)
        px = Noise().pixels(1)[:3]
        run = lambda dir, px: export.session(os.path.join(dir, "encoder.onnx")).run(None, {"pixels": px})
        exact, eight, alone = run(self.to, px), run(to, px), run(to, px[1:2])
        self.assertLess(np.abs(exact[0] - eight[0]).max() / np.abs(exact[0]).max(), 0.1)
        self.assertGreater(np.abs(exact[0] - eight[0]).max(), 0)
        np.testing.assert_array_equal(eight[0][1:2], alone[0])
        h = r.standard_normal((1, 20, self.c.width)).astype(np.float32) * 0.5
        a, b = (export.run_decoder(export.session(os.path.join(d, "decoder.onnx")), self.c, [h]) for d in (self.to, to))
        self.assertLess(np.abs(a - b).max() / np.abs(a).max(), 0.1)
        quantize.set_domain(os.path.join(to, "encoder.onnx"), Domain(self.c))  # the identity
        exact = run(to, px)
        self.assertTrue((exact[3] != eight[3]).all())
        size = lambda d: sum(os.path.getsize(os.path.join(d, n)) for n in ("encoder.onnx", "temporal.onnx", "decoder.onnx"))
        self.assertLess(size(to), size(self.to) / 2)


if __name__ == "__main__":
    unittest.main()
