"""The contract between a method and everything that runs one.

A method owns its networks and the order of its updates. The training loop owns devices, precision,
processes, files and time, and knows nothing of losses. They meet in `Method.train_step`, which is
handed a batch, an `Update` to call, and a `Progress` to read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.networks import PatchMap
from patchkin.networks.whole_batch import alone
from patchkin.randomness import Draws, SeededDraws
from patchkin.schedules import AdamConfig, ScheduleConfig

Direction = Literal["AtoB", "BtoA"]
"""From the source domain to the target domain, or back."""

Tiling = Literal["supported", "discouraged", "internal"]
"""What `Method.tiling` can say."""

Terms = dict[str, Tensor]
"""Name -> scalar, weights included. Their sum is what is differentiated."""


class Update(Protocol):
    """Everything mechanical about one optimisation step of some networks."""

    def __call__(
        self, *networks: str, loss: Callable[[], Terms] | Sequence[Callable[[], Terms]]
    ) -> None:
        """Step the named networks down the gradient of the sum of the terms.

        Several losses, such as those of parts of a batch, are differentiated one after another:
        the step is that of their sum, and only one graph is kept at a time. Terms of one name are
        logged as their sum.

        Gradients are on for these networks only while `loss` is evaluated, so a discriminator that
        judges inside a generator's loss costs no gradients of its own. What was computed before
        the call keeps its graph.
        """
        ...

    def report(self, **values: Tensor) -> None:
        """Log values that are worth seeing but are not differentiated."""
        ...

    @property
    def num_processes(self) -> int:
        """Of the run."""
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes along the first axis, in the order of the whole batch.

        Without graph, but for a run of one process, which gets its own tensor.
        """
        ...

    def gather_with_graph(self, tensor: Tensor) -> Tensor:
        """`gather` for terms over the whole batch, which each process then computes alike.

        Rows of other processes are constants there, and the gradient of this one's is scaled so
        that the mean over processes is the gradient of one process with the whole batch.
        """
        ...


Part = TypeVar("Part", bound=Sized)


def in_parts(
    terms: Callable[..., Terms], parts: Sequence[Part], *beside: Sequence[Any]
) -> list[Callable[[], Terms]]:
    """The losses of the parts of a batch, for `Update`: their sum is the loss of the whole.

    Exact where every term is a mean over images, as without batch norm and without comparing the
    images of a batch.

    Args:
        terms: of a part and what belongs to it of each of `beside`, weights included.
        parts: with their numbers of images as lengths.
        beside: more for each part, such as draws for its images.

    >>> losses = in_parts(lambda part: {"mean": torch.tensor(part).mean()}, [[1.0, 2.0], [6.0]])
    >>> sum(loss()["mean"] for loss in losses)
    tensor(3.)
    """
    total = sum(len(part) for part in parts)

    def weighted(part: Part, *others: Any) -> Terms:
        return {name: term * (len(part) / total) for name, term in terms(part, *others).items()}

    return [partial(weighted, *row) for row in zip(parts, *beside, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where in the run a step stands, and its random choices."""

    step: int
    """Steps done before this one: 0, 1, ..."""
    total_steps: int
    """Of the schedule; a run may end before (`ScheduleConfig.max_steps`)."""
    epoch: int
    """1, 2, ..."""
    total_epochs: int | None
    """None for a run that is counted in steps."""
    draws: Draws

    @property
    def unit(self) -> int:
        """The epoch, or in a run counted in steps the step, from 1."""
        return self.step + 1 if self.total_epochs is None else self.epoch

    @property
    def total_units(self) -> int:
        """How many of them the run has."""
        return self.total_steps if self.total_epochs is None else self.total_epochs

    @property
    def fraction(self) -> float:
        """Share of the run done at the end of this unit, in (0, 1].

        >>> Progress.of_step(99, total_steps=400).fraction
        0.25
        """
        return self.unit / self.total_units

    @classmethod
    def of_step(
        cls,
        step: int,
        *,
        total_steps: int,
        steps_per_epoch: int | None = None,
        counts_epochs: bool = False,
        seed: int = 0,
        draws: Draws | None = None,
    ) -> Progress:
        """Progress at a step, with the draws that its seed gives unless others are passed."""
        steps_per_epoch = steps_per_epoch or total_steps
        return cls(
            step=step,
            total_steps=total_steps,
            epoch=1 + step // steps_per_epoch,
            total_epochs=total_steps // steps_per_epoch if counts_epochs else None,
            draws=draws or SeededDraws(seed, step),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A named set of numbers: what was published, or what was measured to work."""

    summary: str
    method: Any
    """An instance of the method's `config_type`."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    data: DataConfig = field(default_factory=DataConfig)


class Method(nn.Module, ABC):
    """A system of networks and the order in which they learn.

    Final classes derive from it and set the class attributes. Networks are attributes with the
    field's letters (`self.G`); everything in `state_dict()` is saved and resumed.
    """

    name: ClassVar[str]
    """On the command line and in checkpoints."""
    paper: ClassVar[str]
    """Authors, place, year, identifier."""
    differs: ClassVar[str] = ""
    """What the released code does otherwise than the paper, or wrongly, in one line."""
    config_type: ClassVar[type]
    """A frozen dataclass; `Method(config)` builds the networks from it alone."""
    presets: ClassVar[Mapping[str, Preset]]
    """By name; the first is the default."""
    batch_type: ClassVar[type] = UnpairedBatch
    translating: ClassVar[tuple[str, ...]] = ("G",)
    """The networks that `translate` uses. Only these are averaged (EMA) and needed to translate."""
    directions: ClassVar[tuple[str, ...]] = ("AtoB",)
    """What `translate` can do. A method with both directions takes `direction="BtoA"` there, with
    images of the target domain, and gives images of the source domain."""

    config: Any
    channels: tuple[int, int] = (3, 3)
    """Of source and target images."""
    multiple_of: int = 1
    """`translate` takes heights and widths that are multiples of this."""
    min_size: int = 1
    """Smallest height or width that `translate` takes."""
    min_training_size: int = 1
    """Smallest height or width that `train_step` takes."""
    training_side: int | None = None
    """Side of the squares that `train_step` takes, where networks are made for one size."""
    needs_equal_sizes: bool = False
    """Whether the images of both domains must have one size in `train_step`."""
    min_batch_size: int = 1
    """Fewest images of a batch, for methods that compare the images of one."""
    compares_batch: bool = False
    """Whether a term compares the images of the whole batch, those of other processes too."""

    @abstractmethod
    def adam(self) -> dict[str, AdamConfig]:
        """One Adam for each network that learns, by attribute name."""

    @abstractmethod
    def train_step(self, batch: Any, update: Update, progress: Progress) -> None:
        """The method's algorithm for one batch: calls `update` in its own order."""

    @abstractmethod
    def translate(self, x_BCHW: Tensor) -> Tensor:
        """Images of the source domain in [-1, 1] -> images of the target domain."""

    def prepare(self, batches: Iterable[Any], draws: Draws) -> None:
        """Called once before the first step of a fresh run, for methods that start from data."""

    def previews(self, batch: Any) -> dict[str, Tensor]:
        """Caption -> images [B, C, H, W] of a held-out batch, one column each."""
        return {"input": batch.a_BCHW, "translated": self.translate(batch.a_BCHW)}

    def patch_maps(self, x_BCHW: Tensor, *, translated: bool = False) -> list[PatchMap]:
        """The maps whose patches the losses compare, for methods that have such maps.

        What `patchkin inspect` shows.

        Args:
            x_BCHW: images of the source domain, or what the method made of them.
            translated: which of the two; methods with two encoders have one for each.

        Raises:
            ConfigError: this method compares no patches with a head of its own.
        """
        raise ConfigError(
            f"The method `{self.name}` compares no patches with a head of its own, so none can be "
            "shown."
        )

    def process_differences(self) -> list[str]:
        """What N processes with b images do otherwise than one with N b, in words.

        Empty where both are the same but for rounding. A method adds what it knows of its terms.
        """
        return alone(nn.ModuleList(self.networks(self.adam())))

    @property
    def tiling(self) -> Tiling:
        """Whether the parts of an image may be translated apart, and put together again.

        `supported`: a part of the result depends on its neighbourhood alone. `discouraged`: there
        are `tiling_faults`. `internal`: the method divides large images itself. A method of your
        own may know better.
        """
        return "discouraged" if self.tiling_faults() else "supported"

    def tiling_faults(self, *, norms: bool = True) -> list[str]:
        """What parts of an image that are translated apart have not as in the whole, in words.

        Args:
            norms: count norms over the image, whose statistics parts can be given.
        """
        layers = [
            layer for network in self.networks(self.translating) for layer in network.modules()
        ]
        faults = []
        if norms and any(getattr(layer, "whole_image", False) for layer in layers):
            faults.append(
                "norms take statistics over each part in place of the image (--tile-norm image "
                "gives them those of the image): colours may differ from part to part"
            )
        if any(getattr(layer, "sees_whole_image", False) for layer in layers):
            faults.append("every pixel depends on the whole image, and here on its part alone")
        if any(getattr(layer, "noise_of_place", False) for layer in layers):
            faults.append("noise that belongs to a place of the image begins anew in each part")
        return faults

    def networks(self, names: Iterable[str]) -> list[nn.Module]:
        """The networks of these names."""
        return [self.get_submodule(name) for name in names]


class StyledMethod(Method):
    """A method whose translations have a style: drawn at random, or taken from a reference image.

    A style is a vector that its `translate` takes beside the images; what stands in it is the
    method's own affair.
    """

    num_domains: int = 1
    """Target domains to choose from. Methods between two domains have one for each direction."""

    @abstractmethod
    def latent_styles(
        self, draws: Draws, *, count: int, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """Random styles of a target domain, [count, S]."""

    @abstractmethod
    def reference_styles(
        self, reference_BCHW: Tensor, *, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """The styles of images of the target domain, [B, S]."""

    @abstractmethod
    def translate(
        self,
        x_BCHW: Tensor,
        *,
        styles_BS: Tensor | None = None,
        direction: Direction = "AtoB",
    ) -> Tensor:
        """Images in the styles given; unless given, all in one style that is always the same."""


@contextmanager
def translating_mode(method: Method) -> Iterator[None]:
    """Evaluation mode without gradients; the training mode is restored afterwards."""
    was_training = method.training
    method.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        method.train(was_training)
