"""Distillation of a once-for-all student: GAN Compression (Li et al., CVPR 2020, arXiv 2003.08936;
its "fast" pipeline), with the semantic relations of Jung, Kwon and Ye, CVPR 2022, Sec. 4.3.

A frozen teacher T, a supernet G whose widths are drawn anew at every step, a discriminator D:

    L_G = lambda_GAN L_GAN(D(G(a))) + lambda_recon |G(a) - y|
        + lambda_distill sum_l |A_l(S_l) - T_l|^2
        + sum_l [ lambda_SRC L_SRC + lambda_dce L_hDCE ](F_l(S_l), F_l(T_l)),

where y is the truth for paired data and T(a) for unpaired, S_l and T_l are maps of student and
teacher behind the second strided layer and after each third of the residual blocks, the A_l are
1 x 1 convolutions and the F_l heads that student and teacher share. The teacher is the key.

Differs from the paper: its text weights each negative's exponential, the released code (and this
one) the similarity inside; its gamma multiplies, ours divides, as released. Released, the relations
work for one image and 256 places only, and for teachers no wider than the student; here they are
per-image definitions, and `heads="separate"` gives the teacher a head of its own. Feature distances
and relations are summed over the four maps, as released.

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, NamedTuple, final

import torch
import torch.nn.functional as nnf
from torch import Tensor
from typing_extensions import Self

from patchkin.compression.space import SearchSpace
from patchkin.compression.teacher import TeacherConfig, teacher_taps
from patchkin.config import check_positive, flag, no_flag
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.data.paired import PairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import (
    AdversarialMode,
    Contrast,
    fake_loss,
    generator_loss,
    patch_contrasts,
    pixel_distance,
    real_loss,
    relation_consistency,
)
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    InitConfig,
    PatchGANConfig,
    ResNetGenerator,
    discriminator,
    initialize,
    judge_together,
)
from patchkin.networks.separable import MAPPING_TAPS, MULTIPLIERS, Channels, SeparableNorm
from patchkin.networks.sliced import Adaptors, SlicedHeads
from patchkin.networks.supernet import Supernet
from patchkin.numerics import widened, without_autocast
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.patches import (
    HardNegativesConfig,
    check_places,
    chosen_places,
    embedded_pairs,
    hardness,
)

_TRUNK = MULTIPLIERS[2]
_NUM_TAPS = len(MAPPING_TAPS)
_LOGGED_TEMPERATURE = 0.07
"""The released log shows hDCE as InfoNCE at this temperature, whatever the loss has."""

Batch = UnpairedBatch | PairedBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationConfig(HardNegativesConfig):
    """Defaults are the released horse-to-zebra settings."""

    teacher: Annotated[TeacherConfig, no_flag()] = field(default_factory=TeacherConfig)
    student_ngf: Annotated[int, flag("--ngf")] = 64
    """Entries of the widest configuration."""
    student_norm: SeparableNorm = "instance"
    """After the student's convolutions. Published: instance, as in the teachers. A student without
    goes with a teacher without: instance norm takes away what the colours of an image are."""
    space: str = "channels-64-cyclegan"
    """Configurations that are drawn from: a name, or widths written out
    (`patchkin.compression.space`). One configuration alone is trained as it is (fine-tuning)."""
    sampling: Literal["random", "sandwich"] = "random"
    """One configuration a step, as published; or the widest, the narrowest and a random one, whose
    losses are averaged (Yu and Huang 2019), at three times the cost."""
    paired: bool = False
    """Batches are pairs: the truth is the target, and the discriminator sees the source too."""
    discriminator: PatchGANConfig = field(default_factory=lambda: PatchGANConfig(antialias=False))
    initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="normal"))
    """Of everything that learns."""
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    """For the student, the adaptors and the heads."""
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    adversarial: AdversarialMode = "lsgan"
    adversarial_weight: float = 1.0
    """lambda_GAN."""
    reconstruction: Literal["l1", "l2", "smooth_l1"] = "l1"
    """Distance of the student's image from the target."""
    reconstruction_weight: float = 10.0
    """lambda_recon."""
    distillation_weight: float = 0.01
    """lambda_distill, of the squared distances of adapted maps; 0 leaves out the adaptors."""
    relation_weight: float = 10.0
    """lambda_SRC. Published: 10 on a sum over patches, 200 times that of single-modal horse2zebra,
    so that it rules the loss. 0 switches SRC off."""
    relation_reduction: Literal["sum", "mean"] = "sum"
    """Over the patches. `mean` with lambda_SRC * num_patches is the same."""
    contrast_weight: float = 0.1
    """lambda_dce. 0 switches hDCE off."""
    temperature: float = 0.07
    """tau of hDCE (released: nce_T)."""
    heads: Literal["shared", "separate"] = "shared"
    """One head for student and teacher, as released; or a fixed random one for the teacher."""

    def __post_init__(self) -> None:
        largest = max(SearchSpace.parse(self.space).largest)
        if largest > self.student_ngf:
            raise ConfigError(
                f"The space `{self.space}` has widths up to {largest}, but `student_ngf` is "
                f"{self.student_ngf}. Raise it to {largest}, or choose a narrower space."
            )
        HardNegativesConfig.__post_init__(self)
        check_positive(self, "temperature")
        check_places(
            self,
            self.attention.taps or (),  # the teacher may be known later
            discriminator=self.discriminator,
            adversarial_weight=self.adversarial_weight,
        )
        if self.num_patches < 2:
            raise ConfigError(f"`num_patches` must be at least 2; got {self.num_patches}.")
        images = self.teacher.generator.out_channels
        wanted = images + self.teacher.generator.in_channels if self.paired else images
        if self.discriminator.in_channels != wanted:
            raise ConfigError(
                f"The discriminator judges {'source and translation' if self.paired else 'images'},"
                f" so its `in_channels` must be {wanted}; got {self.discriminator.in_channels}."
            )


_PAIRED = DistillationConfig(
    paired=True,
    space="channels-64-pix2pix",
    discriminator=PatchGANConfig(in_channels=6, ndf=128, antialias=False),
    adversarial="hinge",
)
_PAIRED_DATA = DataConfig(direction="BtoA", jitter_in_decay=True)

PRESETS: Mapping[str, Preset] = {
    "horse2zebra": Preset(
        summary="published: unpaired, lambda_recon 10, lambda_distill 0.01, 200 + 200 epochs",
        method=DistillationConfig(),
        data=DataConfig(jitter_in_decay=True),
    ),
    "map2sat": Preset(
        summary="published, maps to photos: paired, hinge, as horse2zebra, 200 + 400 epochs",
        method=_PAIRED,
        schedule=ScheduleConfig(epochs=600, decay_fraction=400 / 600),
        data=_PAIRED_DATA,
    ),
    "cityscapes": Preset(
        summary="published, labels to photos: lambda_recon 100, lambda_distill 1, 200 + 300 epochs",
        method=replace(_PAIRED, reconstruction_weight=100.0, distillation_weight=1.0),
        schedule=ScheduleConfig(epochs=500, decay_fraction=300 / 500),
        data=_PAIRED_DATA,
    ),
    "toy": Preset(
        summary="a small student for the built-in toy set, minutes on a CPU",
        method=DistillationConfig(
            # Without a norm, as the toy teacher. A heavier reconstruction smooths the stripes away,
            # a heavier distillation shortens the way (benchmarks/small).
            student_ngf=16,
            student_norm="none",
            space="toy",
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=1.0),
            generator_adam=AdamConfig(learning_rate=2e-3),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            reconstruction_weight=5.0,
            distillation_weight=1.0,
            num_patches=64,
        ),
        schedule=ScheduleConfig(steps=1500),
        data=DataConfig(size=64, load_size=64, workers=0),
    ),
}


class _View(NamedTuple):
    """What a network makes of the source images."""

    image_BCHW: Tensor
    maps: list[Tensor]
    """At the mapping taps."""


@final
class Distillation(Method):
    """A supernet that learns from a frozen teacher; what `patchkin compress distill` trains."""

    name: ClassVar[str] = "distillation"
    paper: ClassVar[str] = "Li et al., CVPR 2020 (arXiv 2003.08936); Jung et al., CVPR 2022"
    config_type: ClassVar[type] = DistillationConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: DistillationConfig

    def __init__(self, config: DistillationConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DistillationConfig()
        if config.paired:  # the one setting that decides what a batch is
            self.batch_type = PairedBatch  # type: ignore[misc]
        self.space = SearchSpace.parse(config.space)
        teacher = config.teacher.generator
        self.channels = (teacher.in_channels, teacher.out_channels)
        self.T = ResNetGenerator(teacher)
        self.G = Supernet(config.student_ngf, *self.channels, norm=config.student_norm)
        self.D = discriminator(config.discriminator)
        student_width, teacher_width = _TRUNK * config.student_ngf, _TRUNK * teacher.ngf
        if config.distillation_weight:
            self.A = Adaptors(_NUM_TAPS, student_width, teacher_width)
        self.contrast = Contrast(
            form="dce",
            negatives=config.resolved_negatives(),
            temperature=config.temperature,
            transport=config.transport,
        )
        self.logged_contrast = replace(self.contrast, form="nce", temperature=_LOGGED_TEMPERATURE)
        if config.relation_weight or config.contrast_weight:
            self._add_heads(student_width, teacher_width)
        for name in self.adam():
            initialize(self.get_submodule(name), config.initialization)
        self.T.requires_grad_(False).eval()
        config.attention.routed(teacher_taps(teacher))
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.T.min_size, self.G.min_size, self.D.min_size)

    def _add_heads(self, student_width: int, teacher_width: int) -> None:
        if self.config.heads == "shared":
            widest = max(student_width, teacher_width)
            self.F = SlicedHeads(_NUM_TAPS, widest, teacher_width)
            return
        self.F = SlicedHeads(_NUM_TAPS, student_width, teacher_width)
        # Keys carry no gradient, so a head of the teacher's own cannot learn. It is drawn with
        # gain 1: a random projection keeps the similarities of the rows.
        self.F_teacher = SlicedHeads(_NUM_TAPS, teacher_width, teacher_width)
        initialize(self.F_teacher, InitConfig(gain=1.0))

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but for the teacher, which stays as it translates."""
        super().train(mode)
        self.T.eval()
        return self

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network that there is; the teacher has none."""
        generator, judge = self.config.generator_adam, self.config.discriminator_adam
        learning = {name: generator for name in ("G", "A", "F") if hasattr(self, name)}
        return {**learning, "D": judge}

    def train_step(self, batch: Batch, update: Update, progress: Progress) -> None:
        """Student, adaptors and heads against the discriminator as it is; then that one."""
        teacher = self._taught(batch.a_BCHW)
        students = [
            _View(*self.G.forward_with_taps(batch.a_BCHW, channels))
            for channels in self.configurations(progress.draws)
        ]

        def generator_terms() -> Terms:
            parts = [self._generator_terms(batch, s, teacher, progress) for s in students]
            terms, reported = (_means(part) for part in zip(*parts, strict=True))
            update.report(**reported)
            return terms

        update(*(name for name in self.adam() if name != "D"), loss=generator_terms)
        fakes_BCHW = [student.image_BCHW.detach() for student in students]
        update("D", loss=lambda: self._discriminator_terms(batch, fakes_BCHW))

    def configurations(self, draws: Draws) -> list[Channels]:
        """The configurations of a step."""
        drawn = self.space.drawn(draws.integer)
        if self.config.sampling == "sandwich":
            return [self.space.largest, self.space.smallest, drawn]
        return [drawn]

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x) at the widest configuration of the space."""
        y_BCHW: Tensor = self.G(x_BCHW, self.space.largest)
        return y_BCHW

    def previews(self, batch: Batch) -> dict[str, Tensor]:
        """Input, the widest and the narrowest student, the teacher."""
        return {
            "input": batch.a_BCHW,
            "translated": self.translate(batch.a_BCHW),
            "narrowest": self.G(batch.a_BCHW, self.space.smallest),
            "teacher": self._taught(batch.a_BCHW).image_BCHW,
        }

    def gamma_divisor(self, progress: Progress) -> float:
        """The hardness of the negatives at this point of the curriculum."""
        return hardness(self.config, progress.fraction)

    @torch.no_grad()
    def _taught(self, x_BCHW: Tensor) -> _View:
        taps = teacher_taps(self.config.teacher.generator)
        return _View(*self.T.forward_with_taps(x_BCHW.clamp(-1, 1), taps))

    def _judged(self, batch: Batch, image_BCHW: Tensor) -> Tensor:
        """What the discriminator sees of an image: with paired data the source too."""
        if not self.config.paired:
            return image_BCHW
        return torch.cat([batch.a_BCHW, image_BCHW], dim=1)

    def _discriminator_terms(self, batch: Batch, fakes_BCHW: list[Tensor]) -> Terms:
        fake_logits, real_logits = judge_together(
            self.D,
            torch.cat([self._judged(batch, fake_BCHW) for fake_BCHW in fakes_BCHW]),
            self._judged(batch, batch.b_BCHW),
        )
        mode = self.config.adversarial
        return {
            "fake": 0.5 * fake_loss(mode, fake_logits),
            "real": 0.5 * real_loss(mode, real_logits),
        }

    def _generator_terms(
        self, batch: Batch, student: _View, teacher: _View, progress: Progress
    ) -> tuple[Terms, Terms]:
        """The terms of one configuration, and what is only logged."""
        config = self.config
        logits = self.D(self._judged(batch, student.image_BCHW))
        target_BCHW = batch.b_BCHW if config.paired else teacher.image_BCHW
        distance = _DISTANCES[config.reconstruction](student.image_BCHW, target_BCHW)
        terms = {
            "adversarial": config.adversarial_weight * generator_loss(config.adversarial, logits),
            "reconstruction": config.reconstruction_weight * distance,
        }
        reported: Terms = {}
        if config.distillation_weight:
            pairs = zip(self.A(student.maps), teacher.maps, strict=True)
            distances = [_squared_distance(*pair) for pair in pairs]
            terms["distillation"] = config.distillation_weight * torch.stack(distances).sum()
            reported |= _numbered("distillation", distances)
        if config.relation_weight or config.contrast_weight:
            semantic, logged = self._semantic_terms(
                student.maps, teacher.maps, logits.detach(), progress
            )
            terms |= semantic
            reported |= logged
        return terms, reported

    def _semantic_terms(
        self,
        student_maps: list[Tensor],
        teacher_maps: list[Tensor],
        logits_BNhw: Tensor,
        progress: Progress,
    ) -> tuple[Terms, Terms]:
        """SRC and hDCE of the student's patches (w) against the teacher's (z), summed over taps."""
        config = self.config
        terms: Terms = {}
        reported: Terms = {}
        pairs = embedded_pairs(
            student_maps,
            teacher_maps,
            chosen_places(
                teacher_maps,
                teacher_taps(config.teacher.generator),
                config,
                progress.draws,
                logits_BNhw=logits_BNhw,
            ),
            query_head=self.F,
            key_head=self.F if config.heads == "shared" else self.F_teacher,
        )
        if config.relation_weight:
            relations = [
                config.relation_weight
                * relation_consistency(*pair, reduction=config.relation_reduction)
                for pair in pairs
            ]
            terms["relation"] = torch.stack(relations).sum()
            reported |= _numbered("relation", relations)
        if config.contrast_weight:
            contrasts = self._contrasts(pairs, self.contrast, progress)
            terms["contrast"] = config.contrast_weight * torch.stack(contrasts).sum()
            with torch.no_grad():
                logged = self._contrasts(pairs, self.logged_contrast, progress)
            as_nce = [config.contrast_weight * loss for loss in logged]
            reported |= _numbered("contrast_as_nce", as_nce)
            reported["contrast_as_nce"] = torch.stack(as_nce).sum()
        return terms, reported

    def _contrasts(
        self, pairs: list[tuple[Tensor, Tensor]], contrast: Contrast, progress: Progress
    ) -> list[Tensor]:
        """Of each tap, the mean over places and images."""
        gamma_divisor = self.gamma_divisor(progress)
        losses = patch_contrasts(pairs, contrast, gamma_divisor=gamma_divisor)
        return [loss_BK.mean() for loss_BK in losses]


def _squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    with without_autocast(student):
        return nnf.mse_loss(widened(student), widened(teacher))


def _smooth_distance(student: Tensor, teacher: Tensor) -> Tensor:
    with without_autocast(student):
        return nnf.smooth_l1_loss(widened(student), widened(teacher))


_DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": pixel_distance,
    "l2": _squared_distance,
    "smooth_l1": _smooth_distance,
}


def _numbered(name: str, values: list[Tensor]) -> Terms:
    return {f"{name}_{tap}": value for tap, value in enumerate(values)}


def _means(parts: tuple[Terms, ...]) -> Terms:
    """Terms of several configurations, averaged."""
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
