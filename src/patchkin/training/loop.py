"""The training loop: steps, files, interruptions. It runs any `Method` and knows none."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from patchkin.devices import peak_memory_bytes
from patchkin.errors import CheckpointError, DivergenceError, Interrupted, PatchkinError
from patchkin.images import image_grid, write_pillow
from patchkin.method import Method, Progress, translating_mode
from patchkin.randomness import SeededDraws
from patchkin.schedules import ScheduleConfig
from patchkin.storage.checkpoint import (
    EMA_PREFIX,
    MODEL_FILE,
    OPTIMIZERS_FILE,
    CheckpointStore,
    ModelHeader,
    Snapshot,
    load_optimizer_tensors,
    optimizer_tensors,
)
from patchkin.storage.outlines import load_strictly
from patchkin.training.averaging import WeightAverage
from patchkin.training.collectives import (
    any_process,
    batch_of_all,
    by_first_process,
    mean_over_processes,
    take_from_first,
)
from patchkin.training.compilation import CompiledSteps
from patchkin.training.config import TrainingConfig
from patchkin.training.fabric import Fabric
from patchkin.training.log import Forecast, RunLog, Window
from patchkin.training.loggers import OpenLogger
from patchkin.training.stopping import LeaveNow, Stop, stop_signals
from patchkin.training.unread import DivergedAtError, Unread
from patchkin.training.updater import Updater

OnStart = Callable[[int, Callable[[Mapping[str, Any]], None]], None]


class BatchSource(Protocol):
    """Where the batches of a run come from."""

    steps_per_epoch: int

    def batches(self, start_step: int, total_steps: int) -> Iterable[Any]:
        """Batches of the calling process for steps `start_step` to `total_steps - 1`, in order."""
        ...

    def preview_batch(self) -> Any | None:
        """Held-out images to watch, always the same; None if there are none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores of a method on validation images."""

    score: Callable[[Method], dict[str, float]]
    primary: str | None
    """The score that decides which checkpoint is the best; None if none can."""
    higher_is_better: bool = True
    baseline: dict[str, float] | None = None
    """The scores of leaving the input as it is; logged beside those of the untrained networks."""


@dataclass
class _Best:
    """The best validation score so far."""

    step: int | None = None
    value: float | None = None


def fit(
    method: Method,
    data: BatchSource,
    run_dir: Path,
    *,
    fabric: Fabric,
    schedule: ScheduleConfig,
    training: TrainingConfig,
    header: ModelHeader,
    scorer: Scorer | None = None,
    loggers: Mapping[str, OpenLogger] | None = None,
    resume: bool = False,
    on_start: OnStart = lambda _step, _log: None,
) -> None:
    """Train a method to the end of its schedule.

    The run folder receives `log.jsonl`, `previews/` and `checkpoints/`. With `resume`, the newest
    undamaged checkpoint is continued; the result is the same, bit for bit, as without the stop.
    `loggers` are told beside `log.jsonl`. `on_start` is given the step from which the run goes on
    (0 for a new one), and a function that logs a record once, in the first process.

    Raises:
        DivergenceError: a term became NaN or infinite; the message names it, the step, and the
            last good checkpoint.
        Interrupted: after Ctrl-C or a termination signal, once a checkpoint is saved; before the
            first step a plain `KeyboardInterrupt`.
        StorageError: the disk is full or not writable; earlier checkpoints are untouched.
        CheckpointError: `resume` finds no checkpoint that fits.
    """
    run = _Run(
        method, data, run_dir,
        fabric=fabric, schedule=schedule, training=training, header=header, scorer=scorer,
        loggers=loggers,
    )  # fmt: skip
    with closing(run.log):
        run.start(resume=resume, on_start=on_start)
        with (
            run.log.shown(run.step),
            stop_signals(may_leave=fabric.is_global_zero, deadline=fabric.world_size > 1) as stop,
        ):
            run.go_on(stop)


class _Run:
    """The moving parts of `fit`."""

    def __init__(
        self,
        method: Method,
        data: BatchSource,
        run_dir: Path,
        *,
        fabric: Fabric,
        schedule: ScheduleConfig,
        training: TrainingConfig,
        header: ModelHeader,
        scorer: Scorer | None,
        loggers: Mapping[str, OpenLogger] | None = None,
    ) -> None:
        self.method = method.to(fabric.device)
        self.data = data
        self.run_dir = run_dir
        self.fabric = fabric
        self.schedule = schedule
        self.training = training
        self.header = header
        self.scorer = scorer
        self.counts_epochs = schedule.steps is None
        self.planned_steps = schedule.planned_steps(data.steps_per_epoch)
        self.total_steps = schedule.last_step(data.steps_per_epoch)
        self.step = 0
        self.best = _Best()
        self._owes_a_look = False
        """Whether previews or scores of this step are due and not made yet."""
        self.updater = Updater(method, fabric, clip_norm=training.clip_norm)
        self.average = WeightAverage(method) if schedule.ema_decay else None
        self.store = CheckpointStore(run_dir, keep=training.keep)
        self.log = RunLog(
            run_dir / "log.jsonl",
            total_steps=self.total_steps,
            quiet=not fabric.is_global_zero,
            loggers=loggers,
        )
        self.compiled = CompiledSteps(
            method, self.updater, training, fabric.device, say=self.log.say
        )
        self.window, self.unread = Window(), Unread()
        self.forecast = Forecast(0)
        self.stop = Stop(may_leave=False)
        self._preview_batch = data.preview_batch() if fabric.is_global_zero else None

    def start(self, *, resume: bool, on_start: OnStart) -> None:
        """From a checkpoint, or from the beginning."""
        if resume:
            self._restore()
        by_first_process(self.fabric, lambda: on_start(self.step, self.log.write_once))
        self._say_differences()
        if resume:
            return
        self.method.train()
        with closing(self._batches()) as batches:
            # From the same images in all processes, those of one with the whole batch.
            whole = (batch_of_all(self.fabric, batch) for batch in batches)
            self.method.prepare(whole, SeededDraws(self.training.seed, -1))
        take_from_first(self.fabric, self.method.state_dict().values())
        self._look(final=False)

    def _say_differences(self) -> None:
        """Where several processes do not do what one with the whole batch would."""
        differences = self.method.process_differences()
        if self.fabric.world_size > 1 and differences:
            self.log.say(
                f"{self.fabric.world_size} processes do not do quite what one with a batch "
                f"{self.fabric.world_size} times as large does: {'; '.join(differences)}."
            )

    def go_on(self, stop: Stop) -> None:
        """Step after step to the end."""
        self.stop = stop
        self.method.train()
        self.forecast = Forecast(self.total_steps - self.step)
        try:
            if self._owes_a_look:  # it was asked to stop before that
                self._look(final=self.step == self.total_steps)
                self._save()
            if self.step >= self.total_steps:
                self.log.say(f"The run in {self.run_dir} is complete: {self.step} steps.")
                return
            with closing(self._batches()) as batches:
                while self.step < self.total_steps:
                    self._do_step(batches)
        except LeaveNow:
            self._leave()
        except (PatchkinError, KeyboardInterrupt):
            raise
        except Exception as error:
            if stop.asked and not self.fabric.is_global_zero:  # the first process has left
                raise KeyboardInterrupt from error
            self._say_where(error)
            raise

    def _batches(self) -> Generator[Any, None, None]:
        """What is left of the batches, on the device. Closed, it ends the loader's workers."""
        batches = iter(self.data.batches(self.step, self.total_steps))
        try:
            for batch in batches:
                yield batch.to(self.fabric.device, non_blocking=True)
        finally:
            if isinstance(batches, Generator):
                batches.close()

    def _do_step(self, batches: Generator[Any, None, None]) -> None:
        """A step, and what is due after it."""
        waiting = time.perf_counter()
        with self.stop.left_at_once():
            batch = next(batches)
        began = time.perf_counter()
        self.compiled(partial(self._train_step, batch))
        self.unread.add(
            self.step,
            self._mean_terms(),
            self.updater.judged,
            images=self._images(batch),
            waited=began - waiting,
        )
        ended = time.perf_counter()
        self.stop.slowest_step = max(self.stop.slowest_step, ended - began)
        for line in self.forecast.add(ended - waiting):
            self.log.say(line)
        final = self.step == self.total_steps
        self._owes_a_look = self._shows(final=final) or self._scores(final=final)
        stopped = any_process(self.fabric, self.stop.asked)
        saving = final or stopped or self.step % self.training.save_every == 0
        logging = saving or self.step % self.training.log_every == 0
        if logging or self._owes_a_look:
            self._read_terms()  # before anything is made of weights that may not be good
        if logging:
            self._write_log()
        scored = self._look(final=final) if not stopped else False
        if saving or scored:
            self._save()
        self.log.advance(self.step)
        if stopped and (not final or self._owes_a_look):
            raise Interrupted(self.run_dir, self.step)

    def _leave(self) -> None:
        """Save the last step that was finished, without the other processes."""
        if self.step > 0 and self.step not in self.store.steps():
            self._read_terms()
            if self.window.steps:
                self.log.write(self._log_record())
            self._write_checkpoint()
        if self.step == 0:
            raise KeyboardInterrupt
        raise Interrupted(self.run_dir, self.step)

    def _say_where(self, error: Exception) -> None:
        """Where an error that nobody foresaw leaves the run; the error itself comes after."""
        saved = self.store.steps()
        on = f"--resume {self.run_dir} goes on after step {saved[-1]}." if saved else (
            "No checkpoint was saved yet."
        )  # fmt: skip
        advice = ""
        if isinstance(error, torch.OutOfMemoryError):
            advice = " Out of memory: a smaller --size or --batch-size needs less."
        self.log.say(f"Step {self.step + 1} ended with an error. {on}{advice}")

    def _train_step(self, batch: Any) -> None:
        progress = Progress.of_step(
            self.step,
            total_steps=self.planned_steps,
            steps_per_epoch=self.data.steps_per_epoch,
            counts_epochs=self.counts_epochs,
            draws=SeededDraws(
                self.training.seed,
                self.step,
                rank=self.fabric.global_rank,
                world_size=self.fabric.world_size,
            ),
        )
        self.updater.seed_layers(self.training.seed, self.step)
        factor = self.schedule.learning_rate_factor(progress.unit, progress.total_units)
        self.updater.begin_step(factor)
        try:
            with self.fabric.autocast():
                self.method.train_step(batch, self.updater, progress)
        except DivergenceError as error:
            raise self._diverged(error, self.step + 1) from error
        self.step += 1
        if self.average is not None:
            self.average.update(self.schedule.averaging_decay(self.step))

    def _read_terms(self) -> None:
        """Wait for the steps so far, and take their terms into the window."""
        try:
            self.unread.read_into(self.window)
        except DivergedAtError as error:
            raise self._diverged(error, error.step) from error

    def _diverged(self, error: DivergenceError, step: int) -> DivergenceError:
        saved = self.store.steps()
        last = f"`{self.store.path(saved[-1])}`" if saved else "none was saved yet"
        return DivergenceError(
            f"{error} at step {step}. Last good checkpoint: {last}. "
            "Lower the learning rate, or use --precision 32-true."
        )

    def _look(self, *, final: bool) -> bool:
        """Previews and scores, where they are due. True if there is a new score."""
        if self._shows(final=final):
            by_first_process(self.fabric, self._write_preview)
        scores = self._scores(final=final) and self.scorer is not None
        if scores:
            self._score()
        self._owes_a_look = False
        return scores and self.step > 0

    def _score(self) -> None:
        assert self.scorer is not None
        with self._averaged(), translating_mode(self.method), self.stop.left_at_once():
            scores = self.scorer.score(self.method)
        if self.scorer.primary is not None and self.step > 0:  # step 0 has no checkpoint
            self._remember_best(scores[self.scorer.primary], self.scorer)
        is_best = self.best.step == self.step
        record = {"step": self.step, "scores": scores, "best": is_best}
        if self.step == 0 and self.scorer.baseline is not None:
            record["baseline"] = self.scorer.baseline
        by_first_process(self.fabric, lambda: self.log.write(record))
        listed = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self.log.say(f"step {self.step}/{self.total_steps}  validation: {listed}")

    def _remember_best(self, value: float, scorer: Scorer) -> None:
        better = self.best.value is None or (
            value > self.best.value if scorer.higher_is_better else value < self.best.value
        )
        if better:
            self.best = _Best(self.step, value)

    def _shows(self, *, final: bool) -> bool:
        return self._is_due(self.training.preview_every, final=final)

    def _scores(self, *, final: bool) -> bool:
        return self._is_due(self.training.score_every, final=final)

    def _is_due(self, every: int, *, final: bool) -> bool:
        return final or self.step == 0 or (every > 0 and self.step % every == 0)

    def _write_preview(self) -> None:
        if self._preview_batch is None:
            return
        with (
            self._averaged(),
            translating_mode(self.method),
            self.fabric.autocast(),
            self.stop.left_at_once(),
        ):
            columns = self.method.previews(self._preview_batch.to(self.fabric.device))
        rows = list(zip(*(images.float().cpu() for images in columns.values()), strict=True))
        file = self.run_dir / "previews" / f"step_{self.step:08d}.png"
        write_pillow(file, image_grid(rows, captions=list(columns)))
        self.log.image(self.step, file)

    def _averaged(self) -> Any:
        return self.average.in_place() if self.average is not None else nullcontext()

    def _mean_terms(self) -> dict[str, torch.Tensor]:
        names = list(self.updater.terms)
        values = torch.stack([self.updater.terms[name].float() for name in names])
        values = mean_over_processes(self.fabric, values)
        return dict(zip(names, values.unbind(), strict=True))

    def _images(self, batch: Any) -> int:
        return len(batch) * self.fabric.world_size

    def _write_log(self) -> None:
        if self.window.steps == 0:
            return
        record = self._log_record()
        by_first_process(self.fabric, lambda: self.log.write(record))
        self.log.show_terms(record)
        self.window = Window()

    def _log_record(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "epoch": 1 + (self.step - 1) // self.data.steps_per_epoch,
            **self.window.summary(),
            "learning_rates": {
                name: optimizer.param_groups[0]["lr"]
                for name, optimizer in self.updater.optimizers.items()
            },
            "memory_mib": _peak_memory_mib(self.fabric.device),
        }

    def _save(self) -> None:
        by_first_process(self.fabric, self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        self.stop.saving = True
        try:
            self.store.save(self._snapshot(), best=self.best.step == self.step)
        finally:
            self.stop.saving = False

    def _snapshot(self) -> Snapshot:
        model = dict(self.method.state_dict())
        if self.average is not None:
            model |= self.average.tensors()
        scaler = self.updater.scaler
        header = ModelHeader(**{**self.header.__dict__, "step": self.step})
        return Snapshot(
            step=self.step,
            header=header,
            model=model,
            optimizers=optimizer_tensors(self.updater.optimizers, self._trained()),
            state={
                "total_steps": self.total_steps,
                "best": self.best.__dict__,
                "looked_at": not self._owes_a_look,
                "scaler": scaler.state_dict() if scaler is not None else None,
            },
        )

    def _restore(self) -> None:
        snapshot, damaged = self.store.load_newest()
        for line in damaged:
            self.log.say(f"{line} Falling back to the checkpoint before.")
        if snapshot.header.method != self.header.method:
            raise CheckpointError(
                f"`{self.run_dir}` holds a run of `{snapshot.header.method}`, "
                f"not of `{self.header.method}`."
            )
        folder = self.store.path(snapshot.step)
        live = {n: t for n, t in snapshot.model.items() if not n.startswith(EMA_PREFIX)}
        load_strictly(self.method, live, source=f"`{folder / MODEL_FILE}`")
        self._restore_optimizers(snapshot, folder / OPTIMIZERS_FILE)
        if self.average is not None:
            self.average.load(snapshot.model)
        if self.updater.scaler is not None and snapshot.state["scaler"] is not None:
            self.updater.scaler.load_state_dict(snapshot.state["scaler"])
        try:
            self.best = _Best(**snapshot.state["best"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"`{folder}` tells no best step: {error}.") from error
        self.step = snapshot.step
        self._owes_a_look = snapshot.state.get("looked_at") is False
        by_first_process(self.fabric, self._mend_files)
        self.log.say(f"Resuming {self.run_dir} after step {self.step}/{self.total_steps}.")

    def _restore_optimizers(self, snapshot: Snapshot, file: Path) -> None:
        """Moments from a file that may be another: without them a run would not go on as it was."""
        optimizers, scaler = self.updater.optimizers, self.updater.scaler
        load_optimizer_tensors(snapshot.optimizers, optimizers, self._trained(), source=f"`{file}`")
        stepped = snapshot.step > 0 and scaler is None  # which leaves out first steps
        if stepped and not any(optimizer.state for optimizer in optimizers.values()):
            raise CheckpointError(
                f"`{file}` holds nothing of the optimizers of this run, which has made "
                f"{snapshot.step} steps."
            )

    def _mend_files(self) -> None:
        """As they are after the save of this step, wherever within or after it the run ended."""
        self.log.truncate_after(self.step)
        self.store.point("last", self.step)
        if self.best.step is not None and self.store.path(self.best.step).is_dir():
            self.store.point("best", self.best.step)
        self.store.remove_old()

    def _trained(self) -> dict[str, torch.nn.Module]:
        return {name: self.method.get_submodule(name) for name in self.updater.optimizers}


def _peak_memory_mib(device: torch.device) -> float | None:
    found = peak_memory_bytes(device)
    return None if found is None else round(found / 2**20, 1)
