"""Whole compressions: a teacher becomes a supernet, a supernet small models.

distill    a run of `Distillation` that starts from the teacher's file
search     which widths of a finished run score best within a budget
export     one of its configurations as a model of its own (`runs.small_models`)
cost       of any model: parameters, multiply-accumulates, milliseconds
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from patchkin.compression import (
    CompressedResNet,
    Distillation,
    DistillationConfig,
    OnlineDistillation,
    SearchSpace,
    TeacherConfig,
)
from patchkin.compression.cost import (
    Cost,
    Latency,
    latencies,
    network_cost,
    torch_call,
)
from patchkin.compression.search import (
    STATE_FILE,
    Candidate,
    EvolutionSearch,
    OnScored,
    SearchConfig,
)
from patchkin.data.config import DataConfig
from patchkin.devices import Device
from patchkin.errors import CheckpointError, ConfigError
from patchkin.images import declared_ranges
from patchkin.method import Direction, Method
from patchkin.networks import ResNetGenerator
from patchkin.networks.separable import Channels, format_channels, parse_channels
from patchkin.runs.config import RunConfig
from patchkin.runs.fitness import RunFitness, ScoringConfig, compressed, open_supernet
from patchkin.runs.small_models import alone
from patchkin.runs.train import train
from patchkin.sides import Sides, height_width
from patchkin.storage.atomic import new_file, storage_errors
from patchkin.storage.checkpoint import (
    find_model,
    open_model,
    read_header,
)
from patchkin.storage.locks import FolderLock
from patchkin.storage.outlines import load_strictly
from patchkin.storage.strict_json import parsed
from patchkin.translation.translator import Translator

PLOT_FILE = "pareto.png"


def read_teacher(
    model: Path,
    *,
    direction: Direction = "AtoB",
    methods: Mapping[str, type[Method]] | None = None,
) -> TeacherConfig:
    """What a model can teach.

    Args:
        model: a run folder, a checkpoint folder or a file.
        direction: BtoA takes the way back of a method that has one.
        methods: known methods by name; those of patchkin unless given.

    Raises:
        CheckpointError: nothing is there, or its weights do not fit.
        ConfigError: its generator is of another family, or has no thirds.
    """
    path = find_model(model)
    generator = _teacher(path, direction, methods)
    return TeacherConfig(
        generator=generator.config,
        path=str(path.absolute()),
        direction=direction,
        sha256=_sha256(path),
    )


def taught(config: DistillationConfig, teacher: TeacherConfig) -> DistillationConfig:
    """The settings with this teacher, and a discriminator that takes its images."""
    channels = teacher.generator.out_channels
    if config.paired:
        channels += teacher.generator.in_channels
    return replace(
        config,
        teacher=teacher,
        discriminator=replace(config.discriminator, in_channels=channels),
    )


def distill(
    config: RunConfig[DistillationConfig],
    run_dir: Path,
    *,
    start: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    change: bool = False,
    allow_changed_data: bool = False,
    methods: Mapping[str, type[Method]] | None = None,
) -> Path | None:
    """Train a supernet; `patchkin.runs.train.train` whose teacher comes from its file.

    The teacher's weights are part of every checkpoint (45 MB for a published one), so a run goes
    on, and stays what it was, without the file.

    Args:
        config: of the run, with a teacher of `read_teacher`, whose value ranges are taken over
            unless the data has some.
        run_dir: folder of the run.
        start: another supernet whose student, discriminator, adaptors and heads this one starts
            from, such as to fine-tune one configuration. The released code starts from student and
            discriminator alone, since it keeps no heads.
        resume: as `patchkin.runs.train.train`.
        overwrite: as `patchkin.runs.train.train`.
        change: as `patchkin.runs.train.train`.
        allow_changed_data: as `patchkin.runs.train.train`.
        methods: known methods by name; those of patchkin unless given.

    Raises:
        CheckpointError: the teacher's file is not what it was when the settings were made, or
            `start` does not fit.
        PatchkinError: as `patchkin.runs.train.train`.
    """
    teacher = config.method.teacher

    def begin(method: Method) -> None:
        path = Path(teacher.path)
        if not path.is_file() or _sha256(path) != teacher.sha256:
            raise CheckpointError(
                f"The teacher `{path}` is not the file with the SHA-256 {teacher.sha256[:12]}... "
                "that these settings were made for. Name the teacher again."
            )
        generator = _teacher(path, teacher.direction, methods)
        method.get_submodule("T").load_state_dict(generator.state_dict())
        if start is not None:
            _take_over(method, start)

    if not resume and Path(teacher.path).is_file():
        config = replace(config, data=_with_ranges(config.data, teacher))
    return train(
        Distillation,
        config,
        run_dir,
        resume=resume,
        overwrite=overwrite,
        change=change,
        allow_changed_data=allow_changed_data,
        begin=begin,
    )


def _with_ranges(data: DataConfig, teacher: TeacherConfig) -> DataConfig:
    """The data with the value ranges that the teacher knows, unless it has some."""
    header = read_header(Path(teacher.path))
    ranges = declared_ranges(header.encoding, where=f"`{teacher.path}`")
    if any(data.value_ranges) or not any(ranges):
        return data
    if teacher.direction != data.direction:
        ranges = ranges[::-1]
    return replace(data, value_range_a=ranges[0], value_range_b=ranges[1])


def _take_over(method: Method, start: Path) -> None:
    """Weights of what learns, from another supernet."""
    path = find_model(start)
    with open_model(path) as file:
        if file.header.method != Distillation.name:
            raise CheckpointError(f"`{path}` is a model of `{file.header.method}`, not a supernet.")
        for name in method.adam():
            own = {
                weight.removeprefix(f"{name}."): tensor
                for weight, tensor in file.tensors(f"{name}.").items()
            }
            load_strictly(method.get_submodule(name), own, source=f"`{path}`, network {name},")


def _teacher(
    path: Path, direction: Direction, methods: Mapping[str, type[Method]] | None
) -> ResNetGenerator:
    method = Translator.load(path, methods=methods, direction=direction, device="cpu").method
    name = method.translating[-1 if direction == "BtoA" else 0]
    generator = method.get_submodule(name)
    if not isinstance(generator, ResNetGenerator):
        raise ConfigError(
            f"`{path}` is a model of `{method.name}`, whose generator is a "
            f"{type(generator).__name__}. A teacher is a residual generator, such as those of cut, "
            "cyclegan and semantic-relation."
        )
    return generator


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def search(
    scoring: ScoringConfig,
    config: SearchConfig,
    output: Path,
    *,
    space: str | None = None,
    size: int | None = None,
    workers: int = 1,
    overwrite: bool = False,
    on_generation: Callable[[Candidate], None] = lambda _: None,
    on_scored: OnScored = lambda *_: None,
) -> tuple[EvolutionSearch, Candidate]:
    """Search the widths of a supernet; `output` receives the state and a plot.

    Args:
        scoring: which supernet, and how its configurations are scored.
        config: of the search.
        output: folder of `search.json`, which is continued if it is there, and `pareto.png`.
        space: where to search; the space that the supernet was trained with unless given.
        size: of the image whose cost is counted; that of training unless given.
        workers: processes that score.
        overwrite: forget what the folder holds.
        on_generation: told the best so far.
        on_scored: told how far a generation is.

    Raises:
        ConfigError: the budget is below the cheapest configuration (found before anything is
            scored), the space is wider than the supernet, or nothing can be scored.
        InUseError: another process searches into `output`.
        PatchkinError: the run or the data does not allow it.
    """
    supernet, header = open_supernet(scoring.run, which=scoring.which)
    found = SearchSpace.parse(space) if space is not None else supernet.space
    supernet.G.checked(found.largest)
    in_channels, out_channels = supernet.channels
    fitness = RunFitness(scoring)

    def planned(described: dict[str, Any], *, higher_is_better: bool) -> EvolutionSearch:
        return EvolutionSearch(
            found,
            config,
            height=size or header.height_width[0],
            width=size or header.height_width[1],
            in_channels=in_channels,
            out_channels=out_channels,
            higher_is_better=higher_is_better,
            described=described,
        )

    planned({}, higher_is_better=False)  # an impossible budget is told before data is read
    if scoring.score is not None:
        fitness(found.smallest)  # so is a score that there is not
    described = {
        "supernet": _sha256(find_model(scoring.run, which=scoring.which)),
        "scored": {
            "score": fitness.name,
            "data": scoring.data,
            "protocol": scoring.protocol if scoring.extractor_weights is not None else None,
            "judge": scoring.judge,
        },
    }
    evolution = planned(described, higher_is_better=fitness.higher_is_better)
    state_file = output / STATE_FILE
    with storage_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    with FolderLock(output, remedy="choose another --output"):
        if overwrite:
            with storage_errors(state_file):
                state_file.unlink(missing_ok=True)
        best = evolution.run(
            fitness,
            state_file=state_file,
            workers=workers,
            on_generation=on_generation,
            on_scored=on_scored,
        )
        write_plot(evolution, best, fitness.name, output / PLOT_FILE)
    return evolution, best


def write_plot(evolution: EvolutionSearch, best: Candidate, score: str, path: Path) -> None:
    """Score against cost of all that were scored, and the line of the best at each cost.

    Raises:
        StorageError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def points(candidates: list[Candidate]) -> tuple[list[float], list[float]]:
        finite = [c for c in candidates if math.isfinite(c.score)]
        convention = evolution.config.convention
        return [c.cost.counted(convention) / 1e9 for c in finite], [c.score for c in finite]

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(*points(evolution.candidates()), s=9, color="0.7", label="scored")
    axes.plot(*points(evolution.pareto()), marker="o", ms=4, label="best at its cost")
    axes.scatter(*points([best]), marker="*", s=160, color="tab:red", zorder=3,
                 label=format_channels(best.channels))  # fmt: skip
    axes.set_xlabel(f"10⁹ MACs of one image ({evolution.config.convention} count)")
    better = "higher" if evolution.higher_is_better else "lower"
    axes.set_ylabel(f"{score} ({better} is better)")
    axes.grid(alpha=0.3)
    axes.legend()
    with new_file(path) as part:
        figure.savefig(part, dpi=120, format="png")


def found_best(folder: Path) -> Channels:
    """The best configuration that a search wrote into a folder.

    Raises:
        CheckpointError: there is no search with a generation done.
    """
    path = folder / STATE_FILE
    try:
        return parse_channels(parsed(path.read_text(encoding="utf-8"))["parents"][0])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"`{path}` holds no finished search. Run `patchkin compress search`, or name a "
            "configuration with --channels."
        ) from error


# Cost of any model


Runtime = Literal["torch", "onnx"]
"""What runs a network: torch on a device, or ONNX Runtime on the CPU."""


class _Translation(nn.Module):
    """What a model does to images, as a network."""

    def __init__(self, method: Method, direction: Direction) -> None:
        super().__init__()
        self.method, self.direction = method, direction

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images of the target domain."""
        if self.direction == "AtoB":
            return self.method.translate(x_BCHW)
        # Only methods with both directions are opened with it.
        return self.method.translate(x_BCHW, direction="BtoA")  # type: ignore[call-arg]


@dataclass(frozen=True, eq=False)
class Costed:
    """A model whose translations are counted and timed."""

    model: Path
    method: str
    channels: str | None
    """The configuration, of a compressed generator."""
    network: nn.Module
    in_channels: int
    size: Sides
    """Of the image, in pixels."""

    @classmethod
    def open(
        cls,
        model: Path,
        *,
        size: Sides = 256,
        direction: Direction = "AtoB",
        which: Literal["last", "best"] = "last",
        device: Device = "cpu",
        methods: Mapping[str, type[Method]] | None = None,
    ) -> Costed:
        """A run folder, a checkpoint or a file. A supernet counts at its widest configuration.

        Raises:
            ConfigError: the size is below what the generator takes, or it has no such direction.
            CheckpointError: nothing is there, or it does not fit its own header.
        """
        translator = Translator.load(
            model, methods=methods, direction=direction, which=which, device=device
        )
        method = translator.method
        if isinstance(method, Distillation):
            method = compressed(method, method.space.largest)
        elif isinstance(method, OnlineDistillation):
            method = alone(method)
        smallest = min(height_width(size))
        if smallest < max(1, method.min_size):
            raise ConfigError(
                f"--size {smallest}: `{model}` takes images of at least {method.min_size} pixels."
            )
        channels = None
        if isinstance(method, CompressedResNet):
            channels = format_channels(method.config.channels)
        network = _Translation(method, direction).eval()
        return cls(model, method.name, channels, network, translator.channels[0], size)

    def cost(self) -> Cost:
        """Of one translation; parameters are those that it uses."""
        height, width = height_width(self.size)
        return network_cost(self.network, height=height, width=width, in_channels=self.in_channels)

    def call(self, runtime: Runtime) -> Callable[[], Tensor]:
        """One translation in a runtime, to be timed.

        Raises:
            ConfigError: the runtime is not installed, or cannot run the network.
        """
        make = torch_call
        if runtime == "onnx":
            from patchkin.compression.onnx_timing import onnx_call as make
        height, width = height_width(self.size)
        return make(self.network, height=height, width=width, in_channels=self.in_channels)


def timed(models: Mapping[str, Costed], runtime: Runtime, *, calls: int) -> dict[str, Latency]:
    """Models timed in turn in a runtime.

    Raises:
        ConfigError: as `Costed.call`, or fewer than one call.
    """
    return latencies({name: model.call(runtime) for name, model in models.items()}, calls=calls)
