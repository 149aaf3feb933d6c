"""Scores of translations.

`protocols` says how images become features (`extractors`), `statistics` computes and keeps them,
`frechet` and `kernel` compare two sets; `perceptual` and `diversity` ask how different images look,
`content` whether the picture that went in is still there, `counterpart` compares with a known
truth, `segmentation` asks a segmentation network.
"""

from patchkin.metrics.collecting import Statistics
from patchkin.metrics.content import (
    ClassRate,
    MaskedChange,
    class_rate,
    luma_correlation,
    masked_change,
    mean_change,
    relation_change,
    translation_warnings,
)
from patchkin.metrics.counterpart import CounterpartScores, mean_scores, score_against_counterpart
from patchkin.metrics.diversity import (
    CollapseScores,
    DiversityScores,
    collapse_scores,
    diversity_scores,
    mean_over_tasks,
    mean_pairwise_distance,
    output_distances,
)
from patchkin.metrics.extractors import (
    Extractor,
    Features,
    InceptionExtractor,
    SqueezeNetExtractor,
    TorchvisionInceptionExtractor,
    make_extractor,
)
from patchkin.metrics.frechet import Moments, frechet_distance, moments
from patchkin.metrics.kernel import KernelDistance, kernel_distance, kernel_distance_subsets
from patchkin.metrics.perceptual import PerceptualDistance
from patchkin.metrics.protocols import PROTOCOLS, Protocol, find_protocol
from patchkin.metrics.statistics import (
    DistributionScores,
    cached_statistics,
    compare,
    file_statistics,
    output_statistics,
    read_statistics,
    write_statistics,
)

__all__ = [
    "PROTOCOLS",
    "ClassRate",
    "CollapseScores",
    "CounterpartScores",
    "DistributionScores",
    "DiversityScores",
    "Extractor",
    "Features",
    "InceptionExtractor",
    "KernelDistance",
    "MaskedChange",
    "Moments",
    "PerceptualDistance",
    "Protocol",
    "SqueezeNetExtractor",
    "Statistics",
    "TorchvisionInceptionExtractor",
    "cached_statistics",
    "class_rate",
    "collapse_scores",
    "compare",
    "diversity_scores",
    "file_statistics",
    "find_protocol",
    "frechet_distance",
    "kernel_distance",
    "kernel_distance_subsets",
    "luma_correlation",
    "make_extractor",
    "masked_change",
    "mean_change",
    "mean_over_tasks",
    "mean_pairwise_distance",
    "mean_scores",
    "moments",
    "output_distances",
    "output_statistics",
    "read_statistics",
    "relation_change",
    "score_against_counterpart",
    "translation_warnings",
    "write_statistics",
]
