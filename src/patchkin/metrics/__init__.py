"""Scores of translations."""

from patchkin.metrics.counterpart import CounterpartScores, mean_scores, score_against_counterpart

__all__ = ["CounterpartScores", "mean_scores", "score_against_counterpart"]
