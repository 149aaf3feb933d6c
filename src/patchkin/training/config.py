"""How a run is carried out. What it begins from and precision change what is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from patchkin.config import flag, no_flag
from patchkin.devices import Device, Precision
from patchkin.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Machine, intervals and files of a run."""

    seed: Annotated[int, flag("--seed")] = 0
    """Same seed, same processor and versions: the same run, bit for bit. On a GPU only with
    `--deterministic`; without, some sums are added in an order that changes."""
    start_from: Annotated[str | None, flag("--from")] = None
    """Model whose weights the run begins with, as far as they fit: a run, a checkpoint, a model
    file (also of `import-weights`) or a shipped model. Optimizers are fresh."""
    start_sha256: Annotated[str | None, no_flag()] = None
    """Of that model's file; a run writes down what it found."""
    precision: Annotated[Precision, flag("--precision")] = "32-true"
    """Of the networks: 32-true is IEEE float32, tf32 rounds on NVIDIA GPUs. Losses are computed in
    float32 always."""
    deterministic: Annotated[bool, flag("--deterministic")] = False
    """Take only operations with equal bits on equal inputs. No effect on a CPU, where all are; what
    it costs on a GPU is not measured yet."""
    device: Annotated[Device, flag("--device")] = "auto"
    """Where to compute; `auto` takes the accelerator if there is one."""
    devices: Annotated[int, flag("--devices")] = 1
    """Processes on this machine. `torchrun` and Slurm are recognised and need no number here."""
    nodes: int = 1
    """Machines, when a launcher started one process each."""
    compile: Annotated[bool, flag("--compile")] = False
    """Compile the networks for the training steps. The first steps take minutes; losses and
    gradients agree up to rounding. Where it fails, one line says why and training goes on. It does
    not pay on a CPU (`benchmarks/speed/compile_cpu_2026-11-21.md`); not yet tried on a GPU."""
    cuda_graphs: Annotated[bool, flag("--cuda-graphs")] = False
    """Compile, and replay the kernels of each network as CUDA graphs, for steps of fixed shapes.
    Not yet tried on a GPU."""
    clip_norm: float | None = None
    """Largest gradient norm of a network in one update. No published setting clips."""
    log_every: int = 50
    """Steps between lines of `log.jsonl`; a line holds means over them."""
    save_every: Annotated[int, flag("--save-every")] = 5000
    """Steps between checkpoints. The end of the run and Ctrl-C always save."""
    keep: int = 3
    """Checkpoints kept beside the best one; older ones are removed. 0 keeps all."""
    preview_every: int = 1000
    """Steps between preview images. 0: only at the start and the end."""
    score_every: Annotated[int, flag("--score-every")] = 0
    """Steps between scores on validation images, which never are test images. 0: only at the start
    and the end, and only where the set has a val split with known counterparts."""
    score_protocol: str = "squeezenet-256"
    """Of the scores during training, if `score_weights` are given."""
    score_weights: Path | None = None
    """File of that protocol's extractor. Without it only change and warnings are logged, unless the
    set knows the counterparts (as the toy set does)."""
    score_classes: tuple[int, ...] = ()
    """Classes of ImageNet that outputs should be taken for (340: zebra)."""

    def __post_init__(self) -> None:
        for name in ("devices", "nodes", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("keep", "preview_every", "score_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative; got {getattr(self, name)}.")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigError(f"`clip_norm` must be positive; got {self.clip_norm}.")
