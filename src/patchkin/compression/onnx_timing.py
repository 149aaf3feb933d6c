"""Generators in ONNX Runtime, to be timed. Needs the extra `onnx`.

The graph is for one image of one size, kept in memory, and checked against the network that it
came from.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from patchkin.errors import CheckpointError, ConfigError, missing_extra

MOST_DIFFERENCE = 1e-3
"""Between the two runtimes, of images in [-1, 1]: an eighth of a grey level."""


def onnx_call(
    network: nn.Module, *, height: int = 256, width: int = 256, in_channels: int = 3
) -> Callable[[], Tensor]:
    """A function that runs a network on one image in ONNX Runtime, on the CPU.

    With as many threads as torch has. The network is put into evaluation mode.

    Raises:
        ConfigError: the extra `onnx` is not installed, or the network cannot be exported.
        CheckpointError: the graph does not give what the network gives.
    """
    network.eval()
    generator = torch.Generator().manual_seed(0)
    parameter = next(network.parameters())
    x_BCHW = torch.rand(1, in_channels, height, width, generator=generator) * 2 - 1
    with torch.no_grad():
        expected_BCHW: Tensor = network(x_BCHW.to(parameter)).float().cpu()
        graph = onnx_graph(network, x_BCHW.to(parameter))
    call = _session_call(graph, x_BCHW)
    difference = float((call() - expected_BCHW).abs().max())
    if not difference <= MOST_DIFFERENCE:
        raise CheckpointError(
            f"ONNX Runtime does not translate as torch does: they differ by {difference:.3g}."
        )
    return call


def onnx_graph(network: nn.Module, x_BCHW: Tensor) -> bytes:
    """A network for images of this very shape as a serialized ONNX model.

    Raises:
        ConfigError: the extra `onnx` is not installed, or the network cannot be exported.
    """
    _check_installed()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # onnxscript 0.5.3 tells what it rewrote
            program: Any = torch.onnx.export(network, (x_BCHW,), dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"This network cannot be written as ONNX: {reason}") from error
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def _session_call(graph: bytes, x_BCHW: Tensor) -> Callable[[], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x_BCHW.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def _check_installed() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            missing_extra("Timing in ONNX Runtime", package=str(error.name), extra="onnx")
        ) from error
