"""Whole compressions: a teacher becomes a supernet, a supernet small models.

distill    a run of `Distillation` that starts from the teacher's file
search     which widths of a finished run score best within a budget
export     one of its configurations as a model of its own
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from patchkin.checkpoint import (
    ModelHeader,
    find_model,
    load_strictly,
    read_model,
    write_tensors,
)
from patchkin.compression import (
    CompressedResNet,
    CompressedResNetConfig,
    Distillation,
    DistillationConfig,
    SearchSpace,
    TeacherConfig,
)
from patchkin.compression.cost import Cost, configuration_cost
from patchkin.compression.search import STATE_FILE, Candidate, EvolutionSearch, SearchConfig
from patchkin.config import from_plain, read_yaml, to_plain
from patchkin.data.config import DataConfig
from patchkin.data.layouts import find_domains
from patchkin.devices import Device
from patchkin.errors import CheckpointError, ConfigError, StorageError
from patchkin.evaluation import HIGHER_IS_BETTER
from patchkin.method import Direction, Method, translating_mode
from patchkin.networks import ResNetGenerator
from patchkin.networks.separable import Channels, format_channels, parse_channels
from patchkin.recipes import (
    PairedRun,
    RunConfig,
    UnpairedRun,
    config_from_plain,
    preset_config,
    train,
)
from patchkin.training import Scorer, TrainingConfig
from patchkin.translator import Translator

logger = logging.getLogger(__name__)

PLOT_FILE = "pareto.png"
TRUTH_DISTANCE = "truth_distance"
"""Mean absolute difference from the truth, 0 to 255: how paired data is scored."""


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
        path=str(path),
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
    methods: Mapping[str, type[Method]] | None = None,
) -> Path | None:
    """Train a supernet; `patchkin.recipes.train` whose teacher comes from its file.

    The teacher's weights are part of every checkpoint (45 MB for a published one), so a run goes
    on, and stays what it was, without the file.

    Args:
        config: of the run, with a teacher of `read_teacher`.
        run_dir: folder of the run.
        start: another supernet whose student, discriminator, adaptors and heads this one starts
            from, such as to fine-tune one configuration. The released code starts from student and
            discriminator alone, since it keeps no heads.
        resume: as `patchkin.recipes.train`.
        overwrite: as `patchkin.recipes.train`.
        methods: known methods by name; those of patchkin unless given.

    Raises:
        CheckpointError: the teacher's file is not what it was when the settings were made, or
            `start` does not fit.
        PatchkinError: as `patchkin.recipes.train`.
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

    return train(Distillation, config, run_dir, resume=resume, overwrite=overwrite, begin=begin)


def _take_over(method: Method, start: Path) -> None:
    """Weights of what learns, from another supernet."""
    path = find_model(start)
    header, tensors = read_model(path)
    if header.method != Distillation.name:
        raise CheckpointError(f"`{path}` is a model of `{header.method}`, not a supernet.")
    for name in method.adam():
        own = {
            weight.removeprefix(f"{name}."): tensor
            for weight, tensor in tensors.items()
            if weight.startswith(f"{name}.")
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


def open_supernet(
    run: Path, *, which: Literal["last", "best"] = "last", device: Device = "cpu"
) -> tuple[Distillation, ModelHeader]:
    """The supernet of a run, a checkpoint or a file.

    Raises:
        CheckpointError: it holds none.
    """
    translator = Translator.load(run, which=which, device=device)
    if not isinstance(translator.method, Distillation) or translator.header is None:
        raise CheckpointError(
            f"`{run}` holds a model of `{translator.method.name}`, not a supernet. Make one with "
            "`patchkin compress distill TEACHER --data ROOT`."
        )
    return translator.method, translator.header


def compressed(supernet: Distillation, channels: Channels) -> CompressedResNet:
    """A configuration of a supernet as a model of its own, with copies of its weights.

    Raises:
        ConfigError: the configuration is wider than the supernet.
    """
    generator = supernet.G.export(channels)
    source, target = supernet.channels
    small = CompressedResNet(
        CompressedResNetConfig(channels=generator.channels, in_channels=source, out_channels=target)
    )
    small.G.load_state_dict(generator.state_dict())
    return small.to(next(generator.parameters()).device)


def export(
    supernet: Distillation, header: ModelHeader, channels: Channels, output: Path
) -> tuple[CompressedResNet, Cost]:
    """Write a configuration as a model file; its cost for one image of the training size.

    Raises:
        ConfigError: the configuration is wider than the supernet.
        StorageError: the file cannot be written.
        CheckpointError: what was written does not translate as the supernet does.
    """
    small = compressed(supernet, channels)
    metadata = ModelHeader(
        method=small.name,
        config=to_plain(small.config),
        step=header.step,
        size=header.size,
        encoding=header.encoding,
    ).to_metadata()
    temporary = output.with_name(f".{output.name}.unfinished")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(temporary, small.state_dict(), metadata)
        temporary.replace(output)
    except OSError as error:
        raise StorageError(f"Cannot write `{output}`: {error.strerror or error}.") from error
    _check_equal(supernet, output, small.config.channels)
    in_channels, out_channels = small.channels
    cost = configuration_cost(
        small.config.channels,
        height=header.size,
        width=header.size,
        in_channels=in_channels,
        out_channels=out_channels,
    )
    return small, cost


@torch.no_grad()
def _check_equal(supernet: Distillation, output: Path, channels: Channels) -> None:
    again = Translator.load(output, device="cpu").method
    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.rand(1, supernet.channels[0], 32, 48, generator=generator) * 2 - 1
    device = next(supernet.G.parameters()).device
    expected_BCHW = supernet.G(x_BCHW.to(device), channels).cpu()
    difference = float((again.translate(x_BCHW) - expected_BCHW).abs().max())
    if not difference <= (1e-6 if device.type == "cpu" else 1e-3):
        raise CheckpointError(
            f"`{output}` does not translate as its supernet does: they differ by {difference}."
        )


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """What a configuration is scored on: validation images, never test images."""

    run: Path
    """The run folder, checkpoint or file of the supernet."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of a run folder."""
    data: str | None = None
    """The set, instead of the one that the run was trained on."""
    protocol: str = "squeezenet-256"
    """With `weights`: how images become a Frechet distance."""
    weights: Path | None = None
    """File of that protocol's extractor. Not needed where counterparts are known (the toy set, and
    paired data)."""
    score: str | None = None
    """The score that decides, instead of the usual one."""
    device: Device = "auto"
    """Where to translate."""


@dataclass(frozen=True)
class RunFitness:
    """Scores configurations of a run's supernet. Picklable; each process opens the run once."""

    config: ScoringConfig

    def __call__(self, channels: Channels) -> float:
        """The score that decides."""
        return self.scores(channels)[self.name]

    def scores(self, channels: Channels) -> dict[str, float]:
        """All scores."""
        supernet, scorer = _opened(self.config)
        small = compressed(supernet, channels)
        with translating_mode(small):
            return scorer.score(small)

    @property
    def name(self) -> str:
        """Of the score that decides.

        Raises:
            ConfigError: nothing can be scored, or not by this name.
        """
        scorer = _opened(self.config)[1]
        name = self.config.score or scorer.primary
        if name is None:
            raise ConfigError(
                "The validation images have no known counterparts, so configurations are compared "
                "by a distance to real images: give --weights, a file of the extractor of "
                f"--protocol {self.config.protocol}."
            )
        return name

    @property
    def higher_is_better(self) -> bool:
        """Of that score."""
        return self.name.rsplit("/", 1)[-1] in HIGHER_IS_BETTER


@lru_cache(maxsize=1)
def _opened(config: ScoringConfig) -> tuple[Distillation, Scorer]:
    supernet, header = open_supernet(config.run, which=config.which, device=config.device)
    run_config = _run_config(config, supernet, header)
    source: UnpairedRun | PairedRun
    if supernet.config.paired:
        source = PairedRun(run_config, channels=supernet.channels)
        return supernet, _truth_scorer(source)
    if _were_trained_on(config):
        logger.warning(
            "The supernet was trained on the images that it is scored on. Distil with "
            "--score-every, which holds some out, or give the set a valA and a valB."
        )
    source = UnpairedRun(run_config, channels=supernet.channels)
    scorer = source.scorer()
    assert scorer is not None  # scores were asked for
    return supernet, scorer


def _run_config(
    config: ScoringConfig, supernet: Distillation, header: ModelHeader
) -> RunConfig[Any]:
    """The run's own settings where it has a folder, for the same division of the images."""
    default = preset_config(next(iter(Distillation.presets.values())))
    file = config.run / "config.yaml"
    if file.is_file():
        run = config_from_plain(Distillation, default, read_yaml(file), where=f"`{file}`")
    elif config.data is None:
        raise ConfigError(f"`{config.run}` does not say what it was trained on; give --data.")
    else:
        run = RunConfig(
            method=supernet.config, data=DataConfig(size=header.size, load_size=header.size)
        )
    data = replace(run.data, workers=0)
    if config.data is not None:
        data = replace(data, root=config.data, source=None, target=None)
    training = TrainingConfig(
        seed=run.training.seed,
        score_every=1,
        score_protocol=config.protocol,
        score_weights=config.weights,
    )
    return RunConfig(method=run.method, data=data, schedule=run.schedule, training=training)


def _were_trained_on(config: ScoringConfig) -> bool:
    """Whether the run held none of its images out of training."""
    file = config.run / "config.yaml"
    if config.data is not None or not file.is_file():
        return False
    plain = read_yaml(file)
    if plain["training"]["score_every"] > 0:
        return False
    return not find_domains(from_plain(DataConfig, plain["data"])).val_a


def _truth_scorer(run: PairedRun) -> Scorer:
    """Held-out pairs know the truth."""
    batch = run.preview_batch()
    if batch is None:
        raise ConfigError("The paired data has no image to score on.")

    def score(method: Method) -> dict[str, float]:
        device = next(method.parameters()).device
        distances: list[Tensor] = [
            (method.translate(a_CHW[None].to(device))[0].float().cpu() - b_CHW).abs().mean()
            for a_CHW, b_CHW in zip(batch.a_BCHW, batch.b_BCHW, strict=True)
        ]
        return {TRUTH_DISTANCE: 127.5 * float(torch.stack(distances).mean())}

    return Scorer(score=score, primary=TRUTH_DISTANCE, higher_is_better=False)


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

    Raises:
        ConfigError: the budget is below the cheapest configuration (found before anything is
            scored), the space is wider than the supernet, or nothing can be scored.
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
            height=size or header.size,
            width=size or header.size,
            in_channels=in_channels,
            out_channels=out_channels,
            higher_is_better=higher_is_better,
            described=described,
        )

    planned({}, higher_is_better=False)  # an impossible budget is told before data is read
    described = {
        "supernet": _sha256(find_model(scoring.run, which=scoring.which)),
        "scored": {
            "score": fitness.name,
            "data": scoring.data,
            "protocol": scoring.protocol if scoring.weights is not None else None,
        },
    }
    evolution = planned(described, higher_is_better=fitness.higher_is_better)
    state_file = output / STATE_FILE
    if overwrite:
        state_file.unlink(missing_ok=True)
    best = evolution.run(
        fitness, state_file=state_file, workers=workers, on_generation=on_generation
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise StorageError(f"Cannot write `{path}`: {error.strerror}.") from error


def found_best(folder: Path) -> Channels:
    """The best configuration that a search wrote into a folder.

    Raises:
        CheckpointError: there is no search with a generation done.
    """
    path = folder / STATE_FILE
    try:
        return parse_channels(json.loads(path.read_text(encoding="utf-8"))["parents"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise CheckpointError(
            f"`{path}` holds no finished search. Run `patchkin compress search`, or name a "
            "configuration with --channels."
        ) from error
