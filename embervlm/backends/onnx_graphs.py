"""The network as three ONNX graphs, built from a checkpoint's weights without PyTorch.

    vision    pixels (1, 3, size, size)                   -> image (1, N, D), scene (1, E)
    prefill   tokens (1, T), image (P, N, D), ngrams (G,) -> states (1, S, D), embedding (1, D), the
              logits of every head, and per layer of the decoder cross_key and cross_value
    step      token, position, past and cross keys and values, words (W, D), word_tokens (W,)
              -> chances (V,), and the keys and values with this token's behind them

P is 0 or 1: without a photo `image` is empty, and the learnt "no photo" tokens stand in. `ngrams`
are rows of `embervlm.ngrams`; none beside a photo. `backends/reference.py` is the same network in
NumPy; a test holds the two together.

Axes: T tokens, N image tokens, S states (N + T), W words (T), P photos, G n-grams, D width, H
heads, E environments, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embervlm.backends.convolution import stride_of
from embervlm.backends.decoding import subset_features
from embervlm.checkpoint import Checkpoint, switched_on

# What ONNX Runtime has run since 1.15: LayerNormalization is an operation, axes are attributes.
OPSET, IR_VERSION = 17, 8

Axes = Sequence[str | int]


def build_graphs(checkpoint: Checkpoint) -> dict[str, onnx.ModelProto]:
    """Return the graphs by name: "vision", "prefill" and "step".

    Raises:
        ValueError: the network has parts that these graphs do not have.
    """
    if parts := switched_on(checkpoint.config):
        raise ValueError(
            f"ONNX graphs are built of ember-nano alone; this network has {', '.join(parts)}: "
            "choose --backend native."
        )
    return {
        "vision": vision_graph(checkpoint),
        "prefill": prefill_graph(checkpoint),
        "step": step_graph(checkpoint),
    }


def cache_names(layers: int, kind: str) -> list[str]:
    """Return the names of a step's keys and values, such as "past_key_0", in their order.

    `kind` is "past" for what goes in, "present" for what comes out, "cross" for the reader's.
    """
    return [f"{kind}_{part}_{i}" for i in range(layers) for part in ("key", "value")]


def vision_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return MobileNetV2 and the two tokens that the reader gets of a photo."""
    g = _Graph("vision", checkpoint)
    size = int(checkpoint.config["image_size"])
    x = g.input("pixels", [1, 3, size, size])
    x, size = g.convolution(x, "vision.stem", size, stride=2)
    block, channels = 0, len(g.weights["vision.stem.bias"])
    while f"vision.blocks.{block}.project.weight" in g.weights:
        name, shortcut, stride = f"vision.blocks.{block}.", x, stride_of(block)
        if f"{name}expand.weight" in g.weights:
            x, size = g.convolution(x, name + "expand", size)
        x, size = g.convolution(x, name + "depthwise", size, stride=stride)
        x, size = g.convolution(x, name + "project", size, bounded=False)
        before, channels = channels, len(g.weights[f"{name}project.bias"])
        if stride == 1 and channels == before:
            x = g.node("Add", shortcut, x)
        block += 1
    features = g.node("Flatten", g.node("GlobalAveragePool", x))
    if checkpoint.config.get("recall_rows"):
        features = _recalled(g, features)
    scene = g.linear(features, "image.scene")
    scene_token = g.node(
        "MatMul", g.node("Softmax", scene, axis=-1), g.weight("image.scene_table.weight")
    )
    tokens = [
        g.node("Unsqueeze", g.norm(token, "image.norm", 1e-5), g.integers([1]))
        for token in (scene_token, g.linear(features, "image.view"))
    ]
    width, places = g.config["text_width"], len(g.weights["image.scene.bias"])
    g.output("image", g.node("Concat", *tokens, axis=1), [1, g.config["image_tokens"], width])
    g.output("scene", scene, [1, places])
    return g.model()


def _recalled(g: _Graph, features: str) -> str:
    """Return features as the table of looks tells them; see `models/photo_recall.py`."""
    look, rows = g.linear(features, "recall.key"), g.weights["recall.rows.weight"]
    least = g.constant("recall.least", np.float32(1e-12))

    def unit(x: str) -> str:
        # As PyTorch's `normalize`, which leaves a look of nothing as it is.
        return g.node("Div", x, g.node("Max", g.node("ReduceL2", x, axes=[-1]), least))

    strength = g.node("ReduceL2", look, axes=[-1])
    near = g.node("MatMul", unit(look), g.constant("recall.rows.key", rows.T))
    shares = g.node("Softmax", near, axis=-1)
    found = g.node("MatMul", shares, g.weight("recall.rows.weight"))
    return g.linear(g.node("Mul", unit(found), strength), "recall.value")


def prefill_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return the reader: encoder, heads and n-gram scores, and what the decoder asks of it."""
    g = _Graph("prefill", checkpoint)
    w, config = g.weights, g.config
    N, D = int(config["image_tokens"]), int(config["text_width"])
    tokens = g.input("tokens", [1, "T"], TensorProto.INT64)
    image = g.input("image", ["P", N, D])
    ngrams = g.input("ngrams", ["G"], TensorProto.INT64)

    positions = g.node(
        "Slice",
        g.weight("text.positions.weight"),
        g.integers([0]),
        g.node("Shape", tokens, start=1, end=2),
        g.integers([0]),
    )
    x = g.node("Add", g.node("Gather", g.weight("text.embed.weight"), tokens), positions)
    x = g.norm(x, "text.embed_norm", 1e-12)
    # The photo's tokens if there is a photo, else what was learnt for none.
    no_photo = g.constant("image.no_photo", w["image.no_photo"][None])
    image = g.node("Concat", image, no_photo, axis=0)
    image = g.node("Slice", image, g.integers([0]), g.integers([1]), g.integers([0]))
    x = g.node("Concat", image, x, axis=1)
    for i in range(config["text_layers"]):
        if i == config["text_layers"] - config.get("plan_readers", 0):
            g.output("middle", x, [1, "S", D])
        name = f"text.layers.{i}."
        q, k, v = g.split(g.linear(x, name + "qkv"), [D] * 3)
        heads = int(config["text_heads"])
        read = g.attend(q, [g.heads(part, D, heads) for part in (k, v)], D, heads)
        x = g.norm(g.node("Add", x, g.linear(read, name + "out")), name + "attention_norm", 1e-12)
        ffn = g.linear(g.gelu(g.linear(x, name + "up")), name + "down")
        x = g.norm(g.node("Add", x, ffn), name + "output_norm", 1e-12)
    g.output("states", x, [1, "S", D])
    words = g.node("Slice", x, g.integers([N]), g.integers([2**31 - 1]), g.integers([1]))
    pooled = g.node("ReduceMean", words, axes=[1], keepdims=0)
    g.output("embedding", pooled, [1, D])
    _decisions(g, pooled, _ngram_scores(g, ngrams))
    roles = len(w["heads.roles.bias"])
    g.output("roles", g.linear(x, "heads.roles"), [1, "S", roles])

    width, heads = int(config["decoder_width"]), int(config["decoder_heads"])
    for i, (key, value) in enumerate(_pairs(cache_names(config["decoder_layers"], "cross"))):
        read_states = g.linear(x, f"decoder.layers.{i}.cross_kv")
        for output, part in zip((key, value), g.split(read_states, [width] * 2), strict=True):
            g.output(output, g.heads(part, width, heads), [1, heads, "S", width // heads])
    return g.model()


def step_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return one step of the decoder: a token in, the chances of the next out.

    The embedding table and the decoder's two projections are multiplied here and now: V x decoder
    width, once for the way in and once for the way out, is less to read than V x text width.
    """
    g = _Graph("step", checkpoint)
    w, config = g.weights, g.config
    width, heads = int(config["decoder_width"]), int(config["decoder_heads"])
    layers, table_VD = int(config["decoder_layers"]), w["text.embed.weight"]
    token = g.input("token", [1, 1], TensorProto.INT64)
    position = g.input("position", [1], TensorProto.INT64)
    cache = {
        name: g.input(name, [1, heads, axis, width // heads])
        for kind, axis in (("past", "A"), ("cross", "S"))
        for name in cache_names(layers, kind)
    }
    words = g.input("words", ["W", config["text_width"]])
    word_tokens = g.input("word_tokens", ["W"], TensorProto.INT64)

    table = g.constant("decoder.narrowed_table", table_VD @ w["decoder.narrow.weight"].T)
    x = g.node(
        "Add",
        g.node("Gather", table, token),
        g.node("Gather", g.weight("decoder.positions.weight"), position),
    )
    for i, (past, present, cross) in enumerate(
        zip(*(_pairs(cache_names(layers, k)) for k in ("past", "present", "cross")), strict=True)
    ):
        name = f"decoder.layers.{i}."
        q, *new = g.split(g.linear(g.norm(x, name + "self_norm", 1e-5), name + "qkv"), [width] * 3)
        grown = [
            g.node("Concat", cache[old], g.heads(part, width, heads), axis=2)
            for old, part in zip(past, new, strict=True)
        ]
        for output, value in zip(present, grown, strict=True):
            g.output(output, value, [1, heads, "A + 1", width // heads])
        read = g.attend(q, grown, width, heads)
        x = g.node("Add", x, g.linear(read, name + "out"))
        q = g.linear(g.norm(x, name + "cross_norm", 1e-5), name + "cross_q")
        read = g.attend(q, [cache[part] for part in cross], width, heads)
        x = g.node("Add", x, g.linear(read, name + "cross_out"))
        ffn = g.gelu(g.linear(g.norm(x, name + "ffn_norm", 1e-5), name + "up"))
        x = g.node("Add", x, g.linear(ffn, name + "down"))
    x = g.norm(x, "decoder.norm", 1e-5)

    out_table = g.constant("decoder.widened_table", (table_VD @ w["decoder.widen.weight"]).T)
    written = g.node("Softmax", g.flat(g.node("MatMul", x, out_table, name=out_table)), axis=-1)
    query = g.flat(g.linear(x, "decoder.copy_query"))
    scale = g.constant("copy_scale", np.float32(1 / math.sqrt(config["text_width"])))
    copied = g.node("Softmax", g.node("Mul", g.node("MatMul", words, query), scale), axis=-1)
    gate = g.node("Sigmoid", g.flat(g.linear(x, "decoder.gate")))
    copies = g.node("Mul", copied, g.node("Sub", g.constant("one", np.float32(1)), gate))
    chances = g.node(
        "ScatterElements",
        g.node("Mul", written, gate),
        word_tokens,
        copies,
        axis=0,
        reduction="add",
    )
    g.output("chances", chances, [len(table_VD)])
    return g.model()


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(names[::2], names[1::2], strict=True))


def _decisions(g: _Graph, pooled: str, added: tuple[str, str]) -> None:
    """Give out the heads on the pooled state: one product for all, then parted.

    The subsets' 32 scores are linear in 16 features, so the two products become one.
    """
    features_SF = subset_features()
    names = ("subsets", "primary", "environment", "actions", "flags", "team")
    weights, biases = [], []
    for name in names:
        stored = "subset_features" if name == "subsets" else name
        weight, bias = g.weights[f"heads.{stored}.weight"], g.weights[f"heads.{stored}.bias"]
        if name == "subsets":
            weight, bias = features_SF @ weight, features_SF @ bias
        weights.append(weight)
        biases.append(bias)
    matrix = g.constant("heads.weight", np.concatenate(weights).T)
    bias_name = g.constant("heads.bias", np.concatenate(biases))
    logits = g.node("Add", g.node("MatMul", pooled, matrix, name=matrix), bias_name)
    sizes = [len(bias) for bias in biases]
    parts = dict(zip(names, g.split(logits, sizes), strict=True))
    parts["subsets"] = g.node("Add", parts["subsets"], added[0])
    parts["environment"] = g.node("Add", parts["environment"], added[1])
    for name, size in zip(names, sizes, strict=True):
        g.output(name, parts[name], [1, size])


def _ngram_scores(g: _Graph, rows: str) -> tuple[str, str]:
    """Return what the n-grams add to subsets and places; nothing where there are none."""
    weights = g.node("Gather", g.weight("ngrams.importance"), rows)
    found = g.node("Gather", g.weight("ngrams.table.weight"), rows)
    column = g.node("Unsqueeze", weights, g.integers([1]))
    total = g.node("ReduceSum", g.node("Mul", found, column), g.integers([0]), keepdims=1)
    length = g.node("ReduceL2", weights, axes=[0], keepdims=1)
    tiny = g.constant("tiny", np.float32(1e-12))
    scores = g.node("Div", total, g.node("Max", length, tiny))
    count = g.node("Cast", g.node("Shape", rows), to=TensorProto.FLOAT)
    is_any = g.node("Min", count, g.constant("one", np.float32(1)))
    scores = g.node("Add", scores, g.node("Mul", g.weight("ngrams.bias"), is_any))
    subsets = len(subset_features())
    places = len(g.weights["ngrams.bias"]) - subsets
    of_set, of_place = g.split(scores, [subsets, places])
    return of_set, of_place


class _Graph:
    """Collects operations and weights; every method returns the name of what it computes."""

    def __init__(self, name: str, checkpoint: Checkpoint) -> None:
        self.name, self.weights, self.config = name, checkpoint.weights, checkpoint.config
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, axes: Axes, kind: int = TensorProto.FLOAT) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, axes))
        return name

    def output(self, name: str, value: str, axes: Axes) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, axes))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._constants.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="embervlm",
        )

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        if name not in self._constants:
            content = np.ascontiguousarray(value).reshape(np.shape(value))
            self._constants[name] = numpy_helper.from_array(content, name)
        return name

    def weight(self, name: str) -> str:
        """A tensor of the checkpoint as it is."""
        return self.constant(name, self.weights[name])

    def integers(self, values: Sequence[int]) -> str:
        name = "integers_" + "_".join(map(str, values))
        return self.constant(name, np.array(values, dtype=np.int64))

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        return self._add(kind, inputs, 1, name, attributes)[0]

    def split(self, x: str, sizes: Sequence[int]) -> list[str]:
        """The parts of `x` along its last axis."""
        return self._add("Split", (x, self.integers(sizes)), len(sizes), "", {"axis": -1})

    def _add(
        self, kind: str, inputs: Sequence[str], outputs: int, name: str, attributes: dict[str, Any]
    ) -> list[str]:
        stem = f"{kind}_{len(self._nodes)}"
        names = [stem if outputs == 1 else f"{stem}_{i}" for i in range(outputs)]
        node = helper.make_node(kind, list(inputs), names, name=name or stem, **attributes)
        self._nodes.append(node)
        return names

    def linear(self, x: str, name: str) -> str:
        """x W^T + b; the matrix is kept as (in, out), and its product has the matrix's name."""
        matrix = self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T)
        product = self.node("MatMul", x, matrix, name=matrix)
        return self.node("Add", product, self.weight(f"{name}.bias"))

    def norm(self, x: str, name: str, eps: float) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)

    def gelu(self, x: str) -> str:
        """Exact GELU, x / 2 (1 + erf(x / sqrt 2)), in the order that ONNX Runtime fuses."""
        inner = self.node("Div", x, self.constant("sqrt_two", np.float32(math.sqrt(2))))
        shares = self.node("Add", self.node("Erf", inner), self.constant("one", np.float32(1)))
        return self.node("Mul", self.node("Mul", x, shares), self.constant("half", np.float32(0.5)))

    def flat(self, x: str) -> str:
        return self.node("Reshape", x, self.integers([-1]))

    def heads(self, x: str, width: int, heads: int) -> str:
        """(1, T, D) as (1, H, T, D / H)."""
        parted = self.node("Reshape", x, self.integers([1, -1, heads, width // heads]))
        return self.node("Transpose", parted, perm=[0, 2, 1, 3])

    def attend(self, q: str, keys_values: Sequence[str], width: int, heads: int) -> str:
        """Attention of `q` (1, T, D) on keys and values (1, H, S, D / H): (1, T, D)."""
        keys, values = keys_values
        scale = self.constant("attention_scale", np.float32(1 / math.sqrt(width // heads)))
        turned = self.node("Transpose", keys, perm=[0, 1, 3, 2])
        scores = self.node("Mul", self.node("MatMul", self.heads(q, width, heads), turned), scale)
        read = self.node("MatMul", self.node("Softmax", scores, axis=-1), values)
        merged = self.node("Transpose", read, perm=[0, 2, 1, 3])
        return self.node("Reshape", merged, self.integers([1, -1, width]))

    def convolution(
        self, x: str, name: str, size: int, *, stride: int = 1, bounded: bool = True
    ) -> tuple[str, int]:
        """A convolution with TensorFlow's SAME padding, then ReLU6 if `bounded`; the second result
        is the side of the square that comes out."""
        kernel_OCHW = self.weights[f"{name}.weight"]
        depthwise = len(kernel_OCHW) if name.endswith("depthwise") else 1
        side = kernel_OCHW.shape[-1]
        out = -(-size // stride)
        pad = max((out - 1) * stride + side - size, 0)
        before, after = pad // 2, pad - pad // 2
        x = self.node(
            "Conv",
            x,
            self.weight(f"{name}.weight"),
            self.weight(f"{name}.bias"),
            name=name,
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=depthwise,
        )
        if bounded:
            zero, six = (self.constant(f"relu6_{v}", np.float32(v)) for v in (0, 6))
            x = self.node("Clip", x, zero, six)
        return x, out
