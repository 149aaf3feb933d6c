"""The mechanical half of an optimisation step: `Update` of the method contract."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from patchkin.errors import DivergenceError
from patchkin.method import Method, Terms
from patchkin.networks.cpu.layout import lay_out
from patchkin.networks.whole_batch import join
from patchkin.randomness import derive_seed
from patchkin.schedules import AdamConfig
from patchkin.training.collectives import (
    SharingProcesses,
    whole_batch,
    whole_batch_with_graph,
)
from patchkin.training.fabric import Fabric
from patchkin.training.reduction import Reduction


@dataclass(frozen=True)
class Judged:
    """The terms of one update of a step, whose values nobody has looked at yet."""

    updated: str
    names: tuple[str, ...]
    values: list[Tensor]
    """Of the terms, and of their sum over all processes."""

    def judge(self, values: Sequence[float]) -> None:
        """Look at the values, which are those of `values`.

        Raises:
            DivergenceError: one is NaN or infinite. In other processes than the one where it is,
                that is the sum.
        """
        for name, value in zip(self.names, values, strict=True):
            if not math.isfinite(value):
                raise DivergenceError(
                    f"The term `{name}` of the update of {self.updated} became {value}"
                )


class Updater:
    """Steps networks down the gradient of their loss, in any precision, on any number of processes.

    Gradients are averaged over processes here rather than by a wrapper around each network: a
    method calls its networks in more ways than `forward`, and each update concerns only some.
    """

    def __init__(
        self,
        method: Method,
        fabric: Fabric,
        *,
        clip_norm: float | None = None,
        judges_later: bool | None = None,
    ) -> None:
        """For a method whose networks are where they will train.

        Args:
            method: in any state.
            fabric: of the run.
            clip_norm: for networks without one of their own.
            judges_later: whether terms that are not finite are found by `judged`, or at once; by
                default on a GPU, which would be waited for. Nothing is stepped from them, nor from
                anything after them, in either case.
        """
        self._fabric = fabric
        self.judged: list[Judged] = []
        """Of the step so far, what is to be looked at before anything of the run is kept; empty
        where that was done at once."""
        if judges_later is None:
            judges_later = fabric.device.type == "cuda"
        self._bad = torch.zeros((), device=fabric.device) if judges_later else None
        self._clip_norms: dict[torch.optim.Adam, float | None] = {}
        self._networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Adam] = {}
        self.terms: dict[str, Tensor] = {}
        """Terms of every update of the step so far, as `networks.term`, and reported values."""
        self._processes = SharingProcesses(fabric)
        if fabric.world_size > 1:
            join(method, self._processes)
        lay_out(method, fabric.device)
        method.requires_grad_(False)
        for name, config in method.adam().items():
            network = method.get_submodule(name)
            network.requires_grad_(True)
            self._networks[name] = network
            self.optimizers[name] = _adam(network, config)
            self._clip_norms[self.optimizers[name]] = config.clip_norm or clip_norm
        self._base_rates = {name: c.learning_rate for name, c in method.adam().items()}

    @property
    def scaler(self) -> Any:
        """The gradient scaler of 16-bit precision; None in any other."""
        return getattr(self._fabric.strategy.precision, "scaler", None)

    def begin_step(self, learning_rate_factor: float) -> None:
        """Forget the terms of the step before and set this step's learning rates."""
        self.terms.clear()
        self.judged = []
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._base_rates[name] * learning_rate_factor

    def seed_layers(self, seed: int, step: int) -> None:
        """Seed what layers draw in a step.

        torch's generators go their own way in each process. Layers that draw for the whole batch
        draw what one process would.
        """
        torch.manual_seed(derive_seed(seed, step, self._fabric.global_rank))
        self._processes.seed(derive_seed(seed, step, 0))

    def __call__(
        self, *networks: str, loss: Callable[[], Terms] | Sequence[Callable[[], Terms]]
    ) -> None:
        """See `patchkin.method.Update`.

        Raises:
            DivergenceError: a term is NaN or infinite; nothing was stepped. On a GPU `judged` tells
                so later, and nothing was stepped since.
        """
        optimizers = [self.optimizers[name] for name in networks]
        parameters = [list(self._networks[name].parameters()) for name in networks]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        terms: Terms = {}
        *earlier, last = [loss] if callable(loss) else loss
        for part in earlier:
            self._differentiate(networks, part, terms)
        reduction = self._reduction(parameters)
        with reduction.during_backward() if reduction is not None else nullcontext():
            self._differentiate(networks, last, terms)
        total = torch.stack(list(terms.values())).sum()
        if reduction is not None:
            total = reduction.finish(total)
        self._remember("+".join(networks), terms, total)
        self._step(optimizers, parameters)
        torch.clear_autocast_cache()

    def report(self, **values: Tensor) -> None:
        """See `patchkin.method.Update`."""
        self.terms.update({name: value.detach() for name, value in values.items()})

    def gather(self, tensor: Tensor) -> Tensor:
        """See `patchkin.method.Update`."""
        return whole_batch(self._fabric, tensor)

    def gather_with_graph(self, tensor: Tensor) -> Tensor:
        """See `patchkin.method.Update`."""
        return whole_batch_with_graph(self._fabric, tensor)

    @property
    def num_processes(self) -> int:
        """See `patchkin.method.Update`."""
        return self._fabric.world_size

    def _differentiate(
        self, networks: Sequence[str], loss: Callable[[], Terms], into: Terms
    ) -> None:
        """Adds a loss's gradient to those of the networks, and its terms to those of `into`."""
        with self._only_these_learn(networks):
            terms = loss()
        total = torch.stack(list(terms.values())).sum()
        # Leaving autocast: backward must not cast anew, and the cast copies of weights that the
        # forward pass left in autocast's cache are stale once the optimizer has stepped.
        with torch.autocast(total.device.type, enabled=False):
            self._fabric.backward(total)
        for name, term in terms.items():
            into[name] = into[name] + term.detach() if name in into else term.detach()

    def _reduction(self, parameters: Sequence[Sequence[nn.Parameter]]) -> Reduction | None:
        """What averages the gradients over processes; nothing with one process."""
        if self._fabric.world_size == 1:
            return None
        return Reduction([p for group in parameters for p in group], self._fabric.world_size)

    def _remember(self, updated: str, terms: Terms, everywhere: Tensor) -> None:
        """Take the terms, and judge them.

        Args:
            updated: the networks.
            terms: of this process.
            everywhere: the mean of their sum over processes, so that all of them stop where one of
                them has to.
        """
        self.terms.update({f"{updated}.{name}": term for name, term in terms.items()})
        judged = Judged(updated, (*terms, "sum"), [*terms.values(), everywhere])
        if self._bad is not None:
            self._bad.copy_(torch.maximum(self._bad, (~everywhere.isfinite()).float()))
            self.judged.append(judged)
        elif not torch.isfinite(everywhere):
            judged.judge([float(value) for value in judged.values])

    @contextmanager
    def _only_these_learn(self, names: Iterable[str]) -> Iterator[None]:
        others = [network for name, network in self._networks.items() if name not in set(names)]
        for network in others:
            network.requires_grad_(False)
        try:
            yield
        finally:
            for network in others:
                network.requires_grad_(True)

    def _step(
        self, optimizers: list[torch.optim.Adam], parameters: list[list[nn.Parameter]]
    ) -> None:
        if self.scaler is None:
            for optimizer, group in zip(optimizers, parameters, strict=True):
                self._clip(optimizer, group)
                optimizer.found_inf = self._bad  # type: ignore[attr-defined]
                optimizer.step()
            return
        if self._bad is not None:  # the scaler looks for gradients that are not finite
            gradients = [p.grad for group in parameters for p in group if p.grad is not None]
            torch._foreach_mul_(gradients, torch.where(self._bad > 0, torch.nan, 1.0))
        # The scale may change only after every optimizer of this backward pass has stepped, which
        # is why the optimizers are not wrapped one by one.
        for optimizer, group in zip(optimizers, parameters, strict=True):
            self.scaler.unscale_(optimizer)
            self._clip(optimizer, group)
            self.scaler.step(optimizer)
        self.scaler.update()

    def _clip(self, optimizer: torch.optim.Adam, parameters: list[nn.Parameter]) -> None:
        largest = self._clip_norms[optimizer]
        if largest is not None:
            torch.nn.utils.clip_grad_norm_(parameters, largest)


def _adam(network: nn.Module, config: AdamConfig) -> torch.optim.Adam:
    parameters = list(network.parameters())
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.Adam(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=fused,
        foreach=not fused,
    )
