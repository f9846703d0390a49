"""ONNX Runtime sessions as both engines use them: threads, memory, and the device by setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import onnxruntime

from clozerec_core.errors import UsageError

Device = Literal["cpu", "cuda"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def open_session(path: Path, threads: int, device: Device, repeats_shapes: bool) -> Any:
    """An inference session on the device that was asked for, and on no other.

    Args:
        path: an ONNX file.
        threads: of one run.
        device: `cuda` needs onnxruntime-gpu and a GPU.
        repeats_shapes: whether runs have few shapes, so that a memory plan for each of them is worth its keep.

    Raises:
        UsageError: the device is not to be had here.
    """
    available = onnxruntime.get_available_providers()
    if device == "cuda" and _CUDA not in available:
        raise UsageError(
            f"encoder_device is cuda, but this onnxruntime has {', '.join(available)} only; "
            "install onnxruntime-gpu in place of onnxruntime, or set encoder_device to cpu"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = repeats_shapes
    # Weights lie outside the arena, so that the arena can give back all that a burst made it take.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    session = onnxruntime.InferenceSession(path, options, [_CUDA, _CPU] if device == "cuda" else [_CPU])
    if device == "cuda" and _CUDA not in session.get_providers():
        # The library falls back to the CPU with a line in its log; a slower service is not what was asked for.
        raise UsageError(
            "encoder_device is cuda, but ONNX Runtime could not start on a GPU; its log says why "
            "(no driver, or CUDA and cuDNN of another version), or set encoder_device to cpu"
        )
    return session
