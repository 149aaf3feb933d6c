"""Online distillation of a small generator: teachers learn beside the student that copies them.

OMGD (Ren, Wu, Xiao and Yang, ICCV 2021, arXiv 2108.06908). A wider teacher T and, with paired data,
a deeper one learn against discriminators; the student G, narrow from the start, sees neither these
nor the truth. For the image t of each teacher, and the wider one's maps T_l,

    L_G = sum_t [ lambda_SSIM (1 - SSIM(G(a), t)) + lambda_style sum_l |Gram_l(G(a)) - Gram_l(t)|
                  + lambda_feature |f(G(a)) - f(t)| + lambda_tv TV(G(a)) ]
          + lambda_CD sum_l |mean A_l(G_l) - mean T_l|^2.

DCD (Hu et al., CVPR 2023, arXiv 2212.14169) drops SSIM, TV and the channel means: convolutions S_l
and P_l make images of the maps of student and teacher, which are compared in the last map of the
teacher's discriminator; and that discriminator judges the student.

Read were the released codes and abstracts, not the bodies of the papers. Differs from the release:
between two blocks that takes the teacher of the best Frechet distance on *test* images, ours is the
teacher as it stands; the student's learning rate falls over the run, released with the teacher's
epoch; the deeper teacher of unpaired data is ours, and so are features that are not VGG16's.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import Self

from patchkin.compression.imitation import View, feature_terms, image_terms, summed_over_taps
from patchkin.compression.online_config import PRESETS, OnlineDistillationConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.data.paired import PairedBatch
from patchkin.losses import fake_loss, generator_loss, pixel_distance, real_loss
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    ImagePool,
    PatchGAN,
    SeparableGenerator,
    UNet,
    UNetConfig,
    initialize,
    match_channels,
)
from patchkin.networks.adaptors import NormedAdaptors
from patchkin.networks.deeper import DeeperGenerator, deeper_unet
from patchkin.networks.separable import MAPPING_TAPS, MULTIPLIERS, NUM_ENTRIES
from patchkin.networks.shared_patchgan import SharedPatchGAN
from patchkin.networks.unet import UNET_TAP_WIDTHS
from patchkin.schedules import AdamConfig
from patchkin.terms.adversary import adversarial_terms
from patchkin.terms.identity import identity_terms
from patchkin.terms.two_sided import two_sided_adversarial_terms, two_sided_discriminator_terms

_ENCODER_TAPS = (3, 6, 9, 12)
"""Of a teacher whose encoder is what sees: its first three ReLUs and its third block."""
_SUFFIXES = ("", "_deeper")
"""Of the terms of a teacher."""

Batch = UnpairedBatch | PairedBatch


@final
class OnlineDistillation(Method):
    """What `patchkin compress distill --preset online` trains.

    G is the student, T the wider teacher, T_deep the deeper one, T_back the way back of unpaired
    data; D judges pairs, D_B and D_A the two domains; A adapts the student's maps (OMGD), S and P
    make images of the student's and the teacher's (DCD).
    """

    name: ClassVar[str] = "online-distillation"
    paper: ClassVar[str] = "Ren et al., ICCV 2021 (arXiv 2108.06908); Hu et al., CVPR 2023"
    differs: ClassVar[str] = (
        "the release picks teachers by test images between blocks; here the student copies the "
        "teacher as it stands"
    )
    config_type: ClassVar[type] = OnlineDistillationConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: OnlineDistillationConfig

    def __init__(self, config: OnlineDistillationConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OnlineDistillationConfig()
        if config.paired:  # the one setting that decides what a batch is
            self.batch_type = PairedBatch  # type: ignore[misc]
        self.channels = (config.in_channels, config.out_channels)
        self.G = self._student()
        self.T = self._wider(*self.channels)
        if config.deeper_ngf:
            self.T_deep = self._deeper()
        if config.paired:
            self.D = (
                SharedPatchGAN(config.discriminator, config.shared_blocks)
                if config.deeper_ngf
                else PatchGAN(config.discriminator)
            )
        else:
            self._add_cycle()
        self._add_adaptors()
        for network in self.children():
            initialize(network, config.initialization)
        vgg = config.vgg()
        if vgg is not None:
            self.vgg = vgg
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        smallest = self._judge().min_size
        # The images that DCD makes of maps have a quarter of the sides.
        seen = 4 * smallest if config.discriminator_weight else smallest
        self.min_training_size = max(self.G.min_size, seen, vgg.min_size if vgg else 1)
        self.train()

    def _student(self) -> SeparableGenerator | UNet:
        config = self.config
        if config.architecture == "unet":
            return UNet(self._unet(config.student_ngf))
        # Released, only the networks of GAN Compression clamp what they are given.
        return SeparableGenerator(config.widths, *self.channels, clamp=False, norm=config.norm)

    def _wider(self, in_channels: int, out_channels: int) -> SeparableGenerator | UNet:
        config = self.config
        if config.architecture == "unet":
            unet = self._unet(config.wider_ngf)
            return UNet(replace(unet, in_channels=in_channels, out_channels=out_channels))
        widths = (config.wider_ngf,) * NUM_ENTRIES
        return SeparableGenerator(widths, in_channels, out_channels, clamp=False, norm=config.norm)

    def _deeper(self) -> DeeperGenerator | UNet:
        config = self.config
        if config.architecture == "unet":
            return deeper_unet(self._unet(config.deeper_ngf))
        return DeeperGenerator(config.deeper_ngf, *self.channels, norm=config.norm)

    def _unet(self, ngf: int) -> UNetConfig:
        config = self.config
        return UNetConfig(
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            ngf=ngf,
            levels=config.levels,
            norm=config.norm,
            dropout=False,
        )

    def _add_cycle(self) -> None:
        config = self.config
        self.T_back = self._wider(config.out_channels, config.in_channels)
        self.D_B = PatchGAN(config.discriminator)
        self.D_A = PatchGAN(replace(config.discriminator, in_channels=config.in_channels))
        self.pool_B = ImagePool(config.out_channels, config.pool)
        self.pool_A = ImagePool(config.in_channels, config.pool)
        if config.deeper_ngf:
            self.pool_deep = ImagePool(config.out_channels, config.pool)

    def _add_adaptors(self) -> None:
        config = self.config
        if config.architecture == "unet":
            own, theirs = (
                [width * ngf for width in UNET_TAP_WIDTHS]
                for ngf in (config.student_ngf, config.wider_ngf)
            )
        else:
            trunk = MULTIPLIERS[2]
            own = [trunk * config.widths[2]] * len(MAPPING_TAPS)
            theirs = [trunk * config.wider_ngf] * len(MAPPING_TAPS)
        if config.channel_weight:
            self.A = NormedAdaptors(own, theirs)
        if config.discriminator_weight:
            judged = [config.discriminator.in_channels] * len(own)
            self.S, self.P = NormedAdaptors(own, judged), NormedAdaptors(theirs, judged)
            if not config.paired:  # released, a fixed random projection
                self.P.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but for the teacher's fixed projections."""
        super().train(mode)
        if self.config.discriminator_weight and not self.config.paired:
            self.P.eval()
        return self

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network that learns."""
        config = self.config
        students = dict.fromkeys(self._copying(), config.generator_adam)
        teachers = dict.fromkeys(self._teaching(), config.teacher_adam)
        return students | teachers | dict.fromkeys(self._judging(), config.discriminator_adam)

    def _copying(self) -> list[str]:
        """What learns with the student. DCD's P does so with paired data, as released."""
        names = ("G", "A", "S", "P") if self.config.paired else ("G", "A", "S")
        return [name for name in names if hasattr(self, name)]

    def _teaching(self) -> list[str]:
        return [name for name in ("T", "T_deep", "T_back") if hasattr(self, name)]

    def _judging(self) -> list[str]:
        return [name for name in ("D", "D_B", "D_A") if hasattr(self, name)]

    def _judge(self) -> PatchGAN | SharedPatchGAN:
        """The discriminator of translations."""
        return self.D if self.config.paired else self.D_B

    def train_step(self, batch: Batch, update: Update, progress: Progress) -> None:
        """Teachers against the discriminators as they are; these; then the student, on what the
        teachers gave before they stepped.
        """
        teaches, copies = self.turns(progress)
        with torch.set_grad_enabled(teaches):
            teachers = [View(*self.T.forward_with_taps(batch.a_BCHW))]
            if self.config.deeper_ngf:
                teachers.append(View(self.T_deep(batch.a_BCHW)))
        if teaches and self.config.paired:
            self._teach_pairs(batch, teachers, update)
        elif teaches:
            assert isinstance(batch, UnpairedBatch)
            self._teach_cycle(batch, teachers, update, progress)
        if copies:
            taught = [teacher.constant() for teacher in teachers]
            update(*self._copying(), loss=lambda: self._student_terms(batch, taught))

    def turns(self, progress: Progress) -> tuple[bool, bool]:
        """Whether the teachers learn in this step, and whether the student does."""
        config = self.config
        if config.blockwise:
            place = (progress.unit - 1) % (config.block * (1 + config.student_steps))
            return place < config.block, place >= config.block
        return (progress.step + 1) % config.student_steps == 0, True

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x)."""
        y_BCHW: Tensor = self.G(x_BCHW)
        return y_BCHW

    def previews(self, batch: Batch) -> dict[str, Tensor]:
        """Input, student, teachers."""
        columns = {
            "input": batch.a_BCHW,
            "translated": self.G(batch.a_BCHW),
            "wider teacher": self.T(batch.a_BCHW),
        }
        if self.config.deeper_ngf:
            columns["deeper teacher"] = self.T_deep(batch.a_BCHW)
        return columns

    # Teachers of pairs: pix2pix

    def _teach_pairs(self, batch: Batch, teachers: Sequence[View], update: Update) -> None:
        def teacher_terms() -> Terms:
            terms: Terms = {}
            for branch, (teacher, suffix) in enumerate(zip(teachers, _SUFFIXES, strict=False)):
                logits = self._judged(batch.a_BCHW, teacher.image_BCHW, branch)
                adversarial = generator_loss(self.config.adversarial, logits)
                terms[f"adversarial{suffix}"] = self.config.teacher_adversarial_weight * adversarial
                distance = pixel_distance(teacher.image_BCHW, batch.b_BCHW)
                terms[f"reconstruction{suffix}"] = self.config.reconstruction_weight * distance
            return terms

        def discriminator_terms() -> Terms:
            terms: Terms = {}
            mode = self.config.adversarial
            for branch, (teacher, suffix) in enumerate(zip(teachers, _SUFFIXES, strict=False)):
                fake_logits = self._judged(batch.a_BCHW, teacher.image_BCHW.detach(), branch)
                real_logits = self._judged(batch.a_BCHW, batch.b_BCHW, branch)
                terms[f"fake{suffix}"] = 0.5 * fake_loss(mode, fake_logits)
                terms[f"real{suffix}"] = 0.5 * real_loss(mode, real_logits)
            return terms

        update(*self._teaching(), loss=teacher_terms)
        update(*self._judging(), loss=discriminator_terms)

    def _judged(self, a_BCHW: Tensor, image_BCHW: Tensor, branch: int) -> Tensor:
        """Logits of the discriminator of translations."""
        logits: Tensor
        if not self.config.paired:
            logits = self.D_B(image_BCHW)
            return logits
        pair_BCHW = torch.cat([a_BCHW, image_BCHW], dim=1)
        shared = isinstance(self.D, SharedPatchGAN)
        logits = self.D(pair_BCHW, branch) if shared else self.D(pair_BCHW)
        return logits

    # Teachers of two folders: CycleGAN

    def _teach_cycle(
        self, batch: UnpairedBatch, teachers: Sequence[View], update: Update, progress: Progress
    ) -> None:
        config = self.config
        wider_BCHW, *deeper_BCHW = (teacher.image_BCHW for teacher in teachers)
        back_BCHW = self.T_back(batch.b_BCHW)

        def teacher_terms() -> Terms:
            weight = config.teacher_adversarial_weight
            cycle_b = pixel_distance(self.T(back_BCHW), batch.b_BCHW)
            terms = {
                **two_sided_adversarial_terms(
                    self, wider_BCHW, back_BCHW, mode=config.adversarial, weight=weight
                ),
                "cycle_A": self._cycle_a(batch, wider_BCHW),
                "cycle_B": config.cycle_weight_b * cycle_b,
                **self._identity(self.T, batch.b_BCHW, config.cycle_weight_b, "_B"),
                **self._identity(self.T_back, batch.a_BCHW, config.cycle_weight_a, "_A"),
            }
            for image_BCHW in deeper_BCHW:
                terms |= {
                    **adversarial_terms(
                        self.D_B,
                        image_BCHW,
                        mode=config.adversarial,
                        weight=weight,
                        suffix="_deeper",
                    ),
                    "cycle_deeper": self._cycle_a(batch, image_BCHW),
                    **self._identity(self.T_deep, batch.b_BCHW, config.cycle_weight_b, "_deeper"),
                }
            return terms

        update(*self._teaching(), loss=teacher_terms)
        pooled_b_BCHW = self.pool_B(wider_BCHW, progress.draws, update.gather)
        pooled_a_BCHW = self.pool_A(back_BCHW, progress.draws, update.gather)
        pooled_deep = [
            self.pool_deep(image_BCHW, progress.draws, update.gather) for image_BCHW in deeper_BCHW
        ]

        def discriminator_terms() -> Terms:
            terms = two_sided_discriminator_terms(
                self, batch, pooled_b_BCHW, pooled_a_BCHW, mode=config.adversarial
            )
            for image_BCHW in pooled_deep:  # both teachers' translations weigh as those of one
                terms["fake_B"] = 0.5 * terms["fake_B"]
                fake = fake_loss(config.adversarial, self.D_B(image_BCHW))
                terms["fake_deeper"] = 0.25 * fake
            return terms

        update(*self._judging(), loss=discriminator_terms)

    def _cycle_a(self, batch: Batch, image_BCHW: Tensor) -> Tensor:
        return self.config.cycle_weight_a * pixel_distance(self.T_back(image_BCHW), batch.a_BCHW)

    def _identity(
        self, generator: nn.Module, target_BCHW: Tensor, cycle_weight: float, suffix: str
    ) -> Terms:
        """Of a generator on images of its target domain."""
        weight = self.config.identity_weight * cycle_weight
        if not weight:
            return {}
        source = self.config.out_channels if generator is self.T_back else self.config.in_channels
        image_BCHW = generator(match_channels(target_BCHW, source))
        return identity_terms(image_BCHW, target_BCHW, weight=weight, suffix=suffix)

    # The student

    def _student_terms(self, batch: Batch, teachers: Sequence[View]) -> Terms:
        config = self.config
        student = View(*self.G.forward_with_taps(batch.a_BCHW))
        terms: Terms = {}
        features: list[Tensor] | None = None
        for branch, (teacher, suffix) in enumerate(zip(teachers, _SUFFIXES, strict=False)):
            terms |= image_terms(config, student.image_BCHW, teacher.image_BCHW, suffix=suffix)
            if not any(config.image_weights):
                continue
            if features is None or config.feature_source == "discriminator":
                features = self._features(batch, student.image_BCHW, branch)
            with torch.no_grad():
                theirs = self._features(batch, teacher.image_BCHW, branch)
            terms |= feature_terms(config, features, theirs, suffix=suffix)
        wider = teachers[0]
        if config.channel_weight:
            distance = summed_over_taps("channels", self.A(student.maps), wider.maps)
            terms["channels"] = config.channel_weight * distance
        if config.discriminator_weight:
            seen, wanted = (
                [self._last_map(image_BCHW) for image_BCHW in images]
                for images in (self.S(student.maps), self.P(wider.maps))
            )
            distance = summed_over_taps("values", seen, wanted)
            terms["discriminator"] = config.discriminator_weight * distance
        if config.adversarial_weight:
            judged = student if config.adversarial_on == "student" else wider
            logits = self._judged(batch.a_BCHW, judged.image_BCHW, branch=0)
            adversarial = generator_loss(config.adversarial, logits)
            terms["adversarial"] = config.adversarial_weight * adversarial
        return terms

    def _features(self, batch: Batch, image_BCHW: Tensor, branch: int) -> list[Tensor]:
        """What the network whose maps are compared makes of images of the target domain."""
        source = self.config.feature_source
        if source in ("vgg16", "random"):
            maps: list[Tensor] = self.vgg(image_BCHW)
            return maps
        if source == "encoder":
            encoder = self.T if self.config.paired else self.T_back
            assert isinstance(encoder, SeparableGenerator)
            image_BCHW = match_channels(image_BCHW, encoder.in_channels)
            return encoder.maps_at(image_BCHW, _ENCODER_TAPS)
        if not self.config.paired:
            return self.D_B.rectified(image_BCHW)
        return self._rectified(torch.cat([batch.a_BCHW, image_BCHW], dim=1), branch)

    def _last_map(self, image_BCHW: Tensor) -> Tensor:
        """What DCD compares: the widest map of the teacher's discriminator."""
        return self._rectified(image_BCHW, branch=1)[-1]

    def _rectified(self, judged_BCHW: Tensor, branch: int) -> list[Tensor]:
        judge = self._judge()
        if isinstance(judge, SharedPatchGAN):
            return judge.rectified(judged_BCHW, branch)
        return judge.rectified(judged_BCHW)
