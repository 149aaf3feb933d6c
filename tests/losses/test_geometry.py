import pytest
import torch

from patchkin.errors import ConfigError, ShapeError
from patchkin.losses.geometry import geometry_consistency, restored, transformed

SIZES = [(1, 1, 4, 4), (2, 3, 5, 5), (3, 2, 4, 7), (2, 1, 1, 3)]


@pytest.mark.parametrize("shape", SIZES)
def test_rotation_is_clockwise_and_flip_is_upside_down(shape):
    x = torch.randn(shape)
    height, width = shape[2:]
    rotated, flipped = transformed(x, "rotation"), transformed(x, "flip")
    assert rotated.shape == (*shape[:2], width, height)
    for row in range(height):
        for column in range(width):
            pixel = x[..., row, column]
            # The top row becomes the last column.
            assert torch.equal(rotated[..., column, height - 1 - row], pixel)
            assert torch.equal(flipped[..., height - 1 - row, column], pixel)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("transform", ["rotation", "flip"])
def test_restored_is_the_inverse(shape, transform):
    x = torch.randn(shape)
    assert torch.equal(restored(transformed(x, transform), transform), x)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("transform", ["rotation", "flip"])
def test_value_and_gradients_match_loops(shape, transform):
    """The value is twice one L1 distance; the gradient is that of one."""
    a = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    b = torch.randn_like(transformed(a, transform)).requires_grad_()
    loss = geometry_consistency(a, b, transform)
    batch, channels, height, width = shape
    total = 0.0
    for i in range(batch):
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    place = (x, height - 1 - y) if transform == "rotation" else (height - 1 - y, x)
                    total = total + (a[i, c, y, x] - b[(i, c, *place)]).abs()
    once = total / a.numel()
    torch.testing.assert_close(loss, 2 * once, rtol=1e-12, atol=0)
    for ours, expected in zip(
        torch.autograd.grad(loss, (a, b)), torch.autograd.grad(once, (a, b)), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)


def test_a_batch_has_the_mean_loss_of_its_images():
    a, b = torch.randn(4, 3, 4, 6), torch.randn(4, 3, 6, 4)
    singles = [geometry_consistency(a[i : i + 1], b[i : i + 1], "rotation") for i in range(4)]
    torch.testing.assert_close(geometry_consistency(a, b, "rotation"), sum(singles) / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_images_are_compared_in_float32(dtype):
    a, b = torch.randn(2, 3, 4, 4).to(dtype), torch.randn(2, 3, 4, 4).to(dtype)
    actual = geometry_consistency(a, b, "flip")
    assert actual.dtype is torch.float32
    assert actual == geometry_consistency(a.float(), b.float(), "flip")


def test_wording_of_errors():
    with pytest.raises(ShapeError, match=r"\(1, 3, 6, 4\); got \(1, 3, 4, 6\)\. Was the input"):
        geometry_consistency(torch.zeros(1, 3, 4, 6), torch.zeros(1, 3, 4, 6), "rotation")
    with pytest.raises(ConfigError, match=r"Unknown transform `rotate`\. Did you mean `rotation`"):
        transformed(torch.zeros(1, 3, 4, 4), "rotate")
    with pytest.raises(ConfigError, match="Unknown transform `mix`"):
        restored(torch.zeros(1, 3, 4, 4), "mix")
