"""Every score there is: its name, unit and range, which way it is better, and what it means.

The name of a score is the last part of what a result calls it: `squeezenet-256/frechet` and
`latent/plain2striped/stargan-v2/frechet` are both `frechet`. What stands before it says of which
protocol, domains, styles or form.

A score without a better way is never "best": more of it is neither good nor bad in itself, or the
right value lies in between. What is produced without being declared here is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from patchkin import plugins
from patchkin.errors import ConfigError, nearest

Scores: TypeAlias = dict[str, float]
"""Name, with what stands before it -> value."""
Better: TypeAlias = Literal["lower", "higher"]

_LEVELS = "8-bit levels, 0 to 255"
_PERCENT = "percent, 0 to 100"


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What a number of a result is."""

    name: str
    unit: str
    """And range."""
    better: Better | None
    """None: neither less nor more is better throughout."""
    meaning: str
    """One sentence."""


SCORES: Mapping[str, Score] = {
    score.name: score
    for score in (
        # Distributions: outputs against real images
        Score(
            name="frechet",
            unit="squared distance of features, from 0",
            better="lower",
            meaning="Frechet distance of the outputs to real images; FID with an Inception "
            "protocol.",
        ),
        Score(
            name="kernel",
            unit="squared distance, about 0 for equal sets and at times below",
            better="lower",
            meaning="Squared maximum mean discrepancy of the outputs and real images; KID with an "
            "Inception protocol.",
        ),
        Score(
            name="class_top1",
            unit=_PERCENT,
            better="higher",
            meaning="Share of outputs that a classifier takes for the wanted kind.",
        ),
        Score(
            name="class_top5",
            unit=_PERCENT,
            better="higher",
            meaning="Share of outputs whose five likeliest classes hold the wanted kind.",
        ),
        # Content: outputs against their inputs
        Score(
            name="change",
            unit=_LEVELS,
            better=None,
            meaning="Mean absolute change of the pixels: 0 is no translation, and how much is "
            "right depends on the two domains.",
        ),
        Score(
            name="change_inside",
            unit=_LEVELS,
            better=None,
            meaning="Mean absolute change inside the mask, where change belongs: it tells that "
            "something changed, not whether for the better.",
        ),
        Score(
            name="change_outside",
            unit=_LEVELS,
            better="lower",
            meaning="Mean absolute change outside the mask, where nothing should change.",
        ),
        Score(
            name="relation_change",
            unit="nats per patch, 0 to 0.33",
            better="lower",
            meaning="How much the relations between the patches of an image changed: 0 keeps them "
            "all, as an unchanged input does.",
        ),
        # Diversity
        Score(
            name="collapse_outputs",
            unit="LPIPS, from 0",
            better="higher",
            meaning="Mean distance between the outputs of different inputs: 0 if all are one "
            "picture.",
        ),
        Score(
            name="collapse_ratio",
            unit="ratio, from 0",
            better="higher",
            meaning="Distance between outputs of different inputs over the one between "
            "these inputs: 1 is as diverse, near 0 is mode collapse.",
        ),
        Score(
            name="lpips_diversity",
            unit="LPIPS, from 0",
            better="higher",
            meaning="Mean distance between the outputs of one input in several styles, over "
            "batches as StarGAN v2 reports it.",
        ),
        Score(
            name="lpips_diversity_per_image",
            unit="LPIPS, from 0",
            better="higher",
            meaning="`lpips_diversity` as a mean over images: a short last batch counts for"
            " what it holds.",
        ),
        Score(
            name="style_spread",
            unit=_LEVELS,
            better=None,
            meaning="Mean absolute difference between outputs of one input in two styles: 0 is one "
            "style, and beyond that more may be noise as well as variety.",
        ),
        # The known truth
        Score(
            name="psnr",
            unit="dB",
            better="higher",
            meaning="Peak signal-to-noise ratio of the output to the truth.",
        ),
        Score(
            name="ssim",
            unit="share, at most 1",
            better="higher",
            meaning="Structural similarity of the output and the truth, over windows of 11 x 11 "
            "pixels.",
        ),
        Score(
            name="psnr_inside",
            unit="dB",
            better="higher",
            meaning="Peak signal-to-noise ratio inside the mask; stripes at other places "
            "than the true ones cost more than none.",
        ),
        Score(
            name="tone_inside",
            unit=_LEVELS,
            better="lower",
            meaning="Distance of the grey levels inside the mask from those of the truth, wherever "
            "they are.",
        ),
        Score(
            name="stripe_iou",
            unit="share, 0 to 1",
            better="higher",
            meaning="Overlap of the dark places inside the mask with those of the truth.",
        ),
        Score(
            name="detail_inside",
            unit="ratio, from 0",
            better=None,
            meaning="Detail inside the mask over that of the truth: 1 is right, more is noise and "
            "less is blur.",
        ),
        Score(
            name="detail_distance",
            unit="doublings, from 0",
            better="lower",
            meaning="How many times the detail inside the mask must be doubled or halved to be the "
            "truth's.",
        ),
        Score(
            name="distance",
            unit="8-bit levels, 0 to 510",
            better="lower",
            meaning="`tone_inside` and `change_outside` together.",
        ),
        Score(
            name="lpips",
            unit="LPIPS, from 0",
            better="lower",
            meaning="Perceptual distance of the output to the truth.",
        ),
        Score(
            name="truth_distance",
            unit=_LEVELS,
            better="lower",
            meaning="Mean absolute difference of the output from the other half of its pair.",
        ),
        # Label maps, as a segmentation network sees their translations
        Score(
            name="mAP",
            unit=_PERCENT,
            better="higher",
            meaning="`mIoU` of label maps resized bicubically, to two decimals: what the papers' "
            "tables call mAP.",
        ),
        Score(
            name="pixAcc",
            unit=_PERCENT,
            better="higher",
            meaning="Share of the labelled pixels that are seen as their class; the "
            "released form divides by those of 500 images, whatever their number.",
        ),
        Score(
            name="classAcc",
            unit=_PERCENT,
            better="higher",
            meaning="Share of a class's pixels that are seen as it, averaged over the "
            "classes that there are; the released form counts absent ones as 0.",
        ),
        Score(
            name="classAcc_over_all",
            unit=_PERCENT,
            better="higher",
            meaning="Share of a class's pixels that are seen as it, averaged over all "
            "classes, absent ones counting 0.",
        ),
        Score(
            name="mIoU",
            unit=_PERCENT,
            better="higher",
            meaning="Mean intersection over union of the classes that there are.",
        ),
        Score(
            name="mIoU_fraction",
            unit="share, 0 to 1",
            better="higher",
            meaning="Mean intersection over union of all classes, absent ones counting 0.",
        ),
    )
}
"""By the last part of the name."""


def find_score(name: str) -> Score:
    """What a score is.

    Raises:
        ConfigError: it is not declared; the nearest is offered.

    >>> find_score("segmentation-correct/mIoU").better
    'higher'
    >>> find_score("counterpart/strip_iou")
    Traceback (most recent call last):
    patchkin.errors.ConfigError: Unknown score `strip_iou`. Did you mean `stripe_iou`?
    """
    score = _known(name)
    if score is None:
        last = name.rpartition("/")[2]
        raise ConfigError(f"Unknown score `{last}`. {nearest(last, SCORES)}")
    return score


def _known(name: str) -> Score | None:
    """A score of ours, or one that a metric of an installed package declares."""
    last = name.rpartition("/")[2]
    if last in SCORES:
        return SCORES[last]
    for metric in plugins.working_plugins(plugins.METRICS).values():
        for score in getattr(metric, "declares", ()):
            if isinstance(score, Score) and score.name == last:
                return score
    return None


def describe(name: str) -> str:
    """A score for a reader: meaning, unit and the way it is better; empty if it is not declared.

    >>> describe("counterpart/psnr")
    'Peak signal-to-noise ratio of the output to the truth (dB; higher is better).'
    """
    score = _known(name)
    if score is None:
        return ""
    way = "neither way is better" if score.better is None else f"{score.better} is better"
    return f"{score.meaning.removesuffix('.')} ({score.unit}; {way})."


def declared(scores: Scores) -> Scores:
    """The scores themselves, each of them declared.

    Raises:
        ConfigError: one is not.
    """
    for name in scores:
        find_score(name)
    return scores


def best_of(name: str, values: Iterable[float]) -> float | None:
    """The best of some values of a score; None without values, or where there is no better.

    NaN is never the best. A score that is not declared here, such as one in a file of another
    version, has no best either.

    >>> best_of("p/frechet", [30.0, 20.0]), best_of("p/class_top1", [30.0, 20.0])
    (20.0, 30.0)
    >>> print(best_of("change", [30.0, 20.0]))
    None
    """
    score = _known(name)
    if score is None or score.better is None:
        return None
    known = [value for value in values if not math.isnan(value)]
    return (max if score.better == "higher" else min)(known, default=None)
