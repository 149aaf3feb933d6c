"""Models to choose from, loaded when they are first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from patchkin.compression import COMPRESSED_METHODS
from patchkin.devices import Device
from patchkin.errors import CheckpointError, ConfigError, nearest
from patchkin.images import declared_ranges
from patchkin.method import Direction, Method
from patchkin.methods import known_methods
from patchkin.storage.checkpoint import find_model, open_model
from patchkin.storage.shipped import shipped_names
from patchkin.translation.loading import check_method
from patchkin.translation.translator import Translator

KEPT = 2
"""Models that stay in memory; of a third, the one that was used longest ago goes."""


class Models:
    """By the name that a visitor chooses; nothing else can be loaded.

    Several threads may ask.
    """

    def __init__(
        self,
        given: Sequence[str],
        *,
        methods: Mapping[str, type[Method]] | None = None,
        device: Device = "auto",
    ) -> None:
        """For those that are given, or else for the shipped ones.

        Args:
            given: run folders, checkpoint folders, files and names, as `translate` takes them.
            methods: known methods; those of patchkin and of plug-ins unless given.
            device: where to compute.

        Raises:
            CheckpointError: one of them is not there, is damaged, is of an unknown method, or its
                settings do not make the networks whose weights it has. Weights are not read.
            ConfigError: there is none.
        """
        self.names = list(dict.fromkeys(given)) or shipped_names()
        if not self.names:
            raise ConfigError("There is no model to show: name one, such as a run folder.")
        known = {**COMPRESSED_METHODS, **(methods or known_methods())}
        for name in self.names:
            if Path(name).suffix.lower() == ".onnx":
                raise CheckpointError(
                    f"`{name}` is an exported model, which the page does not take: give the run or "
                    "the .safetensors file."
                )
            with open_model(find_model(Path(name))) as file:
                check_method(file, known)
                declared_ranges(file.header.encoding, where=f"`{name}`")
        self._methods, self._device = methods, device
        self._loaded: OrderedDict[tuple[str, Direction], Translator] = OrderedDict()
        self._lock = threading.Lock()

    def translator(self, name: str, direction: Direction = "AtoB") -> Translator:
        """The model of a name, with its projection head if it has one.

        Raises:
            ConfigError: there is no such name, or it does not translate in this direction.
            CheckpointError: the file does not fit any more.
        """
        if name not in self.names:
            raise ConfigError(f"There is no model `{name}`. {nearest(name, self.names)}")
        with self._lock:
            translator = self._loaded.get((name, direction))
            if translator is None:
                translator = Translator.load(
                    name,
                    methods=self._methods,
                    complete=True,
                    direction=direction,
                    device=self._device,
                )
                self._loaded[name, direction] = translator
                while len(self._loaded) > KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end((name, direction))
            return translator
