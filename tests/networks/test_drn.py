import pickle

import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import CheckpointError, ConfigError, ShapeError
from patchkin.networks.drn import (
    DRN,
    INPUT_DEVIATION,
    INPUT_MEAN,
    bilinear_kernel,
    read_drn,
)


@pytest.fixture(scope="module")
def small():
    """DRN-D-22 whose batch norms do something."""
    torch.manual_seed(0)
    network = DRN("drn-d-22").eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1)
        elif name.endswith(("running_var", "bn1.weight", "bn2.weight", ".1.weight")):
            tensor.uniform_(0.5, 1.5)
    return network


def by_names(weights, x_BCHW):
    """DRN-D-22 written from its table, layer by layer, on the released names."""

    def conv(x, name, norm, *, stride=1, dilation=1):
        weight = weights[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        x = nnf.conv2d(x, weight, None, stride, padding, dilation)
        mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        scale, shift = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        shape = (1, -1, 1, 1)
        x = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
        return x * scale.view(shape) + shift.view(shape)

    def block(x, name, *, stride, dilation):
        y = conv(x, f"{name}.conv1", f"{name}.bn1", stride=stride, dilation=dilation).relu()
        y = conv(y, f"{name}.conv2", f"{name}.bn2", dilation=dilation)
        if f"{name}.downsample.0.weight" in weights:
            x = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride)
        return (x + y).relu()

    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (INPUT_MEAN, INPUT_DEVIATION))
    x = ((x_BCHW * 0.5 + 0.5) * 255 / 255 - mean) / deviation
    x = conv(x, "base.0.0", "base.0.1").relu()
    x = conv(x, "base.1.0", "base.1.1").relu()
    x = conv(x, "base.2.0", "base.2.1", stride=2).relu()
    for layer, stride, dilation in ((3, 2, 1), (4, 2, 1), (5, 1, 2), (6, 1, 4)):
        x = block(x, f"base.{layer}.0", stride=stride, dilation=dilation)
        x = block(x, f"base.{layer}.1", stride=1, dilation=dilation)
    x = conv(x, "base.7.0", "base.7.1", dilation=2).relu()
    x = conv(x, "base.8.0", "base.8.1").relu()
    x = nnf.conv2d(x, weights["seg.weight"], weights["seg.bias"])
    x = nnf.conv_transpose2d(x, weights["up.weight"], None, 8, 4, groups=19)
    return x - x.exp().sum(dim=1, keepdim=True).log()


@pytest.mark.parametrize(("name", "count"), [("drn-d-22", 15_895_363), ("drn-d-105", 54_302_915)])
def test_number_of_parameters(name, count):
    assert sum(p.numel() for p in DRN(name).parameters()) == count


def test_names_of_the_bottleneck_network():
    names = DRN("drn-d-105").state_dict().keys()
    blocks = [
        len({n.split(".")[2] for n in names if n.startswith(f"base.{i}.")}) for i in (3, 4, 5, 6)
    ]
    assert blocks == [3, 4, 23, 3]
    assert {"base.5.22.conv3.weight", "base.3.0.downsample.1.running_var", "up.weight"} <= names
    assert "base.3.1.downsample.0.weight" not in names


def test_equals_the_table_written_out(small):
    x_BCHW = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        actual = small(x_BCHW)
        expected = by_names(small.state_dict(), x_BCHW)
    assert actual.shape == (2, 19, 32, 48)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_sizes_that_are_no_multiples_of_eight_are_cropped(small):
    x_BCHW = torch.rand(1, 3, 33, 21) * 2 - 1
    with torch.no_grad():
        actual, expected = small(x_BCHW), by_names(small.state_dict(), x_BCHW)
    torch.testing.assert_close(actual, expected[..., :33, :21], rtol=1e-4, atol=1e-5)


def test_the_head_enlarges_bilinearly():
    network = DRN("drn-d-22", num_classes=4)
    maps_BCHW = torch.rand(2, 4, 5, 7)
    enlarged = nnf.interpolate(maps_BCHW, scale_factor=8, mode="bilinear", align_corners=False)
    inner = (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(network.up(maps_BCHW)[inner], enlarged[inner])
    kernel = [[(1 - abs(i / 8 - 15 / 16)) * (1 - abs(j / 8 - 15 / 16)) for j in range(16)]
              for i in range(16)]  # fmt: skip
    torch.testing.assert_close(bilinear_kernel(8), torch.tensor(kernel))
    assert not network.up.weight.requires_grad


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested", [False, True])
def test_released_files_are_read(small, tmp_path, prefix, nested):
    tensors = {
        prefix + name: tensor
        for name, tensor in small.state_dict().items()
        if not (nested and name.endswith("num_batches_tracked"))  # as before PyTorch 0.4.1
    }
    path = tmp_path / ("checkpoint.pth.tar" if nested else "weights.pth")
    content = {"epoch": 3, "arch": "drn", "state_dict": tensors} if nested else tensors
    torch.save(content, path, _use_new_zipfile_serialization=not nested)
    network = read_drn(path, "drn-d-22")
    assert not network.training
    x_BCHW = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(x_BCHW), small(x_BCHW), rtol=0, atol=0)


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_file_that_would_execute_code_is_refused(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": Harmful()}, path)
    with pytest.raises(CheckpointError, match="nothing of it was loaded") as caught:
        read_drn(path, "drn-d-22")
    assert "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"no weights at all", "cannot be read"),
        (pickle.dumps([1, 2]), "cannot be read|holds no tensors"),
    ],
)
def test_what_is_no_weights_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_drn(path, "drn-d-22")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_drn(tmp_path / "absent.pth", "drn-d-22")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_drn(tmp_path, "drn-d-22")


def test_weights_of_another_network_are_refused(small, tmp_path):
    path = tmp_path / "weights.pth"
    tensors = dict(small.state_dict())
    tensors["extra"] = tensors.pop("base.0.0.weight")
    tensors["seg.bias"] = torch.zeros(3)
    torch.save(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        read_drn(path, "drn-d-22")
    assert "does not fit drn-d-22" in str(caught.value)
    assert "1 missing (first: base.0.0.weight)" in str(caught.value)
    assert "1 unexpected (first: extra)" in str(caught.value)
    assert "1 of another shape (first: seg.bias)" in str(caught.value)
    torch.save({"numbers": [1, 2]}, path)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_drn(path, "drn-d-22")


def test_wrong_names_and_channels(small):
    with pytest.raises(ConfigError, match="Did you mean `drn-d-22`"):
        DRN("drn-d-23")
    with pytest.raises(ShapeError, match=r"\[B, 3, H, W\]"):
        small(torch.zeros(1, 1, 16, 16))
