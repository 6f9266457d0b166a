"""Run from train/: python -m unittest vlm.test_model"""
import unittest

import torch

from vlm.model import Config, Temporal


class TemporalTest(unittest.TestCase):
    def test_step_equals_parallel(self):
        """The streaming form gives what the parallel form gives, across gaps in time and more frames than the ring holds."""
        torch.manual_seed(0)
        c = Config(window=4)
        t = Temporal(c).eval()
        for b in t.blocks:  # trained values: as made, the temporal branch is zero and the test would say nothing
            torch.nn.init.normal_(b.t.out.weight, std=0.1)
            torch.nn.init.normal_(b.age, std=1.0)
        ticks = torch.tensor([[0, 1, 2, 4, 5, 6, 7, 22], [0, 3, 4, 5, 6, 7, 8, 9]])
        n, W = ticks.shape[1], c.window
        x = torch.randn(2, n, c.patches, c.dim)
        rk, rv = (torch.zeros(2, c.temporal_layers, W, c.patches, c.dim) for _ in range(2))
        at = torch.full((2, W), -10**6)
        with torch.no_grad():
            state, visual = t(x, ticks)
            for f in range(n):
                age = ticks[:, f : f + 1] - at
                v, k, vn, s = t.step(x[:, f], rk, rv, torch.where(age > W, 0, age))
                torch.testing.assert_close(v, visual[:, f], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(s, state[:, f], atol=1e-5, rtol=1e-4)
                rk[:, :, f % W], rv[:, :, f % W], at[:, f % W] = k, vn, ticks[:, f]
            alone = t(x[:, -1:], ticks[:, -1:])[0][1, 0]
        self.assertGreater((alone - state[1, -1]).abs().max(), 1e-2, "the frames before make no difference")


if __name__ == "__main__":
    unittest.main()
