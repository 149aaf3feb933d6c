"""The image pool: discriminators also see earlier translations (Shrivastava et al., CVPR 2017).

Shape suffixes: B images, C channels, H and W pixels, P stored images, N values of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from patchkin.errors import ConfigError, ShapeError
from patchkin.randomness import Draws


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePoolConfig:
    """Defaults are CycleGAN's pool, for views of 256 x 256 pixels."""

    capacity: int = 50
    """Images kept per discriminator (CycleGAN: 50). 0 shows the discriminators new images only."""
    side: int = 256
    """Room for images of side x side pixels, or of as many in another shape, or of fewer. Larger
    than the views it only costs space in checkpoints."""

    def __post_init__(self) -> None:
        if self.capacity < 0:
            raise ConfigError(f"`capacity` must be at least 0; got {self.capacity}.")
        if self.side < 1:
            raise ConfigError(f"`side` must be at least 1; got {self.side}.")


@dataclass
class _Known:
    """What a pool's small buffers say, in Python: reading them from a GPU would wait for it."""

    num_stored: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    buffers: tuple[Tensor, ...] = ()
    """Where this was read."""
    versions: tuple[int, ...] = ()
    """Of them, which every change counts up."""


def _versions(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in tensors)


class ImagePool(nn.Module):
    """A fixed number of earlier translations, kept in buffers so that a run resumes with them.

    Image by image: while the pool is not full the new image is stored and shown. Then, with
    probability one half, a random stored image is shown and the new one takes its place; otherwise
    the new one is shown and forgotten (CycleGAN, as released).

    Args:
        channels: of the images.
        config: how many, and how large.

    >>> from patchkin.randomness import SeededDraws
    >>> pool = ImagePool(1, ImagePoolConfig(capacity=2, side=1))
    >>> draws = SeededDraws(seed=0, step=0)
    >>> images = torch.arange(4.0).view(4, 1, 1, 1)
    >>> [pool(image[None], draws).item() for image in images][:2]
    [0.0, 1.0]
    """

    images_PN: Tensor
    num_stored: Tensor
    sizes_P2: Tensor

    def __init__(self, channels: int, config: ImagePoolConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ImagePoolConfig()
        self.channels = channels
        room = channels * config.side**2
        self.register_buffer("images_PN", torch.zeros(config.capacity, room))
        self.register_buffer("num_stored", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sizes_P2", torch.zeros(config.capacity, 2, dtype=torch.int64))
        self._known = _Known()

    @torch.no_grad()
    def forward(
        self,
        fake_BCHW: Tensor,
        draws: Draws,
        gather: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> Tensor:
        """What the discriminator is shown for these translations.

        Args:
            fake_BCHW: new translations; the result is detached from what made them.
            draws: a coin, and if it falls so an integer, per image once the pool is full.
            gather: the images of all processes (`Update.gather`). The pool is the same in all of
                them, and each shows its discriminator the whole batch: N processes then do what one
                does, and a discriminator is cheap beside the generators.

        Returns:
            As many images as were gathered; one image alone perhaps of another size, if the pool
            was given images of several.

        Raises:
            ShapeError: if the images do not fit the pool, or those to be shown together differ in
                size.
        """
        if self.config.capacity == 0:
            return fake_BCHW.detach()
        fake_BCHW = gather(fake_BCHW.detach())
        self._check(fake_BCHW)
        known, shown = self._read(), []
        for new_CHW in fake_BCHW:
            if known.num_stored < self.config.capacity:
                self._store(known.num_stored, new_CHW)
                known.num_stored += 1
                shown.append(new_CHW)
            elif draws.coin():
                slot = draws.integer(self.config.capacity)
                shown.append(self._stored(slot, new_CHW))
                self._store(slot, new_CHW)
            else:
                shown.append(new_CHW)
        self.num_stored.fill_(known.num_stored)
        known.versions = _versions(known.buffers)
        if len({image_CHW.shape for image_CHW in shown}) > 1:
            raise ShapeError(
                "The image pool holds images of several sizes, which cannot be shown in one batch; "
                "use --batch-size 1, a --data.preprocess that crops, or --method.pool.capacity 0."
            )
        return torch.stack(shown)

    def _read(self) -> _Known:
        """What the buffers say; they are looked at only where something else has written them."""
        known, buffers = self._known, (self.num_stored, self.sizes_P2)
        same = all(a is b for a, b in zip(known.buffers, buffers, strict=False))
        if not same or known.versions != _versions(buffers):
            sizes = [(height, width) for height, width in self.sizes_P2.tolist()]
            self._known = _Known(int(self.num_stored), sizes, buffers)
        return self._known

    def _store(self, slot: int, image_CHW: Tensor) -> None:
        row_N = image_CHW.flatten().to(self.images_PN.dtype)
        self.images_PN[slot, : len(row_N)] = row_N
        height, width = self._known.sizes[slot] = (image_CHW.shape[1], image_CHW.shape[2])
        self.sizes_P2[slot, 0].fill_(height)
        self.sizes_P2[slot, 1].fill_(width)

    def _stored(self, slot: int, like_CHW: Tensor) -> Tensor:
        height, width = self._known.sizes[slot]
        row_N = self.images_PN[slot, : self.channels * height * width].clone()
        return row_N.view(self.channels, height, width).to(like_CHW.dtype)

    def _check(self, fake_BCHW: Tensor) -> None:
        channels, height, width = fake_BCHW.shape[1:]
        side = self.config.side
        if channels != self.channels:
            raise ShapeError(
                f"The image pool is for images with {self.channels} channels; got {channels}."
            )
        if height * width > side**2:
            raise ShapeError(
                f"Images of {height} x {width} pixels do not fit the image pool, which has room "
                f"for {side} x {side}; set `pool.side` to {max(height, width)}, or `pool.capacity` "
                "to 0."
            )

    def extra_repr(self) -> str:
        """The sizes, for the printed network."""
        return f"{self.channels}, {self.config}"
