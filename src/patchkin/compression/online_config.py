"""Settings of online distillation, and what was published (OMGD, DCD).

Read in the released scripts of OMGD (2021-09) and DCD (2022-12); the papers' bodies were not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from patchkin.compression.imitation import ImitationConfig
from patchkin.config import check_not_negative, flag
from patchkin.data.config import DataConfig
from patchkin.errors import ConfigError
from patchkin.losses import AdversarialMode
from patchkin.method import Preset
from patchkin.networks import ImagePoolConfig, InitConfig, NormKind, PatchGANConfig
from patchkin.networks.separable import NUM_ENTRIES, Channels, parse_channels
from patchkin.networks.shared_patchgan import SHARED_BLOCKS
from patchkin.schedules import AdamConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineDistillationConfig(ImitationConfig):
    """Defaults are the released horse-to-zebra settings of OMGD."""

    paired: bool = False
    """Batches are pairs: the teachers learn as pix2pix does, else as CycleGAN."""
    architecture: Literal["separable", "unet"] = "separable"
    """Of student and teachers: GAN Compression's separable generator, or pix2pix' U-Net."""
    student_ngf: Annotated[int, flag("--ngf")] = 16
    """Of the student (published: 16, 12, 8)."""
    student_channels: str = ""
    """Widths of a separable student one by one, such as 16_16_32_16_16_64_16_24 (ours); all
    `student_ngf` unless given."""
    wider_ngf: int = 64
    """Of the wider teacher (published: 64; 48 beside students of 12 and 8)."""
    deeper_ngf: int = 0
    """Of the deeper teacher (published for paired data: 16; 12 beside students of 12 and 8). 0:
    there is none, as published for unpaired data."""
    levels: int = 8
    """Halvings of U-Nets: 8 for 256 pixels."""
    norm: NormKind = "instance"
    """Of student and teachers."""
    in_channels: int = 3
    """Channels of the source domain."""
    out_channels: int = 3
    """Channels of the target domain."""
    discriminator: PatchGANConfig = field(default_factory=lambda: PatchGANConfig(antialias=False))
    """Of the teachers: it judges the target domain, or pairs; with unpaired data there is another
    one for the source domain."""
    shared_blocks: int = 4
    """Of a discriminator of pairs with two teachers: blocks, counted from the image on, that judge
    both (released: n_share); 5 is one discriminator for both."""
    initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="normal"))
    """Of everything."""
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    """For the student and what adapts its maps."""
    teacher_adam: AdamConfig = field(default_factory=AdamConfig)
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    adversarial: AdversarialMode = "lsgan"
    teacher_adversarial_weight: float = 1.0
    """lambda_GAN, of the teachers."""
    pool: ImagePoolConfig = field(default_factory=ImagePoolConfig)
    """Of each discriminator of unpaired data."""
    cycle_weight_a: float = 10.0
    """lambda_A of the teachers' CycleGAN, of A -> B -> A."""
    cycle_weight_b: float = 10.0
    """lambda_B, of B -> A -> B."""
    identity_weight: float = 0.5
    """A factor on lambda_A and lambda_B."""
    reconstruction_weight: float = 100.0
    """lambda_L1 of the teachers of paired data."""
    student_steps: int = 4
    """Steps of the student for one of the teachers (released: n_dis)."""
    block: int = 10
    """Epochs (in a run counted in steps: steps) that the teachers of unpaired data learn before the
    student learns for `student_steps` times as many; and so on. 0, as with paired data: both
    learn in the same steps, the teachers in one of `student_steps`."""

    def __post_init__(self) -> None:
        ImitationConfig.__post_init__(self)
        check_not_negative(self, "deeper_ngf", "block")
        for name in ("student_ngf", "wider_ngf", "in_channels", "out_channels", "student_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if not 0 <= self.shared_blocks <= SHARED_BLOCKS:
            raise ConfigError(
                f"`shared_blocks` must be 0 to {SHARED_BLOCKS}; got {self.shared_blocks}."
            )
        self._check_networks()
        self._check_channels()

    @property
    def widths(self) -> Channels:
        """The configuration of a separable student.

        >>> OnlineDistillationConfig(student_ngf=12).widths
        (12, 12, 12, 12, 12, 12, 12, 12)
        """
        if self.student_channels:
            return parse_channels(self.student_channels)
        return (self.student_ngf,) * NUM_ENTRIES

    @property
    def blockwise(self) -> bool:
        """Whether teachers and student take turns of many steps."""
        return self.block > 0 and not self.paired

    def _check_networks(self) -> None:
        if self.discriminator.kind != "basic":
            raise ConfigError("The teachers' discriminator must be of the kind `basic`.")
        if self.architecture == "separable":
            assert self.widths
            return
        if self.student_channels:
            raise ConfigError("`student_channels` is of separable students; a U-Net has its `ngf`.")
        if self.feature_source == "encoder":
            raise ConfigError(
                "`features` encoder is of separable teachers; with U-Nets take discriminator."
            )

    def _check_channels(self) -> None:
        wanted = self.out_channels + (self.in_channels if self.paired else 0)
        if self.discriminator.in_channels != wanted:
            raise ConfigError(
                f"The discriminator judges {'source and translation' if self.paired else 'images'},"
                f" so its `in_channels` must be {wanted}; got {self.discriminator.in_channels}."
            )
        if self.feature_source in ("vgg16", "random") and self.out_channels not in (1, 3):
            raise ConfigError(
                f"VGG16 sees grey or colour images: `out_channels` must be 1 or 3; got "
                f"{self.out_channels}. Or set `features` to discriminator."
            )
        shown_other = (not self.paired and self.identity_weight > 0) or (
            self.paired and self.feature_source == "encoder"
        )
        numbers = {self.in_channels, self.out_channels}
        if shown_other and len(numbers) > 1 and 1 not in numbers:
            raise ConfigError(
                "The teachers are shown images of their target domain too, so `in_channels` and "
                "`out_channels` must be equal or one of them 1; got "
                f"{self.in_channels} and {self.out_channels}. Set `identity_weight` to 0, and "
                "`features` to discriminator."
            )


_UNPAIRED_DATA = DataConfig(jitter_in_decay=True)
_TEACHER_EPOCHS = 200
_UNPAIRED_SCHEDULE = ScheduleConfig(epochs=_TEACHER_EPOCHS * (1 + 4))
"""200 epochs of the teachers, 800 of the student."""


def _paired(
    *,
    channel_weight: float,
    student_steps: int,
    shared_blocks: int,
    unet: bool = False,
) -> OnlineDistillationConfig:
    norm: NormKind = "batch" if unet else "instance"
    return OnlineDistillationConfig(
        paired=True,
        architecture="unet" if unet else "separable",
        norm=norm,
        deeper_ngf=16,
        discriminator=PatchGANConfig(in_channels=6, ndf=128, norm=norm, antialias=False),
        shared_blocks=shared_blocks,
        adversarial="hinge",
        channel_weight=channel_weight,
        student_steps=student_steps,
    )


def _cityscapes(summary: str, method: OnlineDistillationConfig, batch_size: int) -> Preset:
    return Preset(
        summary=summary,
        method=method,
        schedule=ScheduleConfig(epochs=750, decay_fraction=450 / 750),
        data=DataConfig(direction="BtoA", jitter_in_decay=True, batch_size=batch_size),
    )


def _edges(summary: str, method: OnlineDistillationConfig) -> Preset:
    return Preset(
        summary=summary,
        method=method,
        schedule=ScheduleConfig(epochs=200),
        data=DataConfig(jitter_in_decay=True, batch_size=4),
    )


PRESETS: Mapping[str, Preset] = {
    "online": Preset(
        summary="OMGD as released for horse2zebra: 0.137 M, 1.4 G MACs, wider teacher of ngf 64, "
        "blocks of 10 epochs, 200 of the teachers + 800 of the student",
        method=OnlineDistillationConfig(),
        schedule=_UNPAIRED_SCHEDULE,
        data=_UNPAIRED_DATA,
    ),
    "online-deeper": Preset(
        summary="the same with a deeper teacher of ngf 16 beside the wider one (ours; published "
        "with paired data only)",
        method=OnlineDistillationConfig(deeper_ngf=16),
        schedule=_UNPAIRED_SCHEDULE,
        data=_UNPAIRED_DATA,
    ),
    "online-summer2winter": Preset(
        summary="OMGD as released for summer2winter: lambda_CD 100, blocks of 6 epochs",
        method=OnlineDistillationConfig(channel_weight=100.0, block=6),
        schedule=_UNPAIRED_SCHEDULE,
        data=_UNPAIRED_DATA,
    ),
    "online-dcd": Preset(
        summary="DCD for horse2zebra as its abstract means it: maps compared in the teacher's "
        "discriminator, which judges the student too; weights of its option's default",
        method=OnlineDistillationConfig(
            similarity_weight=0.0,
            variation_weight=0.0,
            channel_weight=0.0,
            discriminator_weight=1.0,
            adversarial_weight=1.0,
        ),
        schedule=_UNPAIRED_SCHEDULE,
        data=_UNPAIRED_DATA,
    ),
    "online-cityscapes": _cityscapes(
        "OMGD as released for cityscapes, labels to photos: paired, wider and deeper teacher, "
        "lambda_CD 0, 300 + 450 epochs",
        _paired(channel_weight=0.0, student_steps=3, shared_blocks=4),
        batch_size=1,
    ),
    "online-cityscapes-unet": _cityscapes(
        "the same with U-Nets, lambda_CD 50, batches of 4",
        _paired(channel_weight=50.0, student_steps=3, shared_blocks=5, unet=True),
        batch_size=4,
    ),
    "online-edges2shoes": _edges(
        "OMGD as released for edges2shoes: paired, wider and deeper teacher, lambda_CD 100, "
        "batches of 4, 100 + 100 epochs",
        _paired(channel_weight=100.0, student_steps=1, shared_blocks=3),
    ),
    "online-edges2shoes-unet": _edges(
        "the same with U-Nets, lambda_CD 10",
        _paired(channel_weight=10.0, student_steps=1, shared_blocks=5, unet=True),
    ),
    "online-toy": Preset(
        summary="a small student and wider teacher for the built-in toy set, both in every step",
        method=OnlineDistillationConfig(
            # Without a norm, as the other toy students: the colours of an image stay (ours). With
            # a student's rate of 2e-3 and lambda_CD 500 all translations were one picture after 200
            # steps; which of the two did it was not tried, nor a whole run with these.
            student_ngf=8,
            wider_ngf=16,
            norm="none",
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=1.0),
            generator_adam=AdamConfig(learning_rate=5e-4),
            teacher_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            pool=ImagePoolConfig(side=64),
            channel_weight=1.0,
            student_steps=1,
            block=0,
        ),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64, workers=0),
    ),
}
"""By name; all of them begin with the first."""
