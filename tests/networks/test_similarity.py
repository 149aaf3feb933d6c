import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.losses import summary_distance
from patchkin.networks import InitConfig, SimilarityHead, SimilarityHeads, stack_taps


def naive_head(head: SimilarityHead, stack_TKC: torch.Tensor) -> torch.Tensor:
    """One image, place by place."""
    conv, first, second = head.model[0], head.model[4], head.model[6]
    _, height, width = stack_TKC.shape
    values = []
    for y in range(0, height - 2, 2):
        for x in range(0, width - 2, 2):
            window = stack_TKC[:, y : y + 3, x : x + 3]
            values.append(((conv.weight * window).sum(dim=(1, 2, 3)) + conv.bias).clamp_min(0))
    hidden = torch.stack(values).mean(dim=0)
    hidden = (first.weight @ hidden + first.bias).clamp_min(0)
    out = second.weight @ hidden + second.bias
    return out / (out.square().sum().sqrt() + 1e-7)


def test_value_and_gradient_match_the_definition():
    head = SimilarityHead(taps=3).double()
    stack = torch.randn(2, 3, 8, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 64, dtype=torch.float64)
    actual = head(stack)
    expected = torch.stack([naive_head(head, image) for image in stack])
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    inputs = [stack, *head.parameters()]
    gradients = [torch.autograd.grad((y * weight).sum(), inputs) for y in (actual, expected)]
    for a, e in zip(*gradients, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-12)


def test_released_parameter_count_and_keys():
    head = SimilarityHead(taps=4)
    assert sum(weight.numel() for weight in head.parameters()) == 10_688
    assert [name for name in head.state_dict() if name.endswith("weight")] == [
        "model.0.weight",
        "model.4.weight",
        "model.6.weight",
    ]


def test_autocast_changes_nothing():
    head = SimilarityHead(taps=2)
    stack = torch.randn(1, 2, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = head(stack)
    assert torch.equal(actual, head(stack))


def test_kinds_of_heads():
    separate, fixed = SimilarityHeads(2, "separate"), SimilarityHeads(2, "fixed")
    stack = torch.randn(1, 2, 5, 5)
    for heads, same in ((separate, False), (fixed, True)):
        real, fake = heads(stack, stack)
        assert torch.equal(real, fake) == same
    assert {name.split(".")[0] for name in separate.state_dict()} == {"real", "fake"}
    assert {name.split(".")[0] for name in fixed.state_dict()} == {"real"}


def trained_similarity(kind: str, *, steps: int) -> tuple[list[float], float]:
    """The loss while the heads learn alone from unrelated inputs, as released, and how far apart
    the summaries of two unrelated inputs are then."""
    torch.manual_seed(0)
    heads = SimilarityHeads(4, kind, InitConfig())
    adam = torch.optim.Adam(heads.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def unrelated():
        return torch.nn.functional.normalize(torch.randn(1, 4, 64, 64), dim=-1)

    losses = []
    for _ in range(steps):
        loss = summary_distance(*heads(unrelated(), unrelated()))
        losses.append(loss.item())
        if kind != "fixed":
            adam.zero_grad()
            loss.backward()
            adam.step()
    with torch.no_grad():
        return losses, summary_distance(heads.real(unrelated()), heads.real(unrelated())).item()


def test_released_heads_collapse_alone_and_fixed_ones_do_not():
    """The released heads satisfy their loss without looking at the images."""
    losses, spread = trained_similarity("separate", steps=120)
    assert max(losses) > 0.2  # nearly opposite vectors: 2 / sqrt(64) at most
    assert losses[-1] < 0.02
    _, spread_fixed = trained_similarity("fixed", steps=1)
    assert spread_fixed > 10 * spread


def test_taps_with_fewer_places_decide_the_size_of_the_stack():
    rows = [torch.randn(2, 9, 5), torch.randn(2, 4, 5), torch.randn(2, 7, 5)]
    stack = stack_taps(rows)
    assert stack.shape == (2, 3, 4, 5)
    assert torch.equal(stack[:, 0], rows[0][:, :4])
    assert torch.equal(stack[:, 1], rows[1])


def test_too_few_patches_are_refused():
    with pytest.raises(ShapeError, match="at least 3 patches of 3 numbers; got 2 of 8"):
        SimilarityHead(taps=2)(torch.zeros(1, 2, 2, 8))
