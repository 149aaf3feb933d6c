"""Processes, devices and precision of a run, by Lightning Fabric."""

from __future__ import annotations

import logging
import warnings

import torch
from lightning_fabric import Fabric

from patchkin.devices import autocast_dtype, choose_device, keep_freed_memory
from patchkin.errors import ConfigError
from patchkin.training.config import TrainingConfig


def launch(training: TrainingConfig) -> Fabric:
    """Start the processes of a run, or join those that `torchrun` or Slurm started.

    From here on every line of the program runs in each of them.

    Raises:
        ConfigError: this machine lacks the device, or it cannot compute in this precision.
    """
    device = choose_device(training.device)
    autocast_dtype(training.precision, device)
    if device.type == "cuda" and training.devices > torch.cuda.device_count():
        raise ConfigError(
            f"--devices {training.devices}: this machine has {torch.cuda.device_count()} GPUs."
        )
    if device.type == "mps" and training.devices > 1:
        raise ConfigError("--devices: there is one mps device. Use --devices 1.")
    if device.type == "cpu":
        keep_freed_memory()
    several = training.devices > 1 or training.nodes > 1
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator=device.type,
            devices=training.devices,
            num_nodes=training.nodes,
            strategy="ddp" if several else "auto",
            precision=training.precision,
        )
        fabric.launch()
    return fabric
