"""Released weights of StarGAN v2: whose networks they are, and of which sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from patchkin.errors import CheckpointError
from patchkin.networks.starganv2.config import (
    INNERMOST,
    StyleGeneratorForm,
    StyleNetworksConfig,
)

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a weight, as released -> its shape."""
RELEASED_NAMES = {
    "generator": "G",
    "mapping_network": "F",
    "style_encoder": "E",
    "discriminator": "D",
    "patch_sample": "P",
}
"""The released files' name of each network -> its letter in our methods."""


class ReleasedWeights(NamedTuple):
    """What a released file holds."""

    config: StyleNetworksConfig
    networks: dict[str, dict[str, Tensor]]
    """Letter -> weights by our names. `*_nets_ema.ckpt` has G, F and E; `*_nets.ckpt` D too; both
    are without P (the head of the semantic-relation form) where the run had none."""


def read_released(state: Mapping[str, Mapping[str, Tensor]]) -> ReleasedWeights:
    """Networks and their sizes from the contents of `*_nets.ckpt` or `*_nets_ema.ckpt`.

    Nothing has to be known of the run: the sizes follow from the shapes.

    Args:
        state: network -> name -> weight, as the files hold them. `module.` is cut off.

    Raises:
        CheckpointError: a network is missing or unknown, or it is a model of aligned faces
            (`w_hpf` above 0), which has another generator.
    """
    if "fan" in state:
        raise CheckpointError(f"The file {_face_model('it holds the network `fan`')}")
    for name in state:
        if name not in RELEASED_NAMES:
            known = ", ".join(RELEASED_NAMES)
            raise CheckpointError(f"Unknown network `{name}` in a StarGAN v2 file; known: {known}.")
    for name in ("generator", "mapping_network", "style_encoder"):
        if name not in state:
            raise CheckpointError(
                f"A StarGAN v2 file holds the network `{name}`; this one has "
                f"{', '.join(state) or 'none'}. Was it `*_optims.ckpt`?"
            )
    networks = {
        RELEASED_NAMES[name]: {_own_name(key): weight for key, weight in weights.items()}
        for name, weights in state.items()
    }
    sizes = {}
    for letter, weights in networks.items():
        if letter in SIZES_OF:
            shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
            try:
                sizes[letter] = SIZES_OF[letter](shapes)
            except CheckpointError as error:
                raise CheckpointError(f"The network {letter} of the file {error}") from error
    return ReleasedWeights(joined_sizes(sizes), networks)


def joined_sizes(sizes: Mapping[str, StyleNetworksConfig]) -> StyleNetworksConfig:
    """The sizes of a model from what its networks tell, each of which knows only some.

    Args:
        sizes: by letter, as `SIZES_OF` finds them.

    Raises:
        CheckpointError: the networks are not of one model.
    """
    tellers = {
        "num_domains": "EFD",
        "image_size": "EDG",
        "channels": "GED",
        "generator": "G",
        "base_width": "GED",
        "max_width": "EDG",
        "style_width": "EFG",
        "latent_width": "F",
        "hidden_width": "F",
    }
    told = {
        name: getattr(sizes[first], name)
        for name, letters in tellers.items()
        for first in [next((letter for letter in letters if letter in sizes), None)]
        if first is not None
    }
    generator = sizes.get("G")
    if generator and generator.generator == "paper" and generator.image_size != told["image_size"]:
        raise CheckpointError(
            f"The generator is for images of {generator.image_size} pixels, the style encoder for "
            f"{told['image_size']}; they are not of one model."
        )
    joined = StyleNetworksConfig(**told)
    usual = replace(joined, base_width=None)
    return usual if usual.widths(0) == joined.widths(0) else joined


def generator_sizes(shapes: Shapes) -> StyleNetworksConfig:
    """What G's shapes tell: its form, widths and channels; in the paper's form the image size.

    Raises:
        CheckpointError: a weight is missing, or the generator is one for aligned faces. Without
            the name of the file, which is to stand before it.
    """
    first = _shape(shapes, "from_rgb.weight")
    blocks = _count(shapes, "encode", "conv1.weight")
    form: StyleGeneratorForm = "paper" if "encode.0.conv2.weight" in shapes else "released"
    _refuse_faces(shapes)
    last = _shape(shapes, f"encode.{blocks - 1}.conv1.weight")
    style_width = _shape(shapes, "decode.0.norm1.fc.weight")[1]
    return StyleNetworksConfig(
        image_size=INNERMOST * 2**blocks if form == "paper" else 256,
        channels=first[1],
        generator=form,
        base_width=first[0],
        max_width=last[0],
        style_width=style_width,
    )


def mapping_sizes(shapes: Shapes) -> StyleNetworksConfig:
    """What F's shapes tell: domains, and the lengths of latents, styles and layers.

    Raises:
        CheckpointError: as `generator_sizes`.
    """
    hidden, latent = _shape(shapes, "shared.0.weight")
    return StyleNetworksConfig(
        num_domains=_count(shapes, "unshared", "6.weight"),
        latent_width=latent,
        hidden_width=hidden,
        style_width=_shape(shapes, "unshared.0.6.weight")[0],
    )


def encoder_sizes(shapes: Shapes) -> StyleNetworksConfig:
    """What E's shapes tell: domains, image size, widths, channels and the length of styles.

    Raises:
        CheckpointError: as `generator_sizes`.
    """
    return StyleNetworksConfig(
        num_domains=_count(shapes, "unshared", "weight"),
        style_width=_shape(shapes, "unshared.0.weight")[0],
        **_trunk_sizes(shapes, "shared"),
    )


def discriminator_sizes(shapes: Shapes) -> StyleNetworksConfig:
    """What D's shapes tell: domains, image size, widths and channels.

    Raises:
        CheckpointError: as `generator_sizes`.
    """
    levels = _count(shapes, "main", "conv1.weight")
    return StyleNetworksConfig(
        num_domains=_shape(shapes, f"main.{levels + 4}.weight")[0], **_trunk_sizes(shapes, "main")
    )


SIZES_OF: Mapping[str, Callable[[Shapes], StyleNetworksConfig]] = {
    "G": generator_sizes,
    "F": mapping_sizes,
    "E": encoder_sizes,
    "D": discriminator_sizes,
}
"""Letter of a network -> what tells its sizes."""


def _trunk_sizes(shapes: Shapes, name: str) -> dict[str, Any]:
    levels = _count(shapes, name, "conv1.weight")
    first = _shape(shapes, f"{name}.0.weight")
    return {
        "image_size": INNERMOST * 2**levels,
        "channels": first[1],
        "base_width": first[0],
        "max_width": _shape(shapes, f"{name}.{levels}.conv2.weight")[0],
    }


def _refuse_faces(shapes: Shapes) -> None:
    """The generator of aligned faces has no shortcuts in its styled blocks."""
    if "hpf.filter" in shapes:
        raise CheckpointError(_face_model("it has a high-pass filter"))
    for name, shape in shapes.items():
        block = name.removesuffix("conv1.weight")
        styled = name != block and block.startswith("decode.") and f"{block}conv2.weight" in shapes
        if styled and shape[0] != shape[1] and f"{block}conv1x1.weight" not in shapes:
            raise CheckpointError(_face_model("its styled blocks have no shortcuts"))


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes or len(shapes[name]) < 2:
        raise CheckpointError(f"lacks the weight `{name}`.")
    return shapes[name]


def _count(shapes: Shapes, stack: str, ending: str) -> int:
    """How many members of a stack of blocks have a weight of this name."""
    return sum(name.startswith(f"{stack}.") and _member(name) == ending for name in shapes)


def _member(name: str) -> str:
    """`shared.3.conv1.weight` -> `conv1.weight`."""
    return name.split(".", 2)[-1]


def _own_name(key: str) -> str:
    key = key.removeprefix("module.")
    return f"mlps.{key.removeprefix('mlp.')}" if key.startswith("mlp.") else key


def _face_model(reason: str) -> str:
    return (
        "is a StarGAN v2 model of aligned faces (`w_hpf` above 0, as released for CelebA-HQ): "
        f"{reason}. Such a generator needs facial landmarks and is not supported; models trained "
        "with `--w_hpf 0` are (AFHQ, Seasons, Weather)."
    )
