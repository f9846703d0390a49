"""Hybrid BERT4Rec: a bidirectional transformer over item vectors that are text and behaviour at once.

Sun et al. 2019 (arXiv:1904.06690), with four departures. An item's vector is normalise(project(content) + behaviour),
so that an unseen item has one too. Logits are cosine / temperature without bias, so that what is trained is what a
vector index searches. Blocks normalise first (Xiong et al. 2020, arXiv:2002.04745), which trains without tuning. The
intent is the transformer's answer plus, where the payload wants it, a taste, a weighted mean of the item vectors that
were read: what is like the history is near it from the first step on, whether or not it was ever trained on
(docs/adr/0015).

Shapes: B batch, L positions read (at most T, the network's), D dim, N items, M items asked for, K whitened
content dims, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clozerec_core.hybrid import TINY_NORM, Floats
from clozerec_trainer.item_features import Content
from clozerec_trainer.payload import LEAST_TEMPERATURE, Payload

_FIRST_TEMPERATURE = 0.1

_FIRST_DECAY = 0.05
"""How much less an item counts in the taste for each position farther away, as a share, before training."""


@dataclass(frozen=True)
class NetworkSpec:
    """The shape of the transformer."""

    dim: int
    num_positions: int
    depth: int
    heads: int
    dropout: float
    use_attention_mask: bool
    taste: bool = True

    @classmethod
    def of(cls, payload: Payload) -> NetworkSpec:
        """As the payload asks: one position more than items, for the mask."""
        return cls(
            dim=payload.hidden_size,
            num_positions=payload.max_sequence_length + 1,
            depth=payload.model_depth,
            heads=payload.attention_heads,
            dropout=payload.dropout_rate,
            use_attention_mask=payload.use_attention_mask,
            taste=payload.taste,
        )


class ItemVectors(nn.Module):
    """One side of the hybrid space; `clozerec_core.hybrid.ItemSpace` is the same in numpy."""

    whitened_NK: Tensor
    has_text_N1: Tensor
    trained_N1: Tensor

    def __init__(self, content: Content, trained_N: Tensor, dim: int, behaviour_limit: float | None = None) -> None:
        """
        Args:
            behaviour_limit: longest id part of an item with text, as a share of its text part; None: any length.
                What is learned of an item then cannot leave its text so far behind that an item with text alone has no
                chance beside it (Let It Go, 2025, bounds it at 0.5).
        """
        super().__init__()
        self.behaviour_limit = behaviour_limit
        whitened_NK = torch.from_numpy(content.whitened())
        num_items, num_dims = whitened_NK.shape
        has_text_N1 = torch.from_numpy(content.vectors_NC.any(axis=1, keepdims=True))
        self.register_buffer("whitened_NK", whitened_NK, persistent=False)
        self.register_buffer("has_text_N1", has_text_N1.float(), persistent=False)
        self.register_buffer("trained_N1", trained_N[:, None].float(), persistent=False)
        self.projection = nn.Parameter(torch.randn(dim, num_dims) / math.sqrt(max(1, num_dims) * dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.behaviour = nn.Parameter(torch.randn(num_items, dim) * (0.1 if num_dims == 0 else 0.02))

    def forward(self, rows_M: Tensor, behaviour_kept_M1: Tensor | None = None) -> Tensor:
        """L2-normalised vectors, `[M, D]`; zero for an item with neither text nor training events.

        Args:
            rows_M: which items.
            behaviour_kept_M1: 0 where the id part is dropped; items without text keep theirs.
        """
        behaviour_MD = F.embedding(rows_M, self.behaviour) * self.trained_N1[rows_M]
        if self.projection.shape[1] == 0:
            return F.normalize(behaviour_MD, dim=-1, eps=TINY_NORM)
        content_MD = self.content_part(rows_M)
        behaviour_MD = self._limited(behaviour_MD, content_MD)
        if behaviour_kept_M1 is not None:
            behaviour_MD = behaviour_MD * torch.maximum(behaviour_kept_M1, 1 - self.has_text_N1[rows_M])
        return F.normalize(content_MD + behaviour_MD, dim=-1, eps=TINY_NORM)

    def tensors(self) -> dict[str, Tensor]:
        """What the bundle keeps; behaviour is exactly zero for items without a training event."""
        behaviour_ND = self.behaviour * self.trained_N1
        if self.projection.shape[1]:
            behaviour_ND = self._limited(behaviour_ND, self.content_part(torch.arange(len(behaviour_ND))))
        return {"projection": self.projection, "bias": self.bias, "behaviour": behaviour_ND}

    def content_part(self, rows_M: Tensor) -> Tensor:
        """What the text adds to a vector before it is normalised, `[M, D]`; zero without text."""
        return (self.whitened_NK[rows_M] @ self.projection.T + self.bias) * self.has_text_N1[rows_M]

    def _limited(self, behaviour_MD: Tensor, content_MD: Tensor) -> Tensor:
        """No longer than the limit allows; where there is no text, as it is."""
        if self.behaviour_limit is None:
            return behaviour_MD
        content_M1, behaviour_M1 = (part.norm(dim=1, keepdim=True) for part in (content_MD, behaviour_MD))
        allowed_M1 = self.behaviour_limit * content_M1 / behaviour_M1.clamp(min=TINY_NORM)
        return behaviour_MD * torch.where(content_M1 > 0, allowed_M1.clamp(max=1), 1)


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each normalised before and added after."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.attention_norm = nn.LayerNorm(spec.dim)
        self.query_key_value = nn.Linear(spec.dim, 3 * spec.dim)
        self.attention_out = nn.Linear(spec.dim, spec.dim)
        self.feed_forward_norm = nn.LayerNorm(spec.dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(spec.dim, 4 * spec.dim), nn.GELU(), nn.Linear(4 * spec.dim, spec.dim)
        )
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, hidden_BLD: Tensor, may_read: Tensor | None, causal: bool = False) -> Tensor:
        """One round.

        Args:
            may_read: broadcasts to `[B, H, L, L]`; None: every position reads every other.
            causal: without `may_read`: a position reads only itself and the past.
        """
        hidden_BLD = hidden_BLD + self.dropout(self._attend(self.attention_norm(hidden_BLD), may_read, causal))
        fed_BLD: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(hidden_BLD)))
        return hidden_BLD + fed_BLD

    def _attend(self, hidden_BLD: Tensor, may_read: Tensor | None, causal: bool) -> Tensor:
        parts = self.query_key_value(hidden_BLD).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # [B, H, L, D/H]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=may_read, is_causal=causal)
        out_BLD: Tensor = self.attention_out(attended.transpose(1, 2).flatten(2))
        return out_BLD


class States(NamedTuple):
    """What a network makes of positions: `[B, L, D]`, or `[M, D]` of those that are asked."""

    hidden: Tensor
    """The transformer's, normalised."""
    taste: Tensor | None
    """Weighted mean of the item vectors read, L2-normalised; zero where nothing is. None: the network has none."""

    def at(self, where: Any) -> States:
        """Some positions, as indices or a mask."""
        return States(self.hidden[where], None if self.taste is None else self.taste[where])


class SequenceNetwork(nn.Module):
    """The transformer: vectors of a sequence's items in, states out. Knows no catalogue."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.positions = nn.Parameter(torch.randn(spec.num_positions, spec.dim) * 0.02)
        self.mask_vector = nn.Parameter(torch.randn(spec.dim) * 0.02)
        self.pad_vector = nn.Parameter(torch.zeros(spec.dim))
        self.input_scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(spec.dropout)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.final_norm = nn.LayerNorm(spec.dim)
        self.head = nn.Sequential(nn.Linear(spec.dim, spec.dim), nn.GELU(), nn.Linear(spec.dim, spec.dim))
        if spec.taste:
            self.log_recency = nn.Parameter(-_FIRST_DECAY * torch.arange(spec.num_positions))
            self.taste_query = nn.Linear(spec.dim, spec.dim, bias=False)
            self.taste = nn.Linear(spec.dim, spec.dim, bias=False)
            nn.init.zeros_(self.taste_query.weight)
            nn.init.eye_(self.taste.weight)

    def forward(
        self,
        token_vectors_BLD: Tensor,
        is_mask_BL: Tensor,
        is_pad_BL: Tensor,
        causal: bool = False,
        padded: bool = True,
    ) -> States:
        """States of every position.

        Args:
            token_vectors_BLD: unit vectors of items, right-aligned; zeros at mask and padding.
            is_mask_BL: where the mask stands.
            is_pad_BL: where there is nothing.
            causal: whether a position reads only itself and the past.
            padded: false where there is no padding at all, which attention then need not look for.
        """
        length = token_vectors_BLD.shape[1]
        hidden_BLD = (
            token_vectors_BLD * self.input_scale
            + is_mask_BL.unsqueeze(-1) * self.mask_vector
            + is_pad_BL.unsqueeze(-1) * self.pad_vector
            + self.positions[self.spec.num_positions - length :]
        )
        hidden_BLD = self.dropout(hidden_BLD)
        may_read = self._may_read(is_pad_BL, causal) if padded and self.spec.use_attention_mask else None
        for block in self.blocks:
            hidden_BLD = block(hidden_BLD, may_read, causal and may_read is None)
        hidden_BLD = self.final_norm(hidden_BLD)
        taste_BLD = self._tastes(hidden_BLD, token_vectors_BLD, is_mask_BL, causal) if self.spec.taste else None
        return States(hidden_BLD, taste_BLD)

    def answer(self, states: States) -> Tensor:
        """L2-normalised intents `[M, D]` of the positions that are asked."""
        return F.normalize(self.unscaled_answer(states), dim=-1)

    def unscaled_answer(self, states: States) -> Tensor:
        """The same before it is normalised."""
        answers_MD: Tensor = self.head(states.hidden)
        return answers_MD if states.taste is None else answers_MD + self.taste(states.taste)

    def _tastes(self, hidden_BLD: Tensor, token_vectors_BLD: Tensor, is_mask_BL: Tensor, causal: bool) -> Tensor:
        """Attention over the item vectors themselves, by what the transformer asks and by distance from the item asked
        for: the one hidden at a mask, the next one at an item that is read causally.

        Masks and padding have no vector, so they shorten the mean, and leave its direction as it is.
        """
        length = token_vectors_BLD.shape[1]
        places_L = torch.arange(length, device=token_vectors_BLD.device)
        apart_LL = (places_L[:, None] - places_L).abs()
        recency = self.log_recency[(apart_LL - 1).clamp(min=0)]
        if causal:
            recency = torch.where(is_mask_BL.unsqueeze(-1), recency, self.log_recency[apart_LL])
            recency = recency.masked_fill(places_L[:, None] < places_L, -torch.inf)
        scores_BLL = self.taste_query(hidden_BLD) @ token_vectors_BLD.transpose(1, 2) + recency
        return F.normalize(scores_BLL.softmax(dim=-1) @ token_vectors_BLD, dim=-1, eps=TINY_NORM)

    def _may_read(self, is_pad_BL: Tensor, causal: bool) -> Tensor:
        """Which position reads which: `[B, 1, 1, L]`, or `[B, 1, L, L]` when causal; padding reads itself there."""
        readable_B11L = ~is_pad_BL[:, None, None, :]
        if not causal:
            return readable_B11L
        length = is_pad_BL.shape[1]
        past_LL = torch.ones(length, length, dtype=torch.bool, device=is_pad_BL.device).tril()
        itself_LL = torch.eye(length, dtype=torch.bool, device=is_pad_BL.device)
        return (readable_B11L & past_LL) | itself_LL


class HybridBert4Rec(nn.Module):
    """Item vectors on both sides, the sequence network between them, and the temperature of the loss."""

    def __init__(
        self,
        spec: NetworkSpec,
        content: Content,
        trained_N: Tensor,
        tied: bool,
        temperature: float | None,
        behaviour_limit: float | None = None,
    ) -> None:
        super().__init__()
        self.content = content
        self.num_items = len(content.vectors_NC)
        self.items_input = ItemVectors(content, trained_N, spec.dim, behaviour_limit)
        self.items_output = self.items_input if tied else ItemVectors(content, trained_N, spec.dim, behaviour_limit)
        self.network = SequenceNetwork(spec)
        first = torch.tensor(math.log(temperature or _FIRST_TEMPERATURE))
        self.log_temperature = nn.Parameter(first, requires_grad=temperature is None)

    @property
    def tied(self) -> bool:
        return self.items_output is self.items_input

    @property
    def temperature(self) -> Tensor:
        """Divides the cosine."""
        return self.log_temperature.clamp(min=math.log(LEAST_TEMPERATURE)).exp()

    def encode(
        self, rows_BL: Tensor, vectors_MD: Tensor, index_BL: Tensor, causal: bool = False, padded: bool = True
    ) -> States:
        """States of every position of rows.

        Args:
            rows_BL: catalogue rows, padding and masks.
            vectors_MD: input-side vectors of the items at hand.
            index_BL: where in them each position's item stands; anything at mask and padding.
            causal: whether a position reads only itself and the past.
            padded: false where there is no padding at all.
        """
        is_item_BL = rows_BL < self.num_items
        vectors_BLD = F.embedding(index_BL, vectors_MD) * is_item_BL.unsqueeze(-1)
        is_pad_BL = rows_BL == self.num_items
        states: States = self.network(vectors_BLD, rows_BL == self.num_items + 1, is_pad_BL, causal, padded)
        return states

    @torch.no_grad()
    def catalogue_vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors of every item, input and output side, each `[N, D]`."""
        rows_N = torch.arange(self.num_items, device=self.log_temperature.device)
        input_ND = self.items_input(rows_N)
        return input_ND, (input_ND if self.tied else self.items_output(rows_N))

    @torch.no_grad()
    def intents(self, rows_BT: Tensor, input_ND: Tensor) -> Tensor:
        """Intent vectors `[B, D]` of sequences that end with the mask."""
        return F.normalize(self.unscaled_intents(rows_BT, input_ND), dim=-1)

    @torch.no_grad()
    def unscaled_intents(self, rows_BT: Tensor, input_ND: Tensor) -> Tensor:
        """The same before they are normalised."""
        index_BT = rows_BT.clamp(max=self.num_items - 1)
        return self.network.unscaled_answer(self.encode(rows_BT, input_ND, index_BT).at((slice(None), -1)))

    @torch.no_grad()
    def to_weights(self) -> dict[str, Floats]:
        """The tensors of `weights.safetensors`."""
        weights = {"content.mean": self.content.mean_C, "content.whitening": self.content.whitening_CK}
        for side, items in (("input", self.items_input), ("output", self.items_output)):
            weights |= {f"items.{side}.{name}": _array(tensor) for name, tensor in items.tensors().items()}
        weights |= {f"network.{name}": _array(tensor) for name, tensor in self.network.state_dict().items()}
        return weights | {"network.log_temperature": _array(self.log_temperature)}

    def load_weights(self, weights: dict[str, Floats]) -> None:
        """The inverse of `to_weights`."""
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        state = {"log_temperature": tensors.pop("network.log_temperature")}
        if "network.taste.weight" not in tensors:  # of a bundle before format 3: its intents have no taste
            state |= {f"network.{name}": torch.zeros_like(each) for name, each in self.network.state_dict().items()}
        state |= {name: tensor for name, tensor in tensors.items() if name.startswith("network.")}
        for side in ("input", "output"):
            state |= {
                f"items_{side}.{name}": tensors[f"items.{side}.{name}"] for name in ("projection", "bias", "behaviour")
            }
        self.load_state_dict(state)


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().cpu().numpy().copy()
    return array
