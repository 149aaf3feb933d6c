"""What `patchkin.testing` checks of a method; on a CPU, in one process, in the given networks.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchkin.config import from_plain, to_plain
from patchkin.data.domains import DomainBatch
from patchkin.method import Method, Progress, Terms, Update
from patchkin.randomness import Draws, SeededDraws
from patchkin.schedules import ScheduleConfig
from patchkin.storage.checkpoint import ModelHeader
from patchkin.training import TrainingConfig, Updater, fit
from patchkin.training.fabric import Fabric
from patchkin.translation.translator import Translator

MakeBatch = Callable[[Method, int, int, torch.dtype], Any]
"""Of a method: so many images, a seed, and a type -> a batch of its `batch_type`."""
_STEPS = 4


@dataclass(frozen=True)
class MethodCase:
    """A method with settings under which it is small."""

    kind: type[Method]
    config: Any = None
    """Of its `config_type`; that of its first preset unless given."""
    per_image: bool = True
    """Whether every term is a mean over images, so that the gradient of a batch is the mean of
    those of its images. Not for batch norm, pools, or terms that compare images of a batch."""
    size: tuple[int, int] = (32, 40)
    """Height and width of the training images."""
    make_batch: MakeBatch | None = None
    """Makes a batch; unless given, random images of `batch_type(a_BCHW, b_BCHW)`."""

    def build(self, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Method:
        """An untrained one."""
        torch.manual_seed(seed)
        config = self.config
        if config is None:
            config = next(iter(self.kind.presets.values())).method
        return self.kind(config).to(dtype)

    def batch(
        self, method: Method, *, images: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> Any:
        """Random images, or what `make_batch` makes."""
        images = max(images, method.min_batch_size)
        if self.make_batch is not None:
            return self.make_batch(method, images, seed, dtype)
        assert not issubclass(method.batch_type, DomainBatch), (
            "a batch of several domains needs `make_batch`"
        )
        side = method.training_side
        size = self.size if side is None else (side, side)
        a_BCHW, b_BCHW = (
            _images(images, channels, size, seed=2 * seed + place, dtype=dtype)
            for place, channels in enumerate(method.channels)
        )
        make: Any = method.batch_type
        return make(a_BCHW, b_BCHW)

    def prepared(self, method: Method) -> Method:
        """As before the first step of a run."""
        method.train()
        method.prepare((self.batch(method, seed=i) for i in range(20)), SeededDraws(0, -1))
        return method


def _images(
    number: int, channels: int, size: Sequence[int], *, seed: int, dtype: torch.dtype
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(number, channels, *size, generator=generator, dtype=torch.float64)
    return (drawn * 2 - 1).to(dtype)


def _progress(step: int = 0, draws: Draws | None = None) -> Progress:
    return Progress.of_step(step, total_steps=10, draws=draws or SeededDraws(7, step))


class _Watched(Updater):
    """An updater that remembers whom it stepped and what the losses were."""

    def __init__(self, method: Method, *, steps: bool = True) -> None:
        super().__init__(method, Fabric(accelerator="cpu", devices=1))
        self.losses: dict[tuple[str, ...], float] = {}
        self._steps = steps
        self.begin_step(1.0)

    def __call__(
        self, *networks: str, loss: Callable[[], Terms] | Sequence[Callable[[], Terms]]
    ) -> None:
        def remembered(part: Callable[[], Terms]) -> Terms:
            terms = part()
            total = float(sum(term.detach() for term in terms.values()))
            self.losses[networks] = self.losses.get(networks, 0.0) + total
            return terms

        parts = [loss] if callable(loss) else loss
        super().__call__(*networks, loss=[partial(remembered, part) for part in parts])

    def _step(self, *arguments: Any) -> None:
        if self._steps:
            super()._step(*arguments)


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


def settings_survive(case: MethodCase, _: Path) -> None:
    """Presets and the given settings are those of `config_type`, and can be written and read."""
    kind = case.kind
    given = [] if case.config is None else [("the given settings", case.config)]
    presets = [(f"preset {name}", preset.method) for name, preset in kind.presets.items()]
    assert presets, "there is no preset"
    for what, config in given + presets:
        assert type(config) is kind.config_type, f"{what}: not of {kind.config_type.__name__}"
        again = from_plain(kind.config_type, to_plain(config))
        assert again == config, f"{what}: written and read it is {again}"


def named_networks_move(case: MethodCase, _: Path) -> None:
    """Two steps move every network that `adam` names, and no other."""
    method = case.prepared(case.build())
    trained = set(method.adam())
    fixed = {  # averages of other networks, which no gradient reaches
        name
        for name, network in method.named_children()
        if not any(parameter.requires_grad for parameter in network.parameters())
    }
    update = _Watched(method)
    before = copy.deepcopy(method.state_dict())
    for step in range(2):
        method.train_step(case.batch(method, seed=step), update, _progress(step))
    moved = {
        name.partition(".")[0]
        for name, parameter in method.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    moved -= fixed - trained
    assert moved == trained, f"`adam` names {_names(trained)}; what moved: {_names(moved)}"
    told = {name for networks in update.losses for name in networks}
    assert told == trained, f"`adam` names {_names(trained)}; `update` was told: {_names(told)}"


def terms_add_up(case: MethodCase, _: Path) -> None:
    """Logged terms are finite, and those of an update are its loss."""
    method = case.prepared(case.build())
    update = _Watched(method)
    method.train_step(case.batch(method, images=2), update, _progress())
    assert update.losses, "the step called `update` never"
    for name, value in update.terms.items():
        assert torch.isfinite(value).all(), f"the term {name} is {float(value)}"
    for networks, total in update.losses.items():
        prefix = "+".join(networks) + "."
        logged = sum(float(t) for name, t in update.terms.items() if name.startswith(prefix))
        close = abs(logged - total) <= 1e-5 * max(1.0, abs(total))
        assert close, f"the terms {prefix}* add up to {logged}, the loss is {total}"


def draws_come_from_progress(case: MethodCase, _: Path) -> None:
    """A step is the same whatever torch's global generator does: choices are `progress.draws`."""
    outcomes = []
    for seed in (1, 2):
        method = case.prepared(case.build())
        torch.manual_seed(seed)
        update = _Watched(method)
        method.train_step(case.batch(method), update, _progress())
        outcomes.append({**update.terms, **method.state_dict()})  # Adam's first step hides much
    different = _differing(*outcomes)
    assert not different, (
        f"{different[0]} depends on torch's global generator; draw from `progress.draws`"
    )


def batch_is_the_mean(case: MethodCase, _: Path) -> None:
    """The gradient of three images is the mean of their gradients, in float64."""
    if not case.per_image:
        return
    method = case.build(dtype=torch.float64)
    images = 3
    batch = case.batch(method, images=images, dtype=torch.float64)

    def gradients(part: Any, image: int | None = None) -> dict[str, Tensor]:
        fresh = copy.deepcopy(method).train()
        turn = {} if image is None else {"rank": image, "world_size": images}
        fresh.train_step(
            part, _Watched(fresh, steps=False), _progress(draws=SeededDraws(7, 0, **turn))
        )
        return {n: p.grad.clone() for n, p in fresh.named_parameters() if p.grad is not None}

    whole = gradients(batch)
    alone = [gradients(_rows(batch, slice(i, i + 1)), i) for i in range(images)]
    for name, gradient in whole.items():
        mean = torch.stack([each[name] for each in alone]).mean(dim=0)
        scale = max(1e-9, float(mean.abs().max()))
        difference = float((gradient - mean).abs().max())
        assert difference <= 1e-7 * scale + 1e-12, (
            f"the gradient of {name} for {images} images is not the mean of theirs: off by "
            f"{difference:.3g} of {scale:.3g}; is a term a sum over the batch, or a mean over "
            "something that differs from image to image? (`per_image=False` if it compares images)"
        )


def _rows(batch: Any, rows: slice) -> Any:
    fields = {name: getattr(batch, name) for name in type(batch).__dataclass_fields__}
    return type(batch)(
        **{n: value[rows] if isinstance(value, Tensor) else value for n, value in fields.items()}
    )


class _Stop(Exception):  # noqa: N818 - as KeyboardInterrupt
    pass


def resuming_is_exact(case: MethodCase, folder: Path) -> None:
    """A run that was killed and resumed ends with the bits of one that was not."""
    whole, stopped, resumed = case.build(), case.build(), case.build(seed=3)
    _run(case, whole, folder / "whole")
    train_step = stopped.train_step

    def until(batch: Any, update: Update, progress: Progress) -> None:
        if progress.step == _STEPS - 1:
            raise _Stop
        train_step(batch, update, progress)

    stopped.train_step = until  # type: ignore[method-assign]
    try:
        _run(case, stopped, folder / "stopped")
    except _Stop:
        _run(case, resumed, folder / "stopped", resume=True)
    different = _differing(whole.state_dict(), resumed.state_dict())
    assert not different, (
        f"{different[0]} is another after a stop: what changes from step to step must be in "
        "`state_dict()`"
    )


def saved_models_translate(case: MethodCase, folder: Path) -> None:
    """What a run saved translates as the method does."""
    method = case.build()
    _run(case, method, folder / "saved", steps=1)
    loaded = Translator.load(folder / "saved", methods={method.name: type(method)}, device="cpu")
    x_BCHW = _source(method, 2, (32, 36))
    expected_BCHW = Translator(method, device="cpu")(x_BCHW)
    off = float((loaded(x_BCHW) - expected_BCHW).abs().max())
    assert off <= 1e-5, f"the loaded model translates otherwise: off by {off:.3g}"


def any_size_translates(case: MethodCase, _: Path) -> None:
    """`translate` keeps odd sizes and types of images, and those beside one change nothing."""
    method = case.build()
    translator = Translator(method, device="cpu")
    for size in ((33, 50), (64, 20), (7, 31)):
        x_BCHW = _source(method, 3, size)
        y_BCHW = translator(x_BCHW)
        expected = (3, method.channels[1], *size)
        assert y_BCHW.shape == expected, f"{tuple(x_BCHW.shape)} became {tuple(y_BCHW.shape)}"
        alone_BCHW = torch.cat([translator(x_BCHW[i : i + 1]) for i in range(3)])
        off = float((y_BCHW - alone_BCHW).abs().max())
        assert off <= 1e-4, f"an image is translated otherwise beside others: off by {off:.3g}"


def _source(method: Method, images: int, size: Sequence[int]) -> Tensor:
    return _images(images, method.channels[0], size, seed=5, dtype=torch.float32)


class _Batches:
    """Three batches, round and round."""

    steps_per_epoch = 2

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches

    def batches(self, start_step: int, total_steps: int) -> Iterable[Any]:
        return (self._batches[step % 3] for step in range(start_step, total_steps))

    def preview_batch(self) -> Any:
        return self._batches[0]


def _run(
    case: MethodCase, method: Method, folder: Path, *, steps: int = _STEPS, resume: bool = False
) -> None:
    fit(
        method,
        _Batches([case.batch(method, seed=seed) for seed in range(3)]),
        folder,
        fabric=Fabric(accelerator="cpu", devices=1),
        schedule=ScheduleConfig(steps=steps),
        training=TrainingConfig(save_every=2),
        header=ModelHeader(method=method.name, config=to_plain(method.config)),
        resume=resume,
    )


CHECKS: Mapping[str, Callable[[MethodCase, Path], None]] = {
    check.__name__: check
    for check in (
        settings_survive,
        named_networks_move,
        terms_add_up,
        draws_come_from_progress,
        batch_is_the_mean,
        resuming_is_exact,
        saved_models_translate,
        any_size_translates,
    )
}
"""By name; each takes a case and an empty folder."""


def check_method(kind: type[Method], config: Any = None, **options: Any) -> None:
    """All checks of a method; `options` are those of `MethodCase`.

    Raises:
        AssertionError: it breaks the contract; says which check and how.
    """
    case = MethodCase(kind=kind, config=config, **options)
    for name, check in CHECKS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(case, Path(folder))
            except AssertionError as error:
                raise AssertionError(f"{kind.name}, {name}: {error}") from error
