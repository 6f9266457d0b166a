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

# What stands around products of rows in 8 bits whose scale is fixed, as a trained encoder in 8 bits has it: a norm, QuantizeLinear, a product, a bias, GELU; weights with a sign and
# without; a bias beside the first input and the second. What stays as it is: rows in 8 bits that two read, a product that two read, a norm over another axis, a bias of one number.
# The products once more in float32, of rows rounded by hand.
init.clear(), nodes.clear()
def quantized(x, name, scale, zero):
    s, z = f(name + "_scale", np.float32(scale).reshape(())), i8(name + "_zero", np.array(zero, np.uint8), T.UINT8)
    nodes.append(h.make_node("QuantizeLinear", [x, s, z], [name]))
    low, high, zero = (f(name + "_" + end, np.float32(v).reshape(())) for end, v in (("low", 0), ("high", 255), ("middle", zero)))
    for op, ins, end in (("Div", [x, s], "divided"), ("Round", [name + "_divided"], "round"), ("Add", [name + "_round", zero], "moved"), ("Clip", [name + "_moved", low, high], "clipped"),
                         ("Sub", [name + "_clipped", zero], "centred"), ("Mul", [name + "_centred", s], "exact")):
        nodes.append(h.make_node(op, ins, [name + "_" + end]))
    return name
def product(rows, name, kind, n=90):
    low = 0 if kind == T.UINT8 else -128
    w, z, s = rng.integers(low, low + 256, (90, n)), rng.integers(low + 120, low + 136, n), rng.uniform(1e-3, 2e-3, n)
    t = np.uint8 if kind == T.UINT8 else np.int8
    nodes.append(h.make_node("MatMulIntegerToFloat", [rows, i8(name + "_w", w.astype(t), kind), rows + "_scale", f(name + "_s", s), rows + "_zero", i8(name + "_z", z.astype(t), kind)], [name + "_product"], **ms))
    nodes.append(h.make_node("MatMul", [rows + "_exact", f(name + "_f", (w - z) * s)], [name + "_exact"]))
    return name + "_product"
f("gamma", rng.normal(1, 0.1, 90)), f("beta", rng.normal(0, 0.1, 90)), f("bias", rng.normal(0, 1, 90)), f("other", rng.normal(0, 1, 90)), f("single", np.float32(0.5).reshape(1))
norm = lambda x, out, axis: nodes.append(h.make_node("LayerNormalization", [x, "gamma", "beta"], [out], axis=axis, epsilon=1e-5))
add = lambda a, b, out: nodes.append(h.make_node("Add", [a, b], [out]))
norm("x", "normed", -1), norm("x", "odd", 2)
add(product(quantized("normed", "n8", 0.03, 120), "one", T.INT8), "bias", "one"), add("one_exact", "bias", "exact_one")
nodes += [h.make_node("BiasGelu", ["exact_one", "other"], ["gated"], **ms), h.make_node("Gelu", ["x"], ["plain"], **ms)]
add("bias", product(quantized("gated", "g8", 0.02, 20), "two", T.UINT8), "two"), add("bias", "two_exact", "exact_two")
quantized("plain", "shared8", 0.05, 30)
add(product("shared8", "three", T.INT8), "single", "three"), add("three_exact", "single", "exact_three")
add(product("shared8", "four", T.UINT8), "bias", "four"), add("four_exact", "bias", "exact_four")
nodes.append(h.make_node("Identity", ["four_product"], ["bare"])), nodes.append(h.make_node("Identity", ["four_exact"], ["exact_bare"]))
outs = ["normed", "odd", "gated", "plain"] + [x + n for n in ("one", "two", "three", "four", "bare") for x in ("", "exact_")]
g = h.make_graph(nodes, "folded", [h.make_tensor_value_info("x", T.FLOAT, ["batch", "n", 90])], [h.make_tensor_value_info(n, T.FLOAT, ["batch", "n", 90]) for n in outs], init)
save(h.make_model(g, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=9, producer_name="lookout-test"), os.path.join(here, "folded.onnx"))

# Attention to a ring of seven frames, of 37 places and three heads 20 wide, with what it is made of beside it, for runtimes that have no kernel for it.
W, P, H, D = 7, 37, 3, 60
const = lambda name, a: h.make_node("Constant", [], [name], value=h.make_tensor(name, T.INT64 if a.dtype == np.int64 else T.FLOAT, a.shape, a.tobytes(), raw=True))
i64 = lambda *v: np.array(v, np.int64)
body = [const("least", np.array(0, np.int64)), const("most", np.array(W, np.int64)), const("a0", i64(0)), const("a1", i64(1)), const("a2", i64(2)), const("last", i64(-1)), const("a4", i64(4)),
        const("split", i64(0, 0, 0, H, D // H)), const("joined", i64(0, 0, D)), const("scale", np.array((D // H) ** -0.5, np.float32)), const("never", np.array(-1e9, np.float32)),
        h.make_node("Clip", ["age", "least", "most"], ["of"]), h.make_node("Gather", ["age_key", "of"], ["of_key"]), h.make_node("Unsqueeze", ["of_key", "a2"], ["of_keys"]),
        h.make_node("Add", ["ring_k", "of_keys"], ["past"]), h.make_node("Gather", ["age_key", "a0"], ["now_key"]), h.make_node("Add", ["k", "now_key"], ["now"]), h.make_node("Unsqueeze", ["now", "a1"], ["nows"]),
        h.make_node("Concat", ["past", "nows"], ["keys"], axis=1), h.make_node("Unsqueeze", ["v", "a1"], ["vs"]), h.make_node("Concat", ["ring_v", "vs"], ["values"], axis=1), h.make_node("Unsqueeze", ["q", "a1"], ["qs"]),
        *(h.make_node("Reshape", [x, "split"], [x + "_h"]) for x in ("qs", "keys", "values")),
        h.make_node("Mul", ["qs_h", "keys_h"], ["products"]), h.make_node("ReduceSum", ["products", "last"], ["sums"], keepdims=0), h.make_node("Mul", ["sums", "scale"], ["scaled"]),
        h.make_node("Transpose", ["age_bias"], ["by_age"], perm=[1, 0]), h.make_node("Mul", ["of", "least"], ["zeros"]), h.make_node("Slice", ["zeros", "a0", "a1", "a1"], ["zero"]),
        h.make_node("Concat", ["of", "zero"], ["ages"], axis=1), h.make_node("Gather", ["by_age", "ages"], ["biases"]), h.make_node("Unsqueeze", ["biases", "a2"], ["bias"]), h.make_node("Add", ["scaled", "bias"], ["scores"]),
        h.make_node("Equal", ["age", "of"], ["inside"]), h.make_node("Greater", ["age", "least"], ["filled"]), h.make_node("And", ["inside", "filled"], ["there"]), h.make_node("Equal", ["zero", "least"], ["true"]),
        h.make_node("Concat", ["there", "true"], ["all"], axis=1), const("a23", i64(2, 3)), h.make_node("Unsqueeze", ["all", "a23"], ["seen"]), h.make_node("Where", ["seen", "scores", "never"], ["some"]),
        h.make_node("Softmax", ["some"], ["weights"], axis=1), h.make_node("Unsqueeze", ["weights", "a4"], ["weight"]), h.make_node("Mul", ["weight", "values_h"], ["weighted"]),
        h.make_node("ReduceSum", ["weighted", "a1"], ["heads"], keepdims=0), h.make_node("Reshape", ["heads", "joined"], ["out"])]
ins = ["q", "k", "v", "ring_k", "ring_v", "age", "age_bias", "age_key"]
own = h.make_function("lookout.video", "RingAttention", ins, ["out"], body, [h.make_opsetid("", 17)])
shapes = dict(zip(ins, (["b", P, D], ["b", P, D], ["b", P, D], ["b", W, P, D], ["b", W, P, D], ["b", W])))
g = h.make_graph([h.make_node("RingAttention", ins, ["y"], domain="lookout.video")], "ring", [h.make_tensor_value_info(n, T.INT64 if n == "age" else T.FLOAT, s) for n, s in shapes.items()],
                 [h.make_tensor_value_info("y", T.FLOAT, ["b", P, D])],
                 [h.make_tensor(n, T.FLOAT, a.shape, a.astype(np.float32).tobytes(), raw=True) for n, a in (("age_bias", rng.normal(0, 1, (H, W + 1))), ("age_key", rng.normal(0, 1, (W + 1, D))))])
save(h.make_model(g, functions=[own], opset_imports=[h.make_opsetid("", 17), h.make_opsetid("lookout.video", 1)], ir_version=9, producer_name="lookout-test"), os.path.join(here, "ring.onnx"))

# What a decoder's gate is made of: two products of the same rows, 4 bits and 8, and what becomes of the gate when it is needed by itself, or of other rows.
rng = np.random.default_rng(2)
nodes, init = [], []
for name, bits, rows, alpha in (("four", 4, ("x", "x"), 1.0), ("eight", 8, ("x", "x"), 1.702), ("bare", 4, ("x", "x"), 1.0), ("apart", 4, ("x", "twice"), 1.0)):
    for half, x in zip(("_gate", "_up"), rows):
        w, s = rng.integers(0, 256, (48, 8, 32 * bits // 8), np.uint8), rng.normal(0, 0.01, (48, 8)).astype(np.float32)
        nodes.append(h.make_node("MatMulNBits", [x, name + half + "_w", name + half + "_s"], [name + half], domain="com.microsoft", K=256, N=48, bits=bits, block_size=32, accuracy_level=4))
        init += [h.make_tensor(name + half + "_w", T.UINT8, w.shape, w.tobytes(), raw=True), h.make_tensor(name + half + "_s", T.FLOAT, s.shape, s.tobytes(), raw=True)]
    nodes.append(h.make_node("QuickGelu", [name + "_gate"], [name + "_open"], domain="com.microsoft", alpha=alpha))
    nodes.append(h.make_node("Mul", [name + "_open", name + "_up"] if bits == 4 else [name + "_up", name + "_open"], [name]))
g = h.make_graph([h.make_node("Add", ["x", "x"], ["twice"]), *nodes], "gated", [h.make_tensor_value_info("x", T.FLOAT, ["batch", "n", 256])],
                 [h.make_tensor_value_info(n, T.FLOAT, ["batch", "n", 48]) for n in ("four", "eight", "bare", "apart", "bare_gate")], init)
save(h.make_model(g, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=9, producer_name="lookout-test"), os.path.join(here, "gated.onnx"))
