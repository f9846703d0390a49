"""The hybrid space: an item's vector is normalise(project(content) + behaviour), in numpy, for the services.

The trainer learns the parts in torch and writes them to `weights.safetensors`; a test holds the two readings together.
Both sides of the model have a space of their own when weights are not tied: `input` reads items in a history, `output`
is what is ranked and what the index holds.

Shapes: N items, C content_dim (text engine's output), K whitened dims, D dim of the space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Side = Literal["input", "output"]

SCORE_STEPS_PER_UNIT = 10_000
"""Scores are rounded to 1e-4 before they are ordered, in serving and in evaluation alike; ties go by row."""

TINY_NORM = 1e-6
"""Shorter vectors are no direction: the item has neither text nor behaviour."""


@dataclass(frozen=True)
class ItemSpace:
    """One side of the hybrid space. Without a text engine `projection` is [D, 0] and behaviour stands alone."""

    content_mean: Floats
    """[C] of the training catalogue, removed first: raw sentence vectors crowd together."""
    content_whitening: Floats
    """[C, K] from centred content to decorrelated dims of equal weight."""
    projection: Floats
    """[D, K]"""
    bias: Floats
    """[D] added for items with content only."""
    behaviour: Floats
    """[N, D] learned id embeddings; zero for items that no training event shows."""

    @property
    def dim(self) -> int:
        return int(self.projection.shape[0])

    @property
    def content_dim(self) -> int:
        """0 without a text engine."""
        return int(self.content_mean.shape[0])

    def project(self, content_NC: Floats) -> Floats:
        """The content part, `[N, D]`; zero where the content vector is zero (no text)."""
        if self.content_dim == 0:
            return np.zeros((len(content_NC), self.dim), np.float32)
        whitened_NK = (content_NC - self.content_mean) @ self.content_whitening
        projected_ND = whitened_NK @ self.projection.T + self.bias
        return np.where(np.any(content_NC, axis=1, keepdims=True), projected_ND, np.float32(0))

    def day_zero_vectors(self, content_NC: Floats) -> Floats:
        """Vectors of items never trained on, from content alone: L2-normalised `[N, D]`, zero where content is zero."""
        return normalise(self.project(content_NC))

    def catalogue_vectors(self, content_NC: Floats) -> Floats:
        """Vectors of the bundle's own items, `[N, D]`; zero where an item has neither text nor behaviour."""
        return normalise(self.project(content_NC) + self.behaviour)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Floats], side: Side) -> ItemSpace:
        """Read one side from the tensors of `weights.safetensors`."""
        return cls(
            content_mean=weights["content.mean"],
            content_whitening=weights["content.whitening"],
            projection=weights[f"items.{side}.projection"],
            bias=weights[f"items.{side}.bias"],
            behaviour=weights[f"items.{side}.behaviour"],
        )


def normalise(vectors_ND: Floats) -> Floats:
    """L2-normalised rows; a row too short to have a direction becomes zero."""
    norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.where(norms_N1 > TINY_NORM, vectors_ND / np.maximum(norms_N1, TINY_NORM), 0).astype(np.float32)
