"""What MUNIT and DRIT have in common: two domains, and translations in styles.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from patchkin.errors import ConfigError
from patchkin.schedules import AdamConfig

RELEASED_ADAM = AdamConfig(learning_rate=1e-4, weight_decay=1e-4)
"""Of the networks of both, as released; all weights are penalised."""


def check_one_domain(domain: int, method: str) -> None:
    """Refuse another target domain than the one that each direction has.

    Raises:
        ConfigError: it is not 0.

    >>> check_one_domain(1, "munit")
    Traceback (most recent call last):
    patchkin.errors.ConfigError: `munit` has one target domain in each direction, 0; got 1.
    """
    if domain:
        raise ConfigError(f"`{method}` has one target domain in each direction, 0; got {domain}.")
