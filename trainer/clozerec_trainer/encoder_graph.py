"""The sequence network as an ONNX graph, written node by node.

The exporter of torch takes half a minute and cannot know that only the mask's hidden state is asked for: written by
hand, the last block computes that one position only, which halves the work of two blocks. A test holds the graph to
torch.

Shapes: B batch, L positions read, T the network's positions, D dim, H heads.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from clozerec_core.hybrid import Floats
from clozerec_trainer.model import SequenceNetwork

TOKEN_VECTORS, IS_MASK, IS_PAD, INTENT = "token_vectors", "is_mask", "is_pad", "intent"

_OPSET = 20
"""The first with Gelu."""

_IR_VERSION = 10
_NEVER = -1e9
"""Added to the attention of padding; its share after softmax is exactly 0."""

_LEAST_NORM = 1e-12


class _Graph:
    """Collects nodes and constants; values are referred to by name."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, name: str) -> str:
        return self.constant(self.weights[name])

    def norm(self, hidden: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", hidden, scale, bias, axis=-1, epsilon=1e-5)

    def linear(self, hidden: str, name: str, part: slice = slice(None)) -> str:
        """A linear layer, or some of its outputs."""
        weight, bias = self.weights[f"{name}.weight"][part], self.weights[f"{name}.bias"][part]
        return self.op("Add", self.op("MatMul", hidden, self.constant(weight.T)), self.constant(bias))


def write_encoder(network: SequenceNetwork, path: Path) -> None:
    """Write `encoder.onnx`: `intent` [B, D] of `token_vectors` [B, L, D], `is_mask` and `is_pad` [B, L]."""
    weights = {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}
    num_positions, dim = weights["positions"].shape
    graph = _Graph(weights)
    is_mask_BL1 = graph.op("Unsqueeze", graph.op("Cast", IS_MASK, to=TensorProto.FLOAT), graph.ints(2))
    hidden = _embed(graph, is_mask_BL1, num_positions)
    never_B11L = _never_read(graph) if network.spec.use_attention_mask else None
    for number in range(network.spec.depth):
        asked = is_mask_BL1 if number == network.spec.depth - 1 else None
        hidden = _block(graph, f"blocks.{number}", hidden, never_B11L, network.spec.heads, dim, asked)
    answer = graph.linear(graph.norm(hidden, "final_norm"), "head.0")
    answer = graph.linear(graph.op("Gelu", answer), "head.2")
    answer = graph.op("Squeeze", answer, graph.ints(1))
    norm = graph.op("ReduceL2", answer, graph.ints(-1), keepdims=1)
    norm = graph.op("Max", norm, graph.constant(np.array(_LEAST_NORM, np.float32)))
    graph.nodes.append(helper.make_node("Div", [answer, norm], [INTENT]))
    _save(graph, dim, path)


def _embed(graph: _Graph, is_mask_BL1: str, num_positions: int) -> str:
    """Items, mask, padding and positions; the last position of the network is the last of the sequence."""
    is_pad_BL1 = graph.op("Unsqueeze", graph.op("Cast", IS_PAD, to=TensorProto.FLOAT), graph.ints(2))
    length = graph.op("Shape", TOKEN_VECTORS, start=1, end=2)
    first = graph.op("Sub", graph.ints(num_positions), length)
    positions_LD = graph.op("Slice", graph.weight("positions"), first, graph.ints(num_positions), graph.ints(0))
    items = graph.op("Mul", TOKEN_VECTORS, graph.weight("input_scale"))
    mask = graph.op("Mul", is_mask_BL1, graph.weight("mask_vector"))
    pad = graph.op("Mul", is_pad_BL1, graph.weight("pad_vector"))
    return graph.op("Add", graph.op("Add", graph.op("Add", items, mask), pad), positions_LD)


def _never_read(graph: _Graph) -> str:
    is_pad_B11L = graph.op("Unsqueeze", IS_PAD, graph.ints(1, 2))
    never, always = (graph.constant(np.array(value, np.float32)) for value in (_NEVER, 0))
    return graph.op("Where", is_pad_B11L, never, always)


def _block(
    graph: _Graph, name: str, hidden: str, never_B11L: str | None, num_heads: int, dim: int, asked: str | None
) -> str:
    """One transformer block; with `asked` [B, L, 1] its output is `[B, 1, D]`, the position asked for."""
    normed = graph.norm(hidden, f"{name}.attention_norm")
    asking = normed
    if asked is not None:
        hidden, asking = (
            graph.op("ReduceSum", graph.op("Mul", each, asked), graph.ints(1), keepdims=1) for each in (hidden, normed)
        )
    projection = f"{name}.query_key_value"
    query, key, value = (
        graph.op(
            "Reshape", graph.linear(each, projection, slice(k * dim, (k + 1) * dim)), graph.ints(0, 0, num_heads, -1)
        )
        for k, each in enumerate((asking, normed, normed))
    )
    query = graph.op("Transpose", query, perm=[0, 2, 1, 3])
    key = graph.op("Transpose", key, perm=[0, 2, 3, 1])
    value = graph.op("Transpose", value, perm=[0, 2, 1, 3])
    scale = graph.constant(np.array(1 / math.sqrt(dim // num_heads), np.float32))
    scores = graph.op("MatMul", graph.op("Mul", query, scale), key)
    if never_B11L is not None:
        scores = graph.op("Add", scores, never_B11L)
    read = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
    read = graph.op("Reshape", graph.op("Transpose", read, perm=[0, 2, 1, 3]), graph.ints(0, 0, dim))
    hidden = graph.op("Add", hidden, graph.linear(read, f"{name}.attention_out"))
    fed = graph.linear(graph.norm(hidden, f"{name}.feed_forward_norm"), f"{name}.feed_forward.0")
    return graph.op("Add", hidden, graph.linear(graph.op("Gelu", fed), f"{name}.feed_forward.2"))


def _save(graph: _Graph, dim: int, path: Path) -> None:
    flags = [helper.make_tensor_value_info(each, TensorProto.BOOL, ["B", "L"]) for each in (IS_MASK, IS_PAD)]
    tokens = helper.make_tensor_value_info(TOKEN_VECTORS, TensorProto.FLOAT, ["B", "L", dim])
    intent = helper.make_tensor_value_info(INTENT, TensorProto.FLOAT, ["B", dim])
    made = helper.make_graph(graph.nodes, "sequence_network", [tokens, *flags], [intent], graph.constants)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="clozerec"
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
