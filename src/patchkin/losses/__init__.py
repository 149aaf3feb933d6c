"""Losses are functions of tensors: adversarial, contrastive, relational."""

from patchkin.losses.adversarial import (
    AdversarialMode,
    fake_loss,
    generator_loss,
    r1_penalty,
    real_loss,
)
from patchkin.losses.contrast import Contrast, mean_over_taps, patch_contrast, patch_contrasts
from patchkin.losses.contrastive import (
    as_info_nce,
    decoupled,
    hard_negative_weights,
    info_nce,
    log_importance,
    log_negative_importance,
)
from patchkin.losses.pixel import pixel_distance
from patchkin.losses.relation import relation_consistency, relation_divergence
from patchkin.losses.similarity import cosine_info_nce, summary_distance

__all__ = [
    "AdversarialMode",
    "Contrast",
    "as_info_nce",
    "cosine_info_nce",
    "decoupled",
    "fake_loss",
    "generator_loss",
    "hard_negative_weights",
    "info_nce",
    "log_importance",
    "log_negative_importance",
    "mean_over_taps",
    "patch_contrast",
    "patch_contrasts",
    "pixel_distance",
    "r1_penalty",
    "real_loss",
    "relation_consistency",
    "relation_divergence",
    "summary_distance",
]
