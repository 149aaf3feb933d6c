"""Processes, devices and precision of a run, by Lightning Fabric."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping

import torch

from patchkin.devices import (
    autocast_dtype,
    choose_device,
    keep_freed_memory,
    set_deterministic,
    set_float32,
)
from patchkin.errors import ConfigError
from patchkin.training import siblings
from patchkin.training.config import TrainingConfig
from patchkin.training.fabric import Fabric


def launch(training: TrainingConfig) -> Fabric:
    """Start the processes of a run, or join those that `torchrun` or Slurm started.

    From here on every line of the program runs in each of them.

    Raises:
        ConfigError: this machine lacks the device, or it cannot compute in this precision.
    """
    device = choose_device(training.device)
    autocast_dtype(training.precision, device)
    set_float32(training.precision)
    set_deterministic(training.deterministic)
    if device.type == "cuda" and training.devices > torch.cuda.device_count():
        raise ConfigError(
            f"--devices {training.devices}: this machine has {torch.cuda.device_count()} GPUs."
        )
    if device.type == "mps" and training.devices > 1:
        raise ConfigError("--devices: there is one mps device. Use --devices 1.")
    if device.type == "cpu":
        keep_freed_memory()
    devices, nodes = _processes(training, os.environ)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = _fabric(training, device, devices, nodes)
        environment = getattr(fabric.strategy, "cluster_environment", None)
        if environment is not None and not environment.creates_processes_externally:
            siblings.start(devices, nodes=nodes)  # else Fabric would, and watch them in its way
            fabric = _fabric(training, device, devices, nodes)
        fabric.launch()
    return fabric


def _fabric(training: TrainingConfig, device: torch.device, devices: int, nodes: int) -> Fabric:
    return Fabric(
        accelerator=device.type,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision="32-true" if training.precision == "tf32" else training.precision,
    )


def _processes(training: TrainingConfig, environment: Mapping[str, str]) -> tuple[int, int]:
    """Processes of each machine, and machines: those of the launcher, or of the settings.

    >>> started = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "0"}
    >>> _processes(TrainingConfig(), started)
    (4, 2)
    """
    if {"RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= environment.keys():
        devices = int(environment["LOCAL_WORLD_SIZE"])
        nodes = int(environment["WORLD_SIZE"]) // devices
    elif "SLURM_STEP_ID" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1:
        nodes = int(environment.get("SLURM_NNODES", "1"))
        devices = int(environment["SLURM_NTASKS"]) // nodes
    else:
        return training.devices, training.nodes
    for flag, told, found in (
        ("--devices", training.devices, devices),
        ("--training.nodes", training.nodes, nodes),
    ):
        if told not in (1, found):
            raise ConfigError(
                f"{flag} {told}: the launcher started {nodes} x {devices} processes "
                "(machines x processes of each). Leave the flag out."
            )
    return devices, nodes
