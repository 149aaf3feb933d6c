"""How configurations of a supernet are scored in a search: on validation images, never test ones.

By the first of these that the set and the options allow, or by the score that was named:

    segmentation    mean IoU of what a segmentation network sees in translated label maps
    truth           distance from it, for pairs; for the toy set that of tones inside the masks
    protocol        a Frechet distance to real images
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from patchkin.compression import CompressedResNet, CompressedResNetConfig, Distillation
from patchkin.config import from_plain, read_yaml
from patchkin.data.config import DataConfig
from patchkin.data.folders import cache_folder
from patchkin.data.layouts import find_domains
from patchkin.data.loading import evaluation_images
from patchkin.data.paired import PairedBatch
from patchkin.devices import Device, choose_device
from patchkin.errors import CheckpointError, ConfigError, nearest
from patchkin.images import to_uint8
from patchkin.images.limits import allow_pixels
from patchkin.method import Method, translating_mode
from patchkin.metrics.cityscapes import fetch_judge
from patchkin.metrics.segmentation import CityscapesScorer
from patchkin.networks.drn import DRNName, read_drn
from patchkin.networks.separable import Channels
from patchkin.runs.config import RunConfig, config_from_plain, preset_config
from patchkin.runs.resuming import read_record
from patchkin.runs.sources import PairedSource, UnpairedSource
from patchkin.scoring.scores import Scores, declared, find_score
from patchkin.scoring.validation import PairValidation, as_scorer, translations
from patchkin.storage.checkpoint import ModelHeader
from patchkin.training import Scorer, TrainingConfig
from patchkin.translation.translator import Translator

logger = logging.getLogger(__name__)

SEGMENTATION = "segmentation-correct"
"""What the scores of a segmentation network are called, as by `patchkin evaluate --judge`."""


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
        CompressedResNetConfig(
            channels=generator.channels,
            in_channels=source,
            out_channels=target,
            norm=generator.norm,
        )
    )
    small.G.load_state_dict(generator.state_dict())
    return small.to(next(generator.parameters()).device)


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
    """With `extractor_weights`: how images become a Frechet distance."""
    extractor_weights: Path | None = None
    """File of that protocol's extractor. Not needed where counterparts are known (the toy set, and
    paired data)."""
    judge: DRNName | None = None
    """Segmentation network that reads translations of Cityscapes label maps: its mean IoU decides.
    GAN Compression's is drn-d-105; here labels and predictions are compared at 256 x 128."""
    judge_weights: Path | None = None
    """File of its weights; downloaded unless given."""
    score: str | None = None
    """The score that decides, instead of the usual one."""
    device: Device = "auto"
    """Where to translate."""
    max_pixels: int | None = None
    """Pixels that an image may have; as the run was trained unless given."""


@dataclass(frozen=True)
class RunFitness:
    """Scores configurations of a run's supernet. Picklable; each process opens the run once."""

    config: ScoringConfig

    def __call__(self, channels: Channels) -> float:
        """The score that decides.

        Raises:
            ConfigError: there is none of this name.
        """
        scores = self.scores(channels)
        if self.name not in scores:
            raise ConfigError(f"There is no score `{self.name}`. {nearest(self.name, scores)}")
        return scores[self.name]

    def scores(self, channels: Channels) -> Scores:
        """All scores."""
        supernet, scorer = _opened(self.config)
        small = compressed(supernet, channels)
        with translating_mode(small):
            return declared(scorer.score(small))

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
                "by a distance to real images: give --extractor-weights, a file of the extractor "
                f"of --protocol {self.config.protocol}."
            )
        return name

    @property
    def higher_is_better(self) -> bool:
        """Of that score.

        Raises:
            ConfigError: neither less nor more of it is better.
        """
        score = find_score(self.name)
        if score.better is None:
            raise ConfigError(
                f"`{self.name}` cannot decide, because neither less nor more of it is better: "
                f"{score.meaning}"
            )
        return score.better == "higher"


@lru_cache(maxsize=1)
def _opened(config: ScoringConfig) -> tuple[Distillation, Scorer]:
    supernet, header = open_supernet(config.run, which=config.which, device=config.device)
    run_config = _run_config(config, supernet, header)
    if supernet.config.paired:
        pairs = _validation_pairs(config, run_config, supernet)
        scorer, inputs_BCHW = as_scorer(PairValidation(pairs=pairs)), pairs.a_BCHW
    else:
        source = UnpairedSource(
            run_config, channels=supernet.channels, multiple_of=supernet.multiple_of
        )
        found = source.scorer()
        assert found is not None  # scores were asked for
        scorer = found
        if _were_trained_on(config):
            _warn_of_training_images()
        if config.judge is None:
            return supernet, scorer
        files = source.opened.domains.val_a
        batches = evaluation_images(
            files,
            size=source.whole_size,
            channels=supernet.channels[0],
            value_range=run_config.data.value_ranges[0],
        )
        inputs_BCHW = torch.cat([batch.images_BCHW for batch in batches])
    return supernet, _judged(scorer, inputs_BCHW, config)


def _warn_of_training_images() -> None:
    logger.warning(
        "The supernet was trained on the images that it is scored on. Distil with --score-every, "
        "which holds some out, or give the set validation images."
    )


def _validation_pairs(
    config: ScoringConfig, run: RunConfig[Any], supernet: Distillation
) -> PairedBatch:
    """Those of the run, or all of the set; training pairs, with a warning, where there are none."""
    record = read_record(config.run) if config.data is None else None
    source = PairedSource(
        replace(run, training=replace(run.training, score_every=0)),  # none are held out now
        channels=supernet.channels,
        multiple_of=supernet.multiple_of,
        known_val=None if record is None else {name: part.val for name, part in record.items()},
    )
    files = source.opened.pairs.val
    if not files:
        _warn_of_training_images()
        files = source.opened.pairs.train[: run.data.validation_images]
    return source.whole(files)


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
    allow_pixels(config.max_pixels or data.max_pixels)
    if config.data is not None:
        data = replace(data, root=config.data, source=None, target=None)
    training = TrainingConfig(
        seed=run.training.seed,
        score_every=1,
        score_protocol=config.protocol,
        score_weights=config.extractor_weights,
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


def _judged(scorer: Scorer, labels_BCHW: Tensor, config: ScoringConfig) -> Scorer:
    """With what a segmentation network, if there is one, sees in translated label maps."""
    if config.judge is None:
        return scorer
    path = config.judge_weights or fetch_judge(config.judge, cache_folder() / "weights")[0]
    network = read_drn(path, config.judge).to(choose_device(config.device))
    labels = [_picture(label_CHW) for label_CHW in labels_BCHW]

    def score(method: Method) -> Scores:
        counted = CityscapesScorer()
        photos = map(_picture, translations(method, labels_BCHW))
        counted.add_photos(network, zip(labels, photos, strict=True))
        correct = counted.scores()["correct"]
        seen = {name: correct[name] for name in ("mIoU", "pixAcc", "classAcc")}
        return scorer.score(method) | {f"{SEGMENTATION}/{n}": v for n, v in seen.items()}

    return Scorer(score=score, primary=f"{SEGMENTATION}/mIoU")


def _picture(image_CHW: Tensor) -> Image.Image:
    return Image.fromarray(to_uint8(image_CHW).permute(1, 2, 0).contiguous().numpy())
