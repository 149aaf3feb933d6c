"""Flags of the released CUT, FastCUT and CycleGAN, answered with ours.

Who comes from there types what the fingers know. The answer is one line that holds the whole
command in our words; nothing is run, because a default may differ (`patchkin methods NAME`).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from patchkin.errors import ConfigError
from patchkin.method import Method

Flags: TypeAlias = list[str]
Translation: TypeAlias = Callable[[str], Flags]

_METHODS = {"cycle_gan": "cyclegan", "sincut": "sincut", "pix2pix": "pix2pix", "cut": "cut"}
_DEFAULT_METHOD = "cut"


def _same(name: str) -> Translation:
    return lambda value: [name, value]


def _rates(value: str) -> Flags:
    names = ("generator", "discriminator")
    return [part for name in names for part in (f"--method.{name}-adam.learning-rate", value)]


def _beta1(value: str) -> Flags:
    names = ("generator", "discriminator")
    return [part for name in names for part in (f"--method.{name}-adam.beta1", value)]


def _devices(value: str) -> Flags:
    ids = [part for part in value.split(",") if part.strip()]
    if ids == ["-1"]:
        return ["--device", "cpu"]
    return ["--device", "cuda", *(["--devices", str(len(ids))] if len(ids) > 1 else [])]


def _generator(value: str) -> Flags:
    if value.startswith("resnet_"):
        return ["--blocks", value.removeprefix("resnet_").removesuffix("blocks")]
    return []


def _discriminator(value: str) -> Flags:
    return ["--method.discriminator.kind", "pixel"] if value == "pixel" else []


def _adversarial(value: str) -> Flags:
    return ["--method.adversarial", "wgan" if value == "wgangp" else value]


def _truth(name: str) -> Translation:
    """A flag that takes true or false there."""
    return lambda value: [f"--method.{name if value.lower() in ('true', '1') else f'no-{name}'}"]


def _layers(value: str) -> Flags:
    return ["--method.taps", *value.split(",")]


_WITH_VALUE: Mapping[str, Translation] = {
    "--dataroot": _same("--data"),
    "--gpu_ids": _devices,
    "--load_size": _same("--data.load-size"),
    "--crop_size": _same("--size"),
    "--preprocess": _same("--data.preprocess"),
    "--num_threads": _same("--workers"),
    "--batch_size": _same("--batch-size"),
    "--max_dataset_size": _same("--data.max-images"),
    "--direction": _same("--direction"),
    "--netG": _generator,
    "--netD": _discriminator,
    "--ngf": _same("--ngf"),
    "--ndf": _same("--ndf"),
    "--lr": _rates,
    "--beta1": _beta1,
    "--gan_mode": _adversarial,
    "--pool_size": _same("--method.pool.capacity"),
    "--init_gain": _same("--method.initialization.gain"),
    "--netF_nc": _same("--method.head-width"),
    "--num_patches": _same("--method.num-patches"),
    "--nce_T": _same("--method.temperature"),
    "--nce_layers": _layers,
    "--nce_idt": _truth("identity"),
    "--flip_equivariance": _truth("flip-equivariance"),
    "--lambda_GAN": _same("--method.adversarial-weight"),
    "--lambda_NCE": _same("--method.contrast-weight"),
    "--lambda_HDCE": _same("--method.contrast-weight"),
    "--lambda_SRC": _same("--method.relation-weight"),
    "--lambda_A": _same("--method.cycle-weight-a"),
    "--lambda_B": _same("--method.cycle-weight-b"),
    "--lambda_L1": _same("--method.content-weight"),
    "--lambda_identity": _same("--method.identity-weight"),
    "--seed": _same("--seed"),
}
"""A flag there -> what stands for it and its value here."""
_ALONE: Mapping[str, Flags] = {
    "--no_flip": ["--data.no-flip"],
    "--serial_batches": ["--data.pairing", "serial"],
}
_READ_HERE = (
    *("--model", "--CUT_mode", "--name", "--checkpoints_dir", "--continue_train"),
    *("--n_epochs", "--n_epochs_decay", "--niter", "--niter_decay"),
)
"""Flags that change more than one of ours; `_command` reads them."""
_NEEDLESS = (
    *("--display_id", "--display_freq", "--display_port", "--display_env", "--display_ncols"),
    *("--display_winsize", "--display_server", "--print_freq", "--update_html_freq", "--no_html"),
    *("--phase", "--verbose", "--suffix", "--no_dropout", "--dataset_mode", "--normG", "--normD"),
    *("--save_latest_freq", "--save_epoch_freq", "--save_by_iter", "--evaluation_freq", "--epoch"),
    *("--epoch_count", "--lr_policy", "--init_type", "--netF", "--use_wandb", "--easy_label"),
)
"""Flags without a counterpart, named in the answer."""
_OF_RELEASED = {
    *("--dataroot", "--name", "--model", "--CUT_mode", "--gpu_ids", "--load_size", "--crop_size"),
    *(
        "--preprocess",
        "--n_epochs",
        "--n_epochs_decay",
        "--niter",
        "--niter_decay",
        "--num_threads",
    ),
    *("--netG", "--netD", "--continue_train", "--checkpoints_dir", "--lambda_NCE", "--lambda_A"),
    *("--lambda_HDCE", "--lambda_SRC", "--nce_idt", "--nce_layers", "--no_flip", "--gan_mode"),
    *("--display_id", "--serial_batches", "--max_dataset_size", "--lambda_identity", "--lr"),
    *("--lambda_B", "--lambda_L1", "--lambda_GAN"),
}
"""One of these tells where the others come from; the rest also are, or could be, flags of ours."""


@dataclass
class _Reading:
    words: Flags = field(default_factory=list)
    """Without a dash in front: a method of ours, perhaps."""
    known: dict[str, str] = field(default_factory=dict)
    """Those of `_READ_HERE`."""
    flags: Flags = field(default_factory=list)
    needless: Flags = field(default_factory=list)


def refuse_released_flags(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> None:
    """Pass, if no flag comes from the released code.

    Args:
        arguments: of `patchkin train`, the verb left out.
        methods: those that `train` offers.

    Raises:
        ConfigError: some do; the message holds the command in our flags.

    >>> from patchkin.methods import METHODS
    >>> refuse_released_flags(["--dataroot", "d", "--name", "n", "--CUT_mode", "FastCUT"], METHODS)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: These are flags of the released CUT and CycleGAN. Here it is:
    patchkin train cut --preset fastcut --data d --run-dir runs/n
    """
    names = {argument.partition("=")[0] for argument in arguments}
    if not names & _OF_RELEASED:
        return
    reading = _read(arguments)
    without = f" (no need of {', '.join(reading.needless)})" if reading.needless else ""
    raise ConfigError(
        f"These are flags of the released CUT and CycleGAN. Here it is{without}: "
        f"{shlex.join(_command(reading, methods))}"
    )


def _read(arguments: Sequence[str]) -> _Reading:
    reading, left = _Reading(), list(arguments)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if not name.startswith("-"):
            reading.words.append(name)
            continue
        if not equals and left and _is_value(left[0]):
            value = left.pop(0)
        if name in _READ_HERE:
            reading.known[name] = value
        elif name in _WITH_VALUE:
            reading.flags += _WITH_VALUE[name](value)
        elif name in _ALONE:
            reading.flags += _ALONE[name]
        elif name in _NEEDLESS:
            reading.needless.append(name)
        else:  # one of ours
            reading.flags += [name, *([value] if value else [])]
    return reading


def _is_value(word: str) -> bool:
    """Whether a word is the value of the flag before it: `-1` is."""
    return not word.startswith("-") or word.lstrip("-").replace(".", "", 1).isdigit()


def _command(reading: _Reading, methods: Mapping[str, type[Method]]) -> Flags:
    known = reading.known
    run_dir = None
    if "--name" in known:
        run_dir = Path(known.get("--checkpoints_dir") or "runs", known["--name"]).as_posix()
    if "--continue_train" in known and run_dir is not None:
        return ["patchkin", "train", "--resume", run_dir]
    mode = known.get("--CUT_mode", "").lower()
    method = reading.words[0] if reading.words else ""
    method = method or _METHODS.get(known.get("--model", ""), _DEFAULT_METHOD)
    preset = ["--preset", "fastcut"] if (method, mode) == ("cut", "fastcut") else []
    return [
        *("patchkin", "train", method),
        *preset,
        *reading.flags,
        *_epochs(known, methods.get(method), preset[-1] if preset else None),
        *([] if run_dir is None else ["--run-dir", run_dir]),
    ]


def _epochs(known: Mapping[str, str], kind: type[Method] | None, preset: str | None) -> Flags:
    """Constant and decaying epochs as their sum and a share; one that is not given is ours."""
    given = [known.get("--n_epochs", known.get("--niter"))]
    given += [known.get("--n_epochs_decay", known.get("--niter_decay"))]
    if given == [None, None] or kind is None:
        return []
    schedule = kind.presets[preset or next(iter(kind.presets))].schedule
    decaying = round(schedule.epochs * schedule.decay_fraction)
    published = (schedule.epochs - decaying, decaying)
    numbers = [
        int(text) if text and text.isdigit() else ours
        for text, ours in zip(given, published, strict=True)
    ]
    total = sum(numbers)
    share = f"{numbers[1] / max(total, 1):.6g}"
    return ["--epochs", str(total), "--schedule.decay-fraction", share]
