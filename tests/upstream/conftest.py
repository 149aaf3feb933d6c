"""Files as the upstream projects save them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from patchkin.upstream import released_weights

_WEIGHTS = Path(
    os.environ.get("PATCHKIN_WEIGHTS") or Path(__file__).resolve().parents[3] / "shared" / "weights"
)


@pytest.fixture(autouse=True)
def _same_draws_in_every_run():
    torch.manual_seed(0)


@pytest.fixture
def weights_file() -> Callable[[str], Path]:
    """A real file that somebody else trained."""

    def find(name: str) -> Path:
        if not (_WEIGHTS / name).is_file():
            pytest.skip(f"no {name} in {_WEIGHTS}; PATCHKIN_WEIGHTS names another folder")
        return _WEIGHTS / name

    return find


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    """Write a network's weights, or a dictionary of tensors, as upstream does."""

    def write(content: nn.Module | dict[str, Tensor], name: str = "latest_net_G.pth") -> Path:
        state = released_weights(content) if isinstance(content, nn.Module) else content
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        return path

    return write


def filled(network: nn.Module) -> nn.Module:
    """The network with a number of its own in every tensor, biases and statistics too."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.3)
            else:
                tensor.fill_(7)
    return network.eval()
