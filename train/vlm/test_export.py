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

from vlm import export, quantize
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
        cls.diff = export.write(cls.to, c, tok, Encoder(c), domain, TextTower(c), temporal, Decoder(c), {"version": "test"}, pixels)

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def test_graphs_equal_pytorch(self):
        """Every output of every graph; the decoder also with a cache that is already filled, over several calls."""
        self.assertEqual(set(self.diff), {"encoder.tokens", "encoder.image_embed", "encoder.patch_embed", "encoder.distance", "temporal.visual", "temporal.new_k",
                                          "temporal.new_v", "temporal.state", "text", "embed", "decoder"})
        for name, d in self.diff.items():
            self.assertLess(d, 2e-5, name)

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
