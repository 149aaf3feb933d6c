"""How often a training step makes the host wait for a GPU, counted without one.

    PYTHONPATH=tests python benchmarks/gpu/waits.py

One variant of each method, small, on the card of the tests that is not there (`tests/card.py`):
its third step, by the line of code that waits. No numbers are computed and nothing is timed.
"""

from __future__ import annotations

import argparse

from card import CARD, card, moved_to_card
from methods.test_contract import VARIANTS, batch_for, build, training_size
from patchkin.method import Progress
from patchkin.randomness import SeededDraws
from patchkin.training import Updater
from training.test_devices import FIRST, CardFabric


def waits_of(variant: str) -> dict[str, int]:
    """Kind and place -> how often in the third step."""
    method = build(variant)
    batch = batch_for(method, 2, size=training_size(method, (32, 40)))
    with card() as seen:
        moved_to_card(method.train())
        update, batch = Updater(method, CardFabric()), batch.to(CARD)
        for step in range(3):
            seen.waits.clear()
            update.begin_step(1.0)
            draws = SeededDraws(7, step)
            method.train_step(batch, update, Progress.of_step(step, total_steps=10, draws=draws))
    return dict(seen.waits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=FIRST, help="of the contract test")
    for variant in parser.parse_args().variants:
        found = waits_of(variant)
        print(f"{VARIANTS[variant][0]:22s} {variant:22s} {sum(found.values()):3d}", flush=True)
        for what, times in found.items():
            print(f"    {times} x {what}")


if __name__ == "__main__":
    main()
