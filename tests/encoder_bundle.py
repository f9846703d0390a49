"""Bundles whose network has random weights: what tests and benchmarks of the encoder need is its shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from bundle_factory import make_catalogue, make_manifest, random_vectors, write_files
from safetensors.numpy import load_file, save_file

from clozerec_core.bundle import ENCODER, WEIGHTS, Bundle, ModelInfo, publish, writing_directory
from clozerec_trainer.encoder_graph import write_encoder
from clozerec_trainer.model import NetworkSpec, SequenceNetwork


def random_network(spec: NetworkSpec, seed: int = 0) -> SequenceNetwork:
    """A network in which every parameter matters, biases and norms included."""
    torch.manual_seed(seed)
    network = SequenceNetwork(spec).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return network


def write_encoder_bundle(
    output_dir: Path, network: SequenceNetwork, num_items: int = 20, bundle_id: str = "random"
) -> Bundle:
    """A bundle of items i0, i1, … whose input-side vectors are `random_vectors(num_items, dim)`."""
    spec = network.spec
    vectors_ND = random_vectors(num_items, spec.dim)
    catalogue = make_catalogue({}, {}, num_items=num_items)
    manifest = make_manifest({}, num_items, spec.dim, bundle_id).model_copy(
        update={
            "model": ModelInfo(
                dim=spec.dim,
                max_sequence_length=spec.num_positions - 1,
                use_attention_mask=spec.use_attention_mask,
                num_items=num_items,
            )
        }
    )
    with writing_directory(output_dir) as staging:
        write_files(staging, catalogue, vectors_ND, [1] * num_items)
        tensors = {f"network.{name}": tensor.numpy() for name, tensor in network.state_dict().items()}
        save_file(load_file(staging / WEIGHTS) | tensors, staging / WEIGHTS)
        write_encoder(network, staging / ENCODER)
        published = publish(staging, output_dir, manifest)
    return Bundle.open(published.path)


def torch_intent(network: SequenceNetwork, items_ND: np.ndarray, mask_position: int) -> np.ndarray:
    """The intent `[D]` that torch computes for one sequence, padded to full length on the left."""
    length = network.spec.num_positions
    vectors, is_mask, is_pad = torch.zeros(1, length, network.spec.dim), torch.zeros(1, length), torch.ones(1, length)
    start = length - len(items_ND) - 1
    is_pad[:, start:] = 0
    is_mask[0, start + mask_position] = 1
    places = [start + place + (place >= mask_position) for place in range(len(items_ND))]
    vectors[0, places] = torch.from_numpy(np.ascontiguousarray(items_ND))
    with torch.inference_mode():
        states = network(vectors, is_mask.bool(), is_pad.bool())
        return network.answer(states.at(is_mask.bool()))[0].numpy()
