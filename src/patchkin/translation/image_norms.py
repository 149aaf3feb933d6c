"""Parts of an image whose norms take the statistics of the whole image, exactly.

A norm that takes statistics over the image needs the maps of all parts before it gives the first of
them to the next layer. So the parts go through the network in step: each runs in a thread of its
own up to a norm, adds its share to the statistics, and waits until all others have. One runs at a
time, in order, so that results repeat bit for bit. What waiting parts hold is kept in memory as far
as `room` goes, and in temporary files beyond.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from patchkin.errors import ConfigError
from patchkin.networks.cpu.winograd import free_workspace
from patchkin.networks.whole_image import Moments, normalizing_by
from patchkin.translation.live_maps import LiveMaps
from patchkin.translation.memory import TooLargeError
from patchkin.translation.tiles import Core, Part

ROOM_BYTES = 2**27
"""That waiting parts may hold in memory."""


class _Stopped(BaseException):
    """Another part failed."""


def in_step(parts: Sequence[Part], *, room: int = ROOM_BYTES) -> None:
    """Run the parts of one image, whose norms take the statistics of all.

    Args:
        parts: what to do for each, with one forward pass in it, and where it counts. Together the
            cores are the image.
        room: bytes that waiting parts may hold in memory.

    Raises:
        ConfigError: the norms see maps that do not divide as the image does.
        TooLargeError: the temporary files cannot be written.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="patchkin-")))
        compute = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        _Round(parts, compute, folder, room).run()


class _Round:
    """The parts, and whose turn it is."""

    def __init__(
        self,
        parts: Sequence[Part],
        compute: ThreadPoolExecutor,
        folder: Path,
        room: int,
    ) -> None:
        self._parts = parts
        self._compute = compute
        self._folder = folder
        self._room = room
        self._turns = [threading.Semaphore(0) for _ in parts]
        self._going = [True] * len(parts)
        self._shares: dict[int, list[Moments]] = {}
        self._error: BaseException | None = None

    def run(self) -> None:
        threads = [threading.Thread(target=self._part, args=(n,)) for n in range(len(self._parts))]
        for number, thread in enumerate(threads):
            try:
                thread.start()
            except RuntimeError:
                self._error = TooLargeError(
                    f"has {len(threads)} parts, for which the system gives only {number} threads; "
                    "use a larger --tile, or --tile-norm tile"
                )
                self._going[number:] = [False] * (len(threads) - number)
                threads = threads[:number]
                break
        self._turns[0].release()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def _part(self, number: int) -> None:
        work, core = self._parts[number]
        file = self._folder / f"{number}.maps"
        calls = 0

        def moments_of(x_BCHW: Tensor) -> Moments:
            nonlocal calls
            norm, calls = calls, calls + 1
            with live.for_all():
                self._shares.setdefault(norm, []).append(Moments.of(_cut(x_BCHW, core)))
            free_workspace()
            stored = live.put_away(file, self._room // len(self._parts))
            self._pass_on(number)
            self._wait(number)
            live.take_back(file, stored)
            with live.for_all():
                return self._joined(norm)

        try:
            self._wait(number)
            with (
                torch.no_grad(),
                LiveMaps(self._compute) as live,
                normalizing_by(moments_of),
            ):
                work()
        except _Stopped:
            return
        except BaseException as error:  # noqa: BLE001 (raised again by `run`)
            self._error = error
        finally:
            self._going[number] = False
            self._pass_on(number)

    def _joined(self, norm: int) -> Moments:
        """The statistics of the whole image, made once, by the first part."""
        first, *others = self._shares[norm]
        for share in others:
            first = first.joined(share)
        self._shares[norm] = [first]
        return first

    def _wait(self, number: int) -> None:
        self._turns[number].acquire()
        if self._error is not None:
            raise _Stopped

    def _pass_on(self, number: int) -> None:
        """To the next part that is not done."""
        count = len(self._going)
        following = ((number + ahead) % count for ahead in range(1, count + 1))
        turn = next((other for other in following if self._going[other]), None)
        if turn is not None:
            self._turns[turn].release()


def _cut(x_BCHW: Tensor, core: Core) -> Tensor:
    """The pixels of a map that belong to those of the core.

    Raises:
        ConfigError: the map is no reduction of the part.
    """
    rows, columns, height, width = core
    return x_BCHW[
        ...,
        _reduced(rows, height, x_BCHW.shape[2]),
        _reduced(columns, width, x_BCHW.shape[3]),
    ]


def _reduced(span: slice, length: int, places: int) -> slice:
    """A span of an axis of `length`, of which a map has `places`.

    >>> _reduced(slice(8, 24), 32, 8)
    slice(2, 6, None)
    """
    start, stop = span.start * places, span.stop * places
    if start % length or stop % length:
        raise ConfigError(
            "The norms of this model see maps that do not divide as its images do, so their "
            "statistics over an image cannot be had from parts; use --tile-norm tile."
        )
    return slice(start // length, stop // length)
