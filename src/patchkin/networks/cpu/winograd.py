"""3x3 convolutions of many channels with 4 multiplications where the definition has 9.

Winograd's F(2x2, 3x3), as in Lavin and Gray, CVPR 2016 (arXiv 1509.09308): an output tile of 2 x 2
pixels is A' [(G w G') * (B' d B)] A with the input tile d of 4 x 4 pixels and the product taken
place by place, so that the sum over channels is 16 products of matrices. The three transforms only
add and subtract. On a CPU, where convolutions in float32 run at the speed of multiplications, this
takes about three quarters of the time of torch's own; `benchmarks/speed` has the measurement.
Results differ from torch's by rounding: about 1e-6 of their size, torch's own by 3e-7.

Shape suffixes: B images, H and W pixels, C input channels, O output channels, K kernel sides,
R rows and S columns of tiles, 4 the sides of an input tile, P the 16 places of a tile.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from patchkin.networks.cpu.layout import layout_of

_FILTER_TRANSFORM = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
"""G."""
_LEAST_CHANNELS, _LEAST_PRODUCT, _LEAST_PIXELS = 128, 128 * 256, 1024
"""Below these, of both numbers of channels, their product and the output's pixels, the transforms
cost what is won."""
_CHUNK_NUMBERS = 2**20
"""Of the transformed map that are made at a time, to stay near the cores: 4 MB."""


class _Workspace(threading.local):
    """Memory for what is transformed, one block for each name and thread, kept.

    Blocks that come and go between the maps that a step keeps would leave holes among them, a
    twentieth of its memory; and where a process gives freed memory back, every one would begin on
    fresh pages.
    """

    def __init__(self) -> None:
        self.blocks: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, like: Tensor, *sizes: int) -> Tensor:
        """Room for a tensor of these sizes, which ends what was there under this name."""
        numbers = math.prod(sizes)
        block = self.blocks.get((name, like.dtype))
        if block is None or block.numel() < numbers:
            with torch.inference_mode(mode=False):  # else of no use to a training step
                block = torch.empty(numbers, dtype=like.dtype)
            self.blocks[name, like.dtype] = block
        return block[:numbers].view(sizes)


_workspace = _Workspace()


def free_workspace() -> None:
    """Give back what this thread keeps, for threads that wait long between convolutions."""
    _workspace.blocks.clear()


_all_direct: ContextVar[bool] = ContextVar("all_direct", default=False)


class Conv3x3(nn.Conv2d):
    """`nn.Conv2d` with a 3x3 kernel and stride 1; on a CPU by Winograd's algorithm where that pays.

    Where: float32, channels-last layout, even sides, and enough channels and pixels. Parameters and
    their names are those of `nn.Conv2d`. Gradients of gradients are not available there.

    >>> convolution = Conv3x3(128, 256, padding=1).to(memory_format=torch.channels_last)
    >>> x_BCHW = torch.randn(1, 128, 32, 32).to(memory_format=torch.channels_last)
    >>> with direct_convolutions():
    ...     expected_BOHW = convolution(x_BCHW)
    >>> torch.allclose(convolution(x_BCHW), expected_BOHW, atol=1e-5)
    True
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, 3, padding=padding, bias=bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve `x_BCHW`, zeros around it if there is padding."""
        padding = int(self.padding[0])
        if not self._pays(x_BCHW, padding):
            return super().forward(x_BCHW)
        if padding:
            x_BCHW = nnf.pad(x_BCHW, [padding] * 4)
        y_BOHW: Tensor = _Winograd.apply(x_BCHW, self.weight, self.bias)
        return y_BOHW

    def _pays(self, x_BCHW: Tensor, padding: int) -> bool:
        if torch.compiler.is_compiling() or _all_direct.get():
            return False
        height, width = (side + 2 * padding - 2 for side in x_BCHW.shape[2:])
        return (
            x_BCHW.device.type == "cpu"
            and x_BCHW.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and min(self.in_channels, self.out_channels) >= _LEAST_CHANNELS
            and self.in_channels * self.out_channels >= _LEAST_PRODUCT
            and height * width >= _LEAST_PIXELS
            and height % 2 == width % 2 == 0
            and layout_of(x_BCHW) == torch.channels_last
        )


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Inside, every convolution is torch's own: what counters of operations should see."""
    before = _all_direct.set(True)
    try:
        yield
    finally:
        _all_direct.reset(before)


class _Winograd(torch.autograd.Function):
    """The convolution of a padded map, keeping no transformed one."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_OCKK: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_OCKK)
        ctx.has_bias = bias_O is not None
        filter_PCO = _transformed_filter(weight_OCKK).mT
        num_images, _, height, width = x_BCHW.shape
        y_BHWO = x_BCHW.new_empty(num_images, height - 2, width - 2, len(weight_OCKK))
        for x_HWC, y_HWO in zip(x_BCHW.permute(0, 2, 3, 1), y_BHWO, strict=True):
            for rows, rows_read in _chunks(y_HWO.shape, x_HWC.shape[2]):
                tiles_44RSC = _transformed_tiles(x_HWC[rows_read])
                _gather_outputs(_products(tiles_44RSC, filter_PCO), y_HWO[rows])
        if bias_O is not None:
            y_BHWO += bias_O
        return y_BHWO.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_OCKK = ctx.saved_tensors
        for_x, for_weight, _ = ctx.needs_input_grad
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        gradient_BHWO = gradients[0].permute(0, 2, 3, 1).contiguous()
        filter_POC = _transformed_filter(weight_OCKK)
        x_gradient_BHWC = torch.zeros_like(x_BHWC) if for_x else None
        filter_gradient_POC: Tensor | None = None
        for image, gradient_HWO in enumerate(gradient_BHWO):
            for rows, rows_read in _chunks(gradient_HWO.shape, x_BHWC.shape[3]):
                spread_44RSO = _spread_outputs(gradient_HWO[rows])
                if for_weight:
                    spread_PON = _as_matrices(spread_44RSO).mT
                    tiles_PNC = _as_matrices(_transformed_tiles(x_BHWC[image, rows_read]))
                    if filter_gradient_POC is None:
                        filter_gradient_POC = _workspace.take(
                            "filter gradient", weight_OCKK, *filter_POC.shape
                        )
                        torch.bmm(spread_PON, tiles_PNC, out=filter_gradient_POC)
                    else:
                        filter_gradient_POC.baddbmm_(spread_PON, tiles_PNC)
                if x_gradient_BHWC is not None:
                    tiles_44RSC = _products(spread_44RSO, filter_POC)
                    _add_tiles(tiles_44RSC, x_gradient_BHWC[image, rows_read])
        return (
            None if x_gradient_BHWC is None else x_gradient_BHWC.permute(0, 3, 1, 2),
            None
            if filter_gradient_POC is None
            else _filter_gradient(filter_gradient_POC, weight_OCKK),
            gradient_BHWO.sum((0, 1, 2)) if ctx.has_bias else None,
        )


def _chunks(shape: Sequence[int], channels: int) -> Iterator[tuple[slice, slice]]:
    """Rows of the output [H, W, O], and those of the padded input that they read."""
    height, width, out_channels = shape
    numbers = 16 * (width // 2) * max(channels, out_channels)
    step = 2 * max(1, _CHUNK_NUMBERS // numbers)
    for start in range(0, height, step):
        stop = min(start + step, height)
        yield slice(start, stop), slice(start, stop + 2)


def _transformed_filter(weight_OCKK: Tensor) -> Tensor:
    """G w G', [16, O, C]."""
    out_channels, channels = weight_OCKK.shape[:2]
    weight_KKOC = _workspace.take("kernels", weight_OCKK, 3, 3, out_channels, channels)
    weight_KKOC.copy_(weight_OCKK.permute(2, 3, 0, 1))
    filter_POC = _workspace.take("filter", weight_OCKK, 16, out_channels, channels)
    torch.mm(_both_axes(weight_OCKK), weight_KKOC.view(9, -1), out=filter_POC.view(16, -1))
    return filter_POC


def _filter_gradient(gradient_POC: Tensor, weight_OCKK: Tensor) -> Tensor:
    """The transpose of `_transformed_filter`, in the layout of the weights."""
    out_channels, channels = weight_OCKK.shape[:2]
    gradient_KKOC = _workspace.take("kernels", weight_OCKK, 3, 3, out_channels, channels)
    torch.mm(_both_axes(weight_OCKK).mT, gradient_POC.view(16, -1), out=gradient_KKOC.view(9, -1))
    return torch.empty_like(weight_OCKK).copy_(gradient_KKOC.permute(2, 3, 0, 1))


def _both_axes(like: Tensor) -> Tensor:
    """G for rows and columns at once: [16, 9]."""
    transform = like.new_tensor(_FILTER_TRANSFORM)
    return torch.kron(transform, transform)


def _as_matrices(tiles_44RSC: Tensor) -> Tensor:
    """[16, R S, C]."""
    return tiles_44RSC.view(16, -1, tiles_44RSC.shape[-1])


def _products(tiles_44RSC: Tensor, filter_PCO: Tensor) -> Tensor:
    """The sums over channels, [4, 4, R, S, O]."""
    sizes = (*tiles_44RSC.shape[:-1], filter_PCO.shape[-1])
    products_44RSO = _workspace.take("products", tiles_44RSC, *sizes)
    torch.bmm(_as_matrices(tiles_44RSC), filter_PCO, out=_as_matrices(products_44RSO))
    return products_44RSO


def _transformed_tiles(x_HWC: Tensor) -> Tensor:
    """B' d B of all overlapping tiles of 4 x 4 pixels, 2 apart: [4, 4, R, S, C]."""
    height, width, channels = x_HWC.shape
    rows, columns = height // 2 - 1, width // 2 - 1
    half_4RWC = _workspace.take("half", x_HWC, 4, rows, width, channels)
    tiles_44RSC = _workspace.take("tiles", x_HWC, 4, 4, rows, columns, channels)
    _transform(x_HWC, half_4RWC, dim=0)
    _transform(half_4RWC, tiles_44RSC.transpose(0, 1), dim=2)
    return tiles_44RSC


def _transform(x: Tensor, out_4: Tensor, *, dim: int) -> None:
    """One axis of `_transformed_tiles`, into the four maps of `out_4`."""
    first, second, third, fourth = _quarters(x, dim)
    torch.sub(first, third, out=out_4[0])
    torch.add(second, third, out=out_4[1])
    torch.sub(third, second, out=out_4[2])
    torch.sub(second, fourth, out=out_4[3])


def _add_tiles(tiles_44RSC: Tensor, x_HWC: Tensor) -> None:
    """Add the transpose of `_transformed_tiles` to a map."""
    _, _, rows, columns, channels = tiles_44RSC.shape
    half_4RWC = _workspace.take("half", tiles_44RSC, 4, rows, 2 * columns + 2, channels)
    _join_columns(tiles_44RSC.transpose(0, 1), half_4RWC)
    above, upper, lower, below = _quarters(x_HWC, 0)
    above += half_4RWC[0]
    upper += half_4RWC[1]
    upper -= half_4RWC[2]
    upper += half_4RWC[3]
    lower += half_4RWC[1]
    lower += half_4RWC[2]
    lower -= half_4RWC[0]
    below -= half_4RWC[3]


def _join_columns(parts_4: Tensor, out_4RWC: Tensor) -> None:
    """The transpose of `_transform` along columns, without a pass that sets zeros."""
    first, second, third, fourth = parts_4
    even, odd = out_4RWC[:, :, 0::2], out_4RWC[:, :, 1::2]
    torch.add(second, third, out=even[:, :, 1:])
    even[:, :, 1:] -= first
    even[:, :, 1:-1] += first[:, :, 1:]
    even[:, :, 0] = first[:, :, 0]
    torch.sub(second, third, out=odd[:, :, :-1])
    odd[:, :, :-1] += fourth
    odd[:, :, 1:-1] -= fourth[:, :, :-1]
    torch.neg(fourth[:, :, -1], out=odd[:, :, -1])


def _quarters(x: Tensor, dim: int) -> list[Tensor]:
    """The first, second, third and fourth line of every tile along `dim`, as views."""
    size = x.shape[dim]
    index: list[slice] = [slice(None)] * x.ndim
    views = []
    for start in range(4):
        index[dim] = slice(start, size - 3 + start, 2)
        views.append(x[tuple(index)])
    return views


def _gather_outputs(products_44RSO: Tensor, y_HWO: Tensor) -> None:
    """A' m A of all tiles, into the map."""
    first, second, third, fourth = products_44RSO
    half_24RSO = _workspace.take("half", first, 2, *first.shape)
    even_4RSO, odd_4RSO = half_24RSO
    torch.add(second, third, out=even_4RSO).add_(first)
    torch.sub(second, third, out=odd_4RSO).sub_(fourth)
    for start, (first, second, third, fourth) in enumerate(half_24RSO):
        torch.add(second, third, out=y_HWO[start::2, 0::2]).add_(first)
        torch.sub(second, third, out=y_HWO[start::2, 1::2]).sub_(fourth)


def _spread_outputs(gradient_HWO: Tensor) -> Tensor:
    """The transpose of `_gather_outputs`: [4, 4, R, S, O]."""
    height, width, channels = gradient_HWO.shape
    half_4RWO = _workspace.take("half", gradient_HWO, 4, height // 2, width, channels)
    spread_44RSO = _workspace.take("spread", gradient_HWO, 4, 4, height // 2, width // 2, channels)
    _spread_pairs(gradient_HWO[0::2], gradient_HWO[1::2], half_4RWO)
    _spread_pairs(half_4RWO[:, :, 0::2], half_4RWO[:, :, 1::2], spread_44RSO.transpose(0, 1))
    return spread_44RSO


def _spread_pairs(even: Tensor, odd: Tensor, out_4: Tensor) -> None:
    """One axis of `_spread_outputs`."""
    out_4[0] = even
    torch.add(even, odd, out=out_4[1])
    torch.sub(even, odd, out=out_4[2])
    torch.neg(odd, out=out_4[3])
