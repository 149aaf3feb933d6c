import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks import UNet, UNetConfig


@pytest.mark.parametrize(("levels", "count"), [(8, 54_413_955), (7, 41_828_995)])
def test_released_parameter_counts(levels, count):
    with torch.device("meta"):
        generator = UNet(UNetConfig(levels=levels))
    assert sum(weight.numel() for weight in generator.parameters()) == count


def test_state_dict_keys_are_the_released_ones():
    with torch.device("meta"):
        keys = [k for k in UNet(UNetConfig(levels=6)).state_dict() if k.endswith("weight")]
    inside = "model.model" + ".1.model" + ".3.model" * 3
    assert keys[0] == "model.model.0.weight"
    assert keys[1] == "model.model.1.model.1.weight"
    assert f"{inside}.1.weight" in keys
    innermost = [k.removeprefix(f"{inside}.3.model.") for k in keys if k.startswith(f"{inside}.3")]
    assert innermost == ["1.weight", "3.weight", "4.weight"]
    assert keys[-1] == "model.model.3.weight"


def by_hand(generator: UNet, x: torch.Tensor) -> torch.Tensor:
    """Three levels with instance norm, written out from the weights."""
    w = generator.state_dict()
    outer, middle, inner = "model.model", "model.model.1.model", "model.model.1.model.3.model"

    def halve(name, x):
        return nnf.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)

    def double(name, x):
        return nnf.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)

    def norm(x):
        mean = x.mean(dim=(2, 3), keepdim=True)
        return (x - mean) / (x.var(dim=(2, 3), keepdim=True, correction=0) + 1e-5).sqrt()

    first = halve(f"{outer}.0", x)
    second = norm(halve(f"{middle}.1", nnf.leaky_relu(first, 0.2)))
    third = halve(f"{inner}.1", nnf.leaky_relu(second, 0.2))
    up = norm(double(f"{inner}.3", third.relu()))
    up = norm(double(f"{middle}.5", torch.cat([second, up], dim=1).relu()))
    return double(f"{outer}.3", torch.cat([first, up], dim=1).relu()).tanh()


def test_value_and_gradient_match_the_network_written_out():
    generator = UNet(UNetConfig(ngf=3, levels=3, norm="instance", in_channels=2)).double()
    x_BCHW = torch.randn(2, 2, 16, 24, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    y, expected = generator(x_BCHW), by_hand(generator, x_BCHW)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-10)
    gradients = [torch.autograd.grad((z * weight).sum(), x_BCHW)[0] for z in (y, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-9)


def test_dropout_stands_on_the_inner_levels_only():
    with torch.device("meta"):
        generator = UNet(UNetConfig(ngf=1, levels=8))
    level, dropping = generator.model, []
    for depth in range(8):
        kinds = [type(layer).__name__ for layer in level.model]
        if "_Dropout" in kinds:
            dropping.append(depth)
        level = next((layer for layer in level.model if type(layer) is type(level)), None)
    assert dropping == [4, 5, 6]
    assert level is None


@pytest.mark.parametrize("at_test", [False, True])
def test_dropout_when_translating_is_an_option(at_test):
    generator = UNet(UNetConfig(ngf=2, levels=6, dropout_at_test=at_test)).eval()
    x_BCHW = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(generator(x_BCHW), generator(x_BCHW)) != at_test


def test_translating_uses_each_images_own_statistics():
    """What batch norm does in training with a batch of one."""
    generator = UNet(UNetConfig(ngf=2, levels=3, dropout=False)).double()
    x_BCHW = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        generator(x_BCHW)  # running statistics of some kind
        singles = torch.cat([generator(x_BCHW[i : i + 1]) for i in range(3)])
        together = generator.eval()(x_BCHW)
    torch.testing.assert_close(together, singles, rtol=1e-9, atol=1e-10)


def test_running_statistics_are_an_option():
    config = UNetConfig(ngf=2, levels=3, dropout=False, statistics_at_test="running")
    image = UNet(UNetConfig(ngf=2, levels=3, dropout=False)).eval()
    running = UNet(config).eval()
    running.load_state_dict(image.state_dict())
    x_BCHW = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert not torch.allclose(image(x_BCHW), running(x_BCHW))


def test_gradient_is_exact_for_one_image_and_channels_last_gradients():
    """torch's CPU instance norm gets these wrong."""
    generator = UNet(UNetConfig(ngf=3, levels=3, dropout=False)).double().eval()
    x_BCHW = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    plain = torch.autograd.grad((generator(x_BCHW) * weight).sum(), x_BCHW)[0]
    rows = generator(x_BCHW).permute(0, 2, 3, 1).flatten(0, 2)
    permuted = torch.autograd.grad(
        (rows[torch.arange(64)] * weight.permute(0, 2, 3, 1).flatten(0, 2)).sum(), x_BCHW
    )[0]
    torch.testing.assert_close(plain, permuted, rtol=1e-9, atol=1e-10)


def test_sizes_and_settings_that_do_not_fit_are_refused():
    generator = UNet(UNetConfig(ngf=2, levels=3))
    with pytest.raises(ShapeError, match=r"3 levels takes sides .* multiples of 8; got 16 x 20"):
        generator(torch.zeros(1, 3, 16, 20))
    with pytest.raises(ShapeError, match=r"must be \[B, 3, H, W\]"):
        generator(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ConfigError, match="`levels` must be at least 2; got 1"):
        UNetConfig(levels=1)
    with pytest.raises(ConfigError, match="`ngf` must be at least 1; got 0"):
        UNetConfig(ngf=0)
