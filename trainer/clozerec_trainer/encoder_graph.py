"""The sequence network as an ONNX graph, written node by node from the torch module. A test holds the two together.

Three things make it several times faster than an export of the module (docs/adr says what was measured):

- The last block is computed for the mask alone, and never makes its keys and values. With one query a head, the key and
  query projections act as one matrix, q (W_q' W_k) h', and so do the value and output projections; what remains of the
  other positions is their normalised hidden state. The bias of the keys adds the same to every score and drops out.
- Positions come first, `[L, B, D]`, so that the heads of a projection are strided views for the matrix product, and
  not copies.
- Item vectors, mask and positions are looked up and added by the caller, and sequences of one length run together:
  nothing is padded, and nothing needs a flag.

Shapes: L positions, B batch, T the network's positions, D dim, H heads, P dims of a head.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clozerec_trainer.model import NetworkSpec, SequenceNetwork

Doubles = NDArray[np.float64]

HIDDEN, ITEMS, RECENCY, ASKED, INTENT = "hidden", "items", "recency", "asked", "intent"

_OPSET = 20
"""The first with Gelu."""

_IR_VERSION = 10
_CONTRIB = "com.microsoft"
"""ONNX Runtime's own operators: FusedMatMul reads a transposed operand in place."""


class _Graph:
    """Collects nodes and constants; values are referred to by name. Weights are combined in double precision."""

    def __init__(self, weights: dict[str, Doubles]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def fused_matmul(self, left: str, right: str, **transposed: int) -> str:
        return self.op("FusedMatMul", left, right, domain=_CONTRIB, **transposed)

    def floats(self, array: Doubles) -> str:
        return self._constant(array.astype(np.float32))

    def ints(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _constant(self, array: NDArray[np.float32] | NDArray[np.int64]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def shape(self, like: str, *last: int) -> str:
        """The first two sizes of a value, then the given ones."""
        return self.op("Concat", self.op("Shape", like, start=0, end=2), self.ints(*last), axis=0)

    def norm(self, hidden: str, name: str) -> str:
        scale, bias = (self.floats(self.weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.op("LayerNormalization", hidden, scale, bias, axis=-1, epsilon=1e-5)

    def affine(self, hidden: str, weight_IO: Doubles, bias_O: Doubles) -> str:
        return self.op("Gemm", hidden, self.floats(weight_IO), self.floats(bias_O))

    def linear(self, hidden: str, name: str) -> str:
        return self.affine(hidden, self.weights[f"{name}.weight"].T, self.weights[f"{name}.bias"])

    def feed_forward(self, hidden: str, name: str) -> str:
        return self.linear(self.op("Gelu", self.linear(hidden, f"{name}.0")), f"{name}.2")


def write_encoder(network: SequenceNetwork, path: Path) -> None:
    """Write `encoder.onnx`: `intent` [B, D] of

    - `hidden` [L, B, D], the sum of what stands at a position and the position's own vector;
    - `asked` [B], where in the flattened `[L * B, D]` each sequence has its mask;

    and of a network with a taste:

    - `items` [L, B, D], what stands at a position where it is an item, else zero;
    - `recency` [B, 1, L], the logarithm of what an item counts in the taste by its distance from the mask.
    """
    weights = {name: tensor.detach().cpu().double().numpy() for name, tensor in network.state_dict().items()}
    num_heads, dim = network.spec.heads, network.spec.dim
    graph = _Graph(weights)
    hidden = graph.op("Reshape", HIDDEN, graph.ints(-1, dim))
    for number in range(network.spec.depth - 1):
        hidden = _block(graph, f"blocks.{number}", hidden, num_heads, dim)
    hidden = _last_block(graph, f"blocks.{network.spec.depth - 1}", hidden, num_heads, dim)
    normed = graph.norm(hidden, "final_norm")
    answer = graph.feed_forward(normed, "head")
    if network.spec.taste:
        taste_IO = weights["taste.weight"].T * np.sign(weights["input_scale"])
        answer = graph.op("Gemm", _taste(graph, normed, dim), graph.floats(taste_IO), answer)
    graph.nodes.append(helper.make_node("LpNormalization", [answer], [INTENT], axis=-1, p=2))
    _save(graph, _inputs(network.spec), dim, path)


def _block(graph: _Graph, name: str, hidden: str, num_heads: int, dim: int) -> str:
    """One transformer block at every position, `[L * B, D]` to the same."""
    normed = graph.norm(hidden, f"{name}.attention_norm")
    query_OI, key_OI, value_OI = np.split(graph.weights[f"{name}.query_key_value.weight"], 3)
    query_bias_O, _, value_bias_O = np.split(graph.weights[f"{name}.query_key_value.bias"], 3)
    scale = 1 / math.sqrt(dim // num_heads)
    heads_LBHP = graph.shape(HIDDEN, num_heads, dim // num_heads)
    query, key, value = (
        graph.op("Reshape", projected, heads_LBHP)
        for projected in (
            graph.affine(normed, query_OI.T * scale, query_bias_O * scale),
            graph.op("MatMul", normed, graph.floats(key_OI.T)),
            graph.op("MatMul", normed, graph.floats(value_OI.T)),
        )
    )
    scores_BHLL = graph.fused_matmul(query, key, transB=1, transBatchA=1, transBatchB=1)
    read_BHLP = graph.fused_matmul(graph.op("Softmax", scores_BHLL, axis=-1), value, transBatchB=1)
    read = graph.op("Reshape", graph.op("Transpose", read_BHLP, perm=[2, 0, 1, 3]), graph.ints(-1, dim))
    out_OI, out_bias_O = (graph.weights[f"{name}.attention_out.{part}"] for part in ("weight", "bias"))
    # Shares of attention sum to 1, so the bias of the values is read whole.
    hidden = graph.op("Add", hidden, graph.affine(read, out_OI.T, out_bias_O + out_OI @ value_bias_O))
    fed = graph.feed_forward(graph.norm(hidden, f"{name}.feed_forward_norm"), f"{name}.feed_forward")
    return graph.op("Add", hidden, fed)


def _last_block(graph: _Graph, name: str, hidden: str, num_heads: int, dim: int) -> str:
    """The block at the asked position only, `[L * B, D]` to `[B, D]`."""
    normed = graph.norm(hidden, f"{name}.attention_norm")
    asked, asking = (graph.op("Gather", each, ASKED) for each in (hidden, normed))
    ask_IHI, ask_bias_HI, answer_HIO, answer_bias_O = _one_query_attention(graph.weights, name, num_heads)
    query_BHD = graph.op(
        "Reshape",
        graph.affine(asking, ask_IHI.reshape(dim, -1), ask_bias_HI.reshape(-1)),
        graph.ints(-1, num_heads, dim),
    )
    normed_LBD = graph.op("Reshape", normed, graph.shape(HIDDEN, dim))
    scores_BHL = graph.fused_matmul(query_BHD, normed_LBD, transB=1, transBatchB=1)
    read_BHD = graph.fused_matmul(graph.op("Softmax", scores_BHL, axis=-1), normed_LBD, transBatchB=1)
    read = graph.op("Reshape", read_BHD, graph.ints(-1, num_heads * dim))
    hidden = graph.op("Add", asked, graph.affine(read, answer_HIO.reshape(-1, dim), answer_bias_O))
    fed = graph.feed_forward(graph.norm(hidden, f"{name}.feed_forward_norm"), f"{name}.feed_forward")
    return graph.op("Add", hidden, fed)


def _taste(graph: _Graph, normed: str, dim: int) -> str:
    """The mean of the items read, `[B, D]`, weighted by what the normalised hidden states `[B, D]` ask of them."""
    query_IO = graph.weights["taste_query.weight"].T / graph.weights["input_scale"]  # which `items` are multiplied by
    query_B1D = graph.op("Reshape", graph.op("MatMul", normed, graph.floats(query_IO)), graph.ints(-1, 1, dim))
    scores_B1L = graph.op("Add", graph.fused_matmul(query_B1D, ITEMS, transB=1, transBatchB=1), RECENCY)
    mean_B1D = graph.fused_matmul(graph.op("Softmax", scores_B1L, axis=-1), ITEMS, transBatchB=1)
    mean = graph.op("Reshape", mean_B1D, graph.ints(-1, dim))
    return graph.op("LpNormalization", mean, axis=-1, p=2)


def _one_query_attention(
    weights: dict[str, Doubles], name: str, num_heads: int
) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Attention of a single query as four tensors: what it asks, `[I, H, I]` and `[H, I]`, and what it answers with,
    `[H, I, O]` and `[O]`; I and O are both D, the width of the hidden state.
    """
    projection, bias = weights[f"{name}.query_key_value.weight"], weights[f"{name}.query_key_value.bias"]
    query_HPI, key_HPI, value_HPI = (part.reshape(num_heads, -1, part.shape[1]) for part in np.split(projection, 3))
    query_bias_HP, _, value_bias_HP = (part.reshape(num_heads, -1) for part in np.split(bias, 3))
    out_OI, out_bias_O = (weights[f"{name}.attention_out.{part}"] for part in ("weight", "bias"))
    out_OHP = out_OI.reshape(len(out_OI), num_heads, -1)
    scale = 1 / math.sqrt(query_HPI.shape[1])
    ask_IHI = np.einsum("hpi,hpj->ihj", query_HPI, key_HPI) * scale
    ask_bias_HI = np.einsum("hp,hpj->hj", query_bias_HP, key_HPI) * scale
    answer_HIO = np.einsum("hpi,ohp->hio", value_HPI, out_OHP)
    answer_bias_O = out_bias_O + np.einsum("hp,ohp->o", value_bias_HP, out_OHP)
    return ask_IHI, ask_bias_HI, answer_HIO, answer_bias_O


def _inputs(spec: NetworkSpec) -> list[onnx.ValueInfoProto]:
    of_every_network = [
        helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, ["L", "B", spec.dim]),
        helper.make_tensor_value_info(ASKED, TensorProto.INT64, ["B"]),
    ]
    of_the_taste = [
        helper.make_tensor_value_info(ITEMS, TensorProto.FLOAT, ["L", "B", spec.dim]),
        helper.make_tensor_value_info(RECENCY, TensorProto.FLOAT, ["B", 1, "L"]),
    ]
    return of_every_network + (of_the_taste if spec.taste else [])


def _save(graph: _Graph, inputs: list[onnx.ValueInfoProto], dim: int, path: Path) -> None:
    intent = helper.make_tensor_value_info(INTENT, TensorProto.FLOAT, ["B", dim])
    made = helper.make_graph(graph.nodes, "sequence_network", inputs, [intent], graph.constants)
    domains = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
    model = helper.make_model(made, opset_imports=domains, ir_version=_IR_VERSION, producer_name="clozerec")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
