"""Makes the small graphs of the tests of internal/ort. Needs: pip install -r train/requirements.txt"""
import os

import numpy as np
from onnx import TensorProto as T, checker, helper as h, save

here = os.path.dirname(os.path.abspath(__file__))


def write(name, nodes, ins, outs, init=()):
    v = lambda t: h.make_tensor_value_info(*t)
    g = h.make_graph(nodes, name, [v(i) for i in ins], [v(o) for o in outs], initializer=list(init))
    m = h.make_model(g, opset_imports=[h.make_opsetid("", 17)], ir_version=9, producer_name="lookout-test")
    checker.check_model(m)
    save(m, os.path.join(here, name + ".onnx"))


# sum = a + b, and scaled = 2a: any number of rows of four.
write("add", [h.make_node("Add", ["a", "b"], ["sum"]), h.make_node("Mul", ["a", "two"], ["scaled"])],
      [("a", T.FLOAT, ["n", 4]), ("b", T.FLOAT, ["n", 4])], [("sum", T.FLOAT, ["n", 4]), ("scaled", T.FLOAT, ["n", 4])],
      [h.make_tensor("two", T.FLOAT, [], [2.0])])

# Each element type that can be bound, in and out.
write("types", [h.make_node("Identity", [f"{n}_in"], [f"{n}_out"]) for n in ("u8", "i32", "i64", "f16")],
      [(f"{n}_in", t, [3]) for n, t in (("u8", T.UINT8), ("i32", T.INT32), ("i64", T.INT64), ("f16", T.FLOAT16))],
      [(f"{n}_out", t, [3]) for n, t in (("u8", T.UINT8), ("i32", T.INT32), ("i64", T.INT64), ("f16", T.FLOAT16))])

# x multiplied by w `turns` times: long enough to be stopped.
body = h.make_graph([h.make_node("MatMul", ["x_in", "w"], ["y"]), h.make_node("Identity", ["cond"], ["go"])], "body",
                    [h.make_tensor_value_info("i", T.INT64, []), h.make_tensor_value_info("cond", T.BOOL, []), h.make_tensor_value_info("x_in", T.FLOAT, [64, 64])],
                    [h.make_tensor_value_info("go", T.BOOL, []), h.make_tensor_value_info("y", T.FLOAT, [64, 64])])
write("slow", [h.make_node("Loop", ["turns", "true", "x"], ["out"], body=body)],
      [("turns", T.INT64, [1]), ("x", T.FLOAT, [64, 64]), ("w", T.FLOAT, [64, 64])], [("out", T.FLOAT, [64, 64])],
      [h.make_tensor("true", T.BOOL, [], [True])])

# y = x w, with the weights in a file of their own.
g = h.make_graph([h.make_node("MatMul", ["x", "w"], ["y"])], "weights", [h.make_tensor_value_info("x", T.FLOAT, ["n", 64])],
                 [h.make_tensor_value_info("y", T.FLOAT, ["n", 64])], [h.make_tensor("w", T.FLOAT, [64, 64], bytes(4 * 64 * 64), raw=True)])
m = h.make_model(g, opset_imports=[h.make_opsetid("", 17)], ir_version=9, producer_name="lookout-test")
save(m, os.path.join(here, "weights.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0)
os.remove(os.path.join(here, "weights.bin"))  # the tests write theirs

# Attention over one token and more behind a cache of 32 places, as public decoders have it: two heads share one of keys, 32 wide. The tables of its
# rotation are large enough (1 KiB) to go into the file of weights when it is prepared. In the second a part of each head is not turned.
for name, turned in (("attention", 32), ("attention_partial", 16)):
    angle = np.outer(np.arange(32), 1e4 ** (-np.arange(turned // 2) / (turned // 2))).astype(np.float32)
    kv, n = ["batch", 1, 32, 32], turned // 2
    nodes = [h.make_node("GroupQueryAttention", ["qkv", "", "", "past_key_values.0.key", "past_key_values.0.value", "used", "total", "cos", "sin"],
                         ["out", "present.0.key", "present.0.value"], domain="com.microsoft", num_heads=2, kv_num_heads=1, scale=32**-0.5, do_rotary=1)]
    g = h.make_graph(nodes, name, [h.make_tensor_value_info(*t) for t in (("qkv", T.FLOAT, ["batch", "n", 128]), ("past_key_values.0.key", T.FLOAT, kv),
                                                                          ("past_key_values.0.value", T.FLOAT, kv), ("used", T.INT32, ["batch"]), ("total", T.INT32, [1]))],
                     [h.make_tensor_value_info(*t) for t in (("out", T.FLOAT, ["batch", "n", 64]), ("present.0.key", T.FLOAT, kv), ("present.0.value", T.FLOAT, kv))],
                     [h.make_tensor("cos", T.FLOAT, [32, n], np.cos(angle).tobytes(), raw=True), h.make_tensor("sin", T.FLOAT, [32, n], np.sin(angle).tobytes(), raw=True)])
    save(h.make_model(g, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=9, producer_name="lookout-test"),
         os.path.join(here, name + ".onnx"))

# The same for caches of any length, with six heads that share two, 64 wide; the tables are inputs.
kv = ["batch", 2, "room", 64]
nodes = [h.make_node("GroupQueryAttention", ["qkv", "", "", "past_key_values.0.key", "past_key_values.0.value", "used", "total", "cos", "sin", "", ""],
                     ["out", "present.0.key", "present.0.value"], domain="com.microsoft", num_heads=6, kv_num_heads=2, local_window_size=-1, softcap=0.0, do_rotary=1,
                     rotary_interleaved=0)]
g = h.make_graph(nodes, "attention_long", [h.make_tensor_value_info(*t) for t in (("qkv", T.FLOAT, ["batch", "n", 640]), ("past_key_values.0.key", T.FLOAT, kv),
                                                                                  ("past_key_values.0.value", T.FLOAT, kv), ("used", T.INT32, ["batch"]), ("total", T.INT32, [1]),
                                                                                  ("cos", T.FLOAT, ["places", 32]), ("sin", T.FLOAT, ["places", 32]))],
                 [h.make_tensor_value_info(*t) for t in (("out", T.FLOAT, ["batch", "n", 384]), ("present.0.key", T.FLOAT, kv), ("present.0.value", T.FLOAT, kv))])
save(h.make_model(g, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=9, producer_name="lookout-test"),
     os.path.join(here, "attention_long.onnx"))

# Products with 4-bit weights in blocks of 32 and 128, of 40 columns (no multiple of 16); and with weights of 8 bits; and two that package kernels leaves to the library: those whose
# rows stay in 32 bits, and whose zeros are their own.
rng = np.random.default_rng(1)
nodes, init = [], []
for name, bits, block, attributes, zeros in (("small", 4, 32, {"accuracy_level": 4}, False), ("large", 4, 128, {"accuracy_level": 4}, False), ("exact", 4, 32, {}, False),
                                             ("zeros", 4, 32, {"accuracy_level": 4}, True), ("wide", 8, 32, {"accuracy_level": 4}, False)):
    k, n = 256, 40
    inputs = ["x", name + "_w", name + "_s"] + ([name + "_z"] if zeros else [])
    nodes.append(h.make_node("MatMulNBits", inputs, [name], domain="com.microsoft", K=k, N=n, bits=bits, block_size=block, **attributes))
    for suffix, kind, a in (("_w", T.UINT8, rng.integers(0, 256, (n, k // block, block * bits // 8), np.uint8)), ("_s", T.FLOAT, rng.normal(0, 0.01, (n, k // block)).astype(np.float32)),
                            ("_z", T.UINT8, rng.integers(0, 256, (n, k // block // 2), np.uint8))):
        if name + suffix in inputs:
            init.append(h.make_tensor(name + suffix, kind, a.shape, a.tobytes(), raw=True))
g = h.make_graph(nodes, "products", [h.make_tensor_value_info("x", T.FLOAT, ["batch", "n", 256])],
                 [h.make_tensor_value_info(node.output[0], T.FLOAT, ["batch", "n", 40]) for node in nodes], init)
save(h.make_model(g, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=9, producer_name="lookout-test"), os.path.join(here, "products.onnx"))

# What stands between the products: with the sum given out and without; 200 wide, no multiple of 16.
nodes = [h.make_node("SkipSimplifiedLayerNormalization", ["x", "skip", "gamma"], ["normed", "", "", "sum"], domain="com.microsoft", epsilon=1e-5),
         h.make_node("SkipSimplifiedLayerNormalization", ["sum", "skip", "gamma"], ["again"], domain="com.microsoft", epsilon=1e-5),
         h.make_node("QuickGelu", ["x"], ["gated"], domain="com.microsoft", alpha=1.0), h.make_node("QuickGelu", ["skip"], ["other"], domain="com.microsoft", alpha=1.702)]
g = h.make_graph(nodes, "between", [h.make_tensor_value_info(n, T.FLOAT, ["batch", "n", 200]) for n in ("x", "skip")],
                 [h.make_tensor_value_info(n, T.FLOAT, ["batch", "n", 200]) for n in ("normed", "sum", "again", "gated", "other")],
                 [h.make_tensor("gamma", T.FLOAT, [200], rng.normal(1, 0.1, 200).astype(np.float32).tobytes(), raw=True)])
save(h.make_model(g, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=9, producer_name="lookout-test"), os.path.join(here, "between.onnx"))

# A layer of a vision encoder in 8 bits: three products of the same rows, one of them with zeros of its own, attention of two heads 45 wide (no multiple of anything), GELU and two more
# products. All of these products once more in float32, on which the rest stands: the library's products cut off large sums on some CPUs. And what package kernels leaves to the library: weights without a sign, attention of each row to those before it, to keys from outside, and GELU with a bias.
init, f = [], lambda name, a: init.append(h.make_tensor(name, T.FLOAT, a.shape, a.astype(np.float32).tobytes(), raw=True)) or name
i8 = lambda name, a, kind=T.INT8: init.append(h.make_tensor(name, kind, a.shape, a.tobytes(), raw=True)) or name
ms, nodes = dict(domain="com.microsoft"), [h.make_node("DynamicQuantizeLinear", ["x"], ["x8", "x_scale", "x_zero"]), h.make_node("DequantizeLinear", ["x8", "x_scale", "x_zero"], ["rounded"])]
for name, zeros, bias in (("q", np.zeros(90, np.int8), False), ("k", None, True), ("v", rng.integers(-9, 9, 90, np.int8), True)):
    w, s = rng.integers(-127, 128, (90, 90), np.int8), rng.uniform(1e-3, 2e-3, 90)
    b = rng.normal(0, 1, 90) if bias else np.zeros(90)
    ins = ["x8", i8(name + "_w", w), "x_scale", f(name + "_s", s), "x_zero"]
    ins += [i8(name + "_z", zeros) if zeros is not None else ""] * (zeros is not None or bias) + ([f(name + "_b", b)] if bias else [])
    nodes.append(h.make_node("MatMulIntegerToFloat", ins, [name], **ms))
    nodes.append(h.make_node("MatMul", ["rounded", f(name + "_f", (w - (0 if zeros is None else zeros.astype(float))) * s)], [name + "_product"]))
    nodes.append(h.make_node("Add", [name + "_product", f(name + "_c", b)], ["exact_" + name]))
nodes += [h.make_node("MultiHeadAttention", ["exact_q", "exact_k", "exact_v"], ["attended"], num_heads=2, **ms), h.make_node("FastGelu", ["attended"], ["gated"], **ms)]
for name, rows, s, zeros, b in (("one", "gated", np.full((), 2e-3), None, rng.normal(0, 1, 90)), ("two", "attended", rng.uniform(1e-3, 2e-3, 90), rng.integers(-9, 9, 90, np.int8), None)):
    w = rng.integers(-127, 128, (90, 90), np.int8)
    ins = [rows, i8(name + "_w", w), f(name + "_s", s), "" if zeros is None else i8(name + "_z", zeros)] + ([] if b is None else [f(name + "_b", b)])
    nodes.append(h.make_node("DynamicQuantizeMatMul", ins, [name], **ms))
    nodes.append(h.make_node("MatMul", [rows, f(name + "_f", (w - (0 if zeros is None else zeros.astype(float))) * s)], [name + "_product"]))
    nodes.append(h.make_node("Add", [name + "_product", f(name + "_c", np.zeros(90) if b is None else b)], ["exact_" + name]))
nodes += [h.make_node("DynamicQuantizeMatMul", ["gated", i8("plain_w", rng.integers(0, 256, (90, 90), np.uint8), T.UINT8), "one_s", i8("plain_z", np.array(128, np.uint8), T.UINT8)], ["plain"], **ms),
          h.make_node("MultiHeadAttention", ["exact_q", "exact_k", "exact_v"], ["causal"], num_heads=2, unidirectional=1, **ms), h.make_node("MultiHeadAttention", ["exact_q", "keys", "exact_v"], ["crossed"], num_heads=2, **ms),
          h.make_node("FastGelu", ["exact_v", "k_b"], ["moved"], **ms)]
outs = ["q", "k", "v", "exact_q", "exact_k", "exact_v", "exact_one", "exact_two", "attended", "gated", "one", "two", "plain", "causal", "crossed", "moved"]
g = h.make_graph(nodes, "eight", [h.make_tensor_value_info("x", T.FLOAT, ["batch", "n", 90]), h.make_tensor_value_info("keys", T.FLOAT, ["batch", "n", 90])],
                 [h.make_tensor_value_info(n, T.FLOAT, ["batch", "n", 90]) for n in outs], init)
save(h.make_model(g, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=9, producer_name="lookout-test"), os.path.join(here, "eight.onnx"))
