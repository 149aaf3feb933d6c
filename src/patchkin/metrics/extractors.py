"""Fixed networks that turn images into features, and the hash of their weights.

A score is only comparable with another if both used the same network, weights and input range, so
an extractor carries its name and hash into every result. Any callable of this form can be injected.

Shape suffixes: B images, C channels, H and W pixels, h and w places of a feature map, D features,
K classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from patchkin.errors import ConfigError, ShapeError, missing_extra, nearest
from patchkin.metrics.checks import check_colour_batch, check_finite
from patchkin.metrics.weights import (
    INCEPTION_2015,
    INCEPTION_TORCHVISION,
    SQUEEZENET,
    fetch,
    loading,
    read_weights,
)

InceptionRange: TypeAlias = Literal["tensorflow", "pytorch-fid"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_MIN_PIXELS_INCEPTION = 75  # below, a map of its last blocks is empty
_MIN_PIXELS_SQUEEZENET = 32
_OPTION = "--extractor-weights"
"""Of the command line, for a copy of the weights."""


class Features(NamedTuple):
    """What an extractor says about images."""

    pooled_BD: Tensor
    """float32, on the CPU."""
    logits_BK: Tensor | None = None
    """Of ImageNet's 1000 classes, float32, on the CPU; None where the network does not classify."""


class Extractor(Protocol):
    """Turns images into one feature vector each."""

    @property
    def name(self) -> str:
        """Network and input range."""
        ...

    @property
    def sha256(self) -> str:
        """Of the file of the weights, in hexadecimal."""
        ...

    def __call__(self, levels_BCHW: Tensor) -> Features:
        """Features of images with levels from 0 to 255, uint8 or float."""
        ...


class InceptionExtractor:
    """The 2048 features of TensorFlow's Inception of 2015 with which FID and KID were defined.

    Network by torch-fidelity (`inception-v3-compat`). It does not resize: the protocol does, and
    published numbers differ by how. Two input ranges are in use:

    - `tensorflow`: (x - 128) / 128, as the original graph, torch-fidelity and clean-fid;
    - `pytorch-fid`: 2 x / 255 - 1, as pytorch-fid.

    Args:
        weights: a copy of the published file; by default it is downloaded into the cache.
        input_range: see above.
        device: to compute on.

    Raises:
        ConfigError: torch-fidelity is not installed.
        DownloadError: the weights cannot be fetched.
        CheckpointError: the file does not fit.
    """

    def __init__(
        self,
        weights: Path | None = None,
        *,
        input_range: InceptionRange = "tensorflow",
        device: torch.device | str = "cpu",
    ) -> None:
        suffix = "compat" if input_range == "tensorflow" else input_range
        self.name = f"inception-v3-{suffix}"
        self._input_range = input_range
        self._network, self.sha256 = _inception_2015(weights)
        self._network.to(device)

    @torch.no_grad()
    def __call__(self, levels_BCHW: Tensor) -> Features:
        """See `Extractor`.

        Raises:
            ShapeError: not [B, 3, H, W], or smaller than 75 pixels.
            DataError: values that are not finite.
        """
        levels_BCHW = _checked(levels_BCHW, self.name, _MIN_PIXELS_INCEPTION, self._network)
        if self._input_range == "tensorflow":
            scaled_BCHW = (levels_BCHW - 128) / 128
        else:
            scaled_BCHW = levels_BCHW / 255 * 2 - 1
        return Features(self._network(scaled_BCHW).float().cpu())


class TorchvisionInceptionExtractor:
    """The 2048 pooled features of torchvision's ImageNet Inception v3, as StarGAN v2's FID.

    Numbers with it cannot be compared with those of the Inception of 2015.

    Args:
        weights: a copy of torchvision's file; by default it is downloaded into the cache.
        device: to compute on.

    Raises:
        DownloadError: the weights cannot be fetched.
        CheckpointError: the file does not fit.
    """

    name = "torchvision-inception-v3"

    def __init__(self, weights: Path | None = None, *, device: torch.device | str = "cpu") -> None:
        from torchvision.models import inception_v3  # type: ignore[import-untyped]

        path = weights or fetch(INCEPTION_TORCHVISION, option=_OPTION)
        tensors, self.sha256 = read_weights(path)
        network = inception_v3(weights=None, init_weights=False)
        with loading(path, self.name):
            network.load_state_dict(tensors)
        self._classifier: nn.Module = network.fc.to(device)
        network.fc = nn.Identity()
        self._network = network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def __call__(self, levels_BCHW: Tensor) -> Features:
        """See `Extractor`.

        Raises:
            ShapeError: not [B, 3, H, W], or smaller than 75 pixels.
            DataError: values that are not finite.
        """
        levels_BCHW = _checked(levels_BCHW, self.name, _MIN_PIXELS_INCEPTION, self._network)
        pooled_BD = self._network(_imagenet_standardised(levels_BCHW))
        return Features(pooled_BD.cpu(), self._classifier(pooled_BD).cpu())


class SqueezeNetExtractor:
    """The 512 pooled features and the classes of torchvision's SqueezeNet 1.1.

    Small enough for a laptop, and for tests. Its Frechet distance ranks models, but is no FID.

    Args:
        weights: a copy of torchvision's file (any floating type); by default it is downloaded.
        device: to compute on.

    Raises:
        DownloadError: the weights cannot be fetched.
        CheckpointError: the file does not fit.
    """

    name = "torchvision-squeezenet1_1"

    def __init__(self, weights: Path | None = None, *, device: torch.device | str = "cpu") -> None:
        from torchvision.models import squeezenet1_1

        path = weights or fetch(SQUEEZENET, option=_OPTION)
        tensors, self.sha256 = read_weights(path)
        self._network = squeezenet1_1(weights=None)
        with loading(path, self.name):
            self._network.load_state_dict(tensors)
        self._network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def __call__(self, levels_BCHW: Tensor) -> Features:
        """See `Extractor`.

        Raises:
            ShapeError: not [B, 3, H, W], or smaller than 32 pixels.
            DataError: values that are not finite.
        """
        map_BDhw = self._map(levels_BCHW)
        logits_BK = self._network.classifier(map_BDhw).flatten(1)
        return Features(map_BDhw.mean(dim=(2, 3)).cpu(), logits_BK.cpu())

    @torch.no_grad()
    def feature_map(self, levels_BCHW: Tensor) -> Tensor:
        """The features before pooling, [B, 512, h, w] on the CPU; about 16 pixels per place.

        Raises:
            ShapeError: not [B, 3, H, W], or smaller than 32 pixels.
            DataError: values that are not finite.
        """
        return self._map(levels_BCHW).cpu()

    def _map(self, levels_BCHW: Tensor) -> Tensor:
        levels_BCHW = _checked(levels_BCHW, self.name, _MIN_PIXELS_SQUEEZENET, self._network)
        map_BDhw: Tensor = self._network.features(_imagenet_standardised(levels_BCHW))
        return map_BDhw


def _pytorch_fid(weights: Path | None, *, device: torch.device | str) -> Extractor:
    return InceptionExtractor(weights, input_range="pytorch-fid", device=device)


EXTRACTORS: dict[str, Callable[..., Extractor]] = {
    "inception-v3-compat": InceptionExtractor,
    "inception-v3-pytorch-fid": _pytorch_fid,
    TorchvisionInceptionExtractor.name: TorchvisionInceptionExtractor,
    SqueezeNetExtractor.name: SqueezeNetExtractor,
}


def make_extractor(
    name: str, weights: Path | None = None, *, device: torch.device | str = "cpu"
) -> Extractor:
    """The extractor that a protocol names.

    Raises:
        ConfigError: an unknown name, or a library that is not installed.
        DownloadError: the weights cannot be fetched.
        CheckpointError: the file does not fit.
    """
    if name not in EXTRACTORS:
        raise ConfigError(f"Unknown extractor `{name}`. {nearest(name, EXTRACTORS)}")
    return EXTRACTORS[name](weights, device=device)


_INCEPTION_PARTS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)


def _inception_2015(weights: Path | None) -> tuple[nn.Module, str]:
    """torch-fidelity's network up to the pooled features, without its resizing."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-untyped]
            FeatureExtractorInceptionV3,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            missing_extra("A score with Inception", package="torch-fidelity", extra="metrics")
            + " --protocol squeezenet-256 needs no extra."
        ) from error
    path = weights or fetch(INCEPTION_2015, option=_OPTION)
    tensors, sha256 = read_weights(path)
    # torch-fidelity unpickles whatever its file holds. It gets a buffer that we wrote ourselves,
    # from tensors that were read without executing anything.
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    buffer.seek(0)
    with loading(path, "the Inception network of FID"):
        whole: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer
        )
    parts = [getattr(whole, name) for name in _INCEPTION_PARTS]
    return nn.Sequential(*parts, nn.Flatten()).eval().requires_grad_(False), sha256


def _checked(levels_BCHW: Tensor, name: str, min_pixels: int, network: nn.Module) -> Tensor:
    """The levels as float32 on the network's device."""
    check_colour_batch(levels_BCHW, f"`{name}`")
    if min(levels_BCHW.shape[2:]) < min_pixels:
        height, width = levels_BCHW.shape[2:]
        raise ShapeError(
            f"`{name}` needs images of at least {min_pixels} pixels; got {width} x {height}."
        )
    check_finite(levels_BCHW, "images")
    return levels_BCHW.to(next(network.parameters()).device, torch.float32)


def _imagenet_standardised(levels_BCHW: Tensor) -> Tensor:
    mean_C11, deviation_C11 = (
        _column(values, levels_BCHW) for values in (_IMAGENET_MEAN, _IMAGENET_DEVIATION)
    )
    return (levels_BCHW / 255 - mean_C11) / deviation_C11


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
