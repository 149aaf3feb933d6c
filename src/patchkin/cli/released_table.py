"""What the flags of the released CUT, FastCUT and CycleGAN are here.

A flag there has one of ours (`WITH_VALUE`, `ALONE`), depends on what the method has (`COMPARED`),
or changes nothing of what is learned (`NEEDLESS`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from patchkin.config import short_flag

Flags: TypeAlias = list[str]
Translation: TypeAlias = Callable[[str], Flags]
Ours: TypeAlias = Mapping[str, tuple[object, str]]
"""A flag of `train` here -> the settings that hold it, and its name there."""
Reading: TypeAlias = "Callable[[str, Here], Flags | None]"
"""A value there -> our flags; none where it is as here anyway, None where it is not offered."""


def _same(name: str) -> Translation:
    return lambda value: [name, value]


def _of_both(name: str) -> Translation:
    """A setting of the optimizers of generator and discriminator."""
    owners = ("generator", "discriminator")
    return lambda value: [part for owner in owners for part in (f"--method.{owner}-{name}", value)]


def devices(value: str) -> Flags:
    """GPUs there, by number, and -1 for the CPU."""
    ids = [part for part in value.split(",") if part.strip()]
    if ids == ["-1"]:
        return ["--device", "cpu"]
    return ["--device", "cuda", *(["--devices", str(len(ids))] if len(ids) > 1 else [])]


def _adversarial(value: str) -> Flags:
    return ["--method.adversarial", "wgan" if value == "wgangp" else value]


def _is_true(value: str) -> bool:
    return value.lower() in ("true", "1", "")


def _truth(name: str) -> Translation:
    """A flag that takes true or false there."""
    return lambda value: [f"--method.{name if _is_true(value) else f'no-{name}'}"]


def _layers(value: str) -> Flags:
    return ["--method.taps", *value.split(",")]


WITH_VALUE: Mapping[str, Translation] = {
    "--dataroot": _same("--data"),
    "--gpu_ids": devices,
    "--load_size": _same("--data.load-size"),
    "--crop_size": _same("--size"),
    "--preprocess": _same("--data.preprocess"),
    "--random_scale_max": _same("--data.max-reduction"),
    "--num_threads": _same("--workers"),
    "--batch_size": _same("--batch-size"),
    "--max_dataset_size": _same("--data.max-images"),
    "--direction": _same("--direction"),
    "--ngf": _same("--ngf"),
    "--ndf": _same("--ndf"),
    "--lr": _of_both("adam.learning-rate"),
    "--beta1": _of_both("adam.beta1"),
    "--beta2": _of_both("adam.beta2"),
    "--gan_mode": _adversarial,
    "--pool_size": _same("--method.pool.capacity"),
    "--netF_nc": _same("--method.head-width"),
    "--num_patches": _same("--method.num-patches"),
    "--nce_T": _same("--method.temperature"),
    "--nce_layers": _layers,
    "--nce_idt": _truth("identity"),
    "--nce_includes_all_negatives_from_minibatch": _truth("all-negatives"),
    "--flip_equivariance": _truth("flip-equivariance"),
    "--lambda_GAN": _same("--method.adversarial-weight"),
    "--lambda_NCE": _same("--method.contrast-weight"),
    "--lambda_HDCE": _same("--method.contrast-weight"),
    "--lambda_SRC": _same("--method.relation-weight"),
    "--lambda_A": _same("--method.cycle-weight-a"),
    "--lambda_B": _same("--method.cycle-weight-b"),
    "--lambda_L1": _same("--method.content-weight"),
    "--lambda_R1": _same("--method.r1-weight"),
    "--lambda_identity": _same("--method.identity-weight"),
    "--seed": _same("--seed"),
}
"""A flag there -> what stands for it and its value here."""
ALONE: Mapping[str, Flags] = {
    "--no_flip": ["--data.no-flip"],
    "--serial_batches": ["--data.pairing", "serial"],
}
READ_TOGETHER = {
    *("--model", "--CUT_mode", "--name", "--checkpoints_dir", "--continue_train"),
    *("--n_epochs", "--n_epochs_decay", "--niter", "--niter_decay", "--pretrained_name"),
}
"""Flags that change more than one of ours, or one by what others say."""
NEEDLESS = (
    *("--display_id", "--display_freq", "--display_port", "--display_env", "--display_ncols"),
    *("--display_winsize", "--display_server", "--print_freq", "--update_html_freq", "--no_html"),
    *("--phase", "--verbose", "--suffix", "--save_latest_freq", "--save_epoch_freq"),
    *("--save_by_iter", "--evaluation_freq", "--use_wandb", "--easy_label"),
)
"""Flags that change nothing of what is learned."""
OF_TEST = {"--results_dir", "--num_test", "--eval", "--aspect_ratio", "--model_suffix"}
"""Of `test.py` only."""


@dataclass(frozen=True)
class Here:
    """What a flag may depend on."""

    given: Mapping[str, Flags]
    """Each flag that was typed -> its values."""
    method: str
    ours: Ours

    def value(self, *names: str) -> str | None:
        """What the first of some flags says; the empty string where it stands alone."""
        found = next((self.given[name] for name in names if name in self.given), None)
        return None if found is None else " ".join(found)


# Networks, norms and schedules: a value there is one here, the default, or none.


def _generator(value: str, here: Here) -> Flags | None:
    residual = re.fullmatch(r"resnet_(\d+)blocks", value)
    if residual and "--method.generator.antialias-down" in here.ours:
        return ["--blocks", residual[1]]
    levels = {"unet_256": "8", "unet_128": "7"}.get(value)
    if levels and "--method.generator.levels" in here.ours:
        return ["--method.generator.levels", levels]
    small = {"stylegan2": False, "smallstylegan2": True}.get(value)
    if small is None or "--method.generator.noise" not in here.ours:
        return None
    blocks, noise = ("2", "no-noise") if small else ("6", "noise")
    return ["--blocks", blocks, f"--method.generator.{noise}"]


def _discriminator(value: str, here: Here) -> Flags | None:
    kind = "--method.discriminator.kind"
    if value in ("basic", "n_layers") and kind in here.ours:
        layers = (here.value("--n_layers_D") if value == "n_layers" else None) or "3"
        return [kind, "basic", "--method.discriminator.layers", layers]
    if value == "pixel" and kind in here.ours:
        return [kind, "pixel"]
    large = "--method.discriminator.working-size" in here.ours
    return [] if value == "stylegan2" and large else None


def _layers_of_discriminator(value: str, here: Here) -> Flags | None:
    """Read by `_discriminator`; without `n_layers` it changes nothing there."""
    return []


def _head(value: str, here: Here) -> Flags | None:
    return [] if value == "mlp_sample" and "--method.head-width" in here.ours else None


def _initialization(name: str) -> Reading:
    def read(value: str, here: Here) -> Flags:
        head_only = "--method.head-initialization.kind" in here.ours
        return [f"--method.{'head-' if head_only else ''}initialization.{name}", value]

    return read


def _norms(*networks: str) -> Reading:
    return lambda value, here: [
        part for network in networks for part in (f"--method.{network}.norm", value)
    ]


def _only(value: str) -> Reading:
    """Of a flag with one value that is what happens here anyway."""
    return lambda given, here: [] if given == value else None


def _turned_off(*flags: str) -> Reading:
    """What is not there needs no turning off."""
    return lambda value, here: [flag for flag in flags if place_of(flag, here.ours) is not None]


def _no_dropout(value: str, here: Here) -> Flags | None:
    if _is_true(value):
        return _turned_off("--method.generator.no-dropout")(value, here)
    return ["--method.generator.dropout"]


def _decay_interval(value: str, here: Here) -> Flags | None:
    return None if here.value("--lr_policy") == "step" else []


def _sets(value: str, here: Here) -> Flags | None:
    kept = {"pix2pix": "aligned", "sincut": "singleimage"}.get(here.method, "unaligned")
    return [] if value == kept else None


def _channels(value: str, here: Here) -> Flags | None:
    """Both numbers, which are 3 there unless given."""
    source, target = (here.value(name) or "3" for name in ("--input_nc", "--output_nc"))
    names = ("generator.in", "generator.out", "discriminator.in")
    places = [here.ours.get(f"--method.{name}-channels") for name in names]
    numbers = [0 if place is None else getattr(*place) for place in places]
    if source == target:
        return [] if str(numbers[0]) == source else ["--channels", source]
    if not (source + target).isdecimal():
        return None
    pair = numbers[2] == numbers[0] + numbers[1]  # of pix2pix's discriminator
    judged = int(source) + int(target) if pair else int(target)
    wanted = zip(names, (source, target, str(judged)), strict=True)
    return [part for name, number in wanted for part in (f"--method.{name}-channels", number)]


COMPARED: Mapping[str, Reading] = {
    "--netG": _generator,
    "--netD": _discriminator,
    "--n_layers_D": _layers_of_discriminator,
    "--netF": _head,
    "--init_type": _initialization("kind"),
    "--init_gain": _initialization("gain"),
    "--normG": _norms("generator"),
    "--normD": _norms("discriminator"),
    "--norm": _norms("generator", "discriminator"),
    "--no_dropout": _no_dropout,
    "--no_antialias": _turned_off(
        "--method.generator.no-antialias-down", "--method.discriminator.no-antialias"
    ),
    "--no_antialias_up": _turned_off("--method.generator.no-antialias-up"),
    "--stylegan2_G_num_downsampling": lambda value, here: [
        *("--method.generator.num-downsampling", value)
    ],
    "--input_nc": _channels,
    "--output_nc": _channels,
    "--lr_policy": _only("linear"),
    "--lr_decay_iters": _decay_interval,
    "--epoch_count": _only("1"),
    "--epoch": _only("latest"),
    "--dataset_mode": _sets,
}
"""Flags whose answer depends on what the method has; what is its default need not be said."""
RELEASED = {*WITH_VALUE, *ALONE, *COMPARED, *READ_TOGETHER, *NEEDLESS, *OF_TEST}
TELLING = RELEASED - {"--direction", "--batch_size", "--ngf", "--ndf", "--seed"}
"""One of these tells where a command comes from; the others are flags of ours, too."""


# Flags of ours: which there are for a method, what they take, and their defaults.


def flags_of(owner: Any, prefix: str = "--") -> dict[str, tuple[object, str]]:
    """The flags of a dataclass and of those in it."""
    found: dict[str, tuple[object, str]] = {}
    for item in fields(owner):
        name = prefix + item.name.replace("_", "-")
        value = getattr(owner, item.name, None)
        if is_dataclass(value):
            found |= flags_of(value, f"{name}.")
        else:
            found[name] = (owner, item.name)
            short = short_flag(owner, item.name)
            found |= {short: (owner, item.name)} if short else {}
    return found


def place_of(flag: str, ours: Ours) -> tuple[object, str] | None:
    """Where a flag is held, one that turns off included."""
    flag = flag.replace("_", "-") if flag.startswith("--") else flag
    front, dot, last = flag.rpartition(".") if "." in flag else ("--", "", flag[2:])
    return ours.get(flag) or ours.get(f"{front}{dot}{last.removeprefix('no-')}")


def fit(flags: Flags, ours: Ours) -> bool:
    """Whether the method has all of some flags, and where they choose, the choice."""
    for flag, values in grouped(flags)[1].items():
        place = place_of(flag, ours)
        if place is None:
            return False
        owner, name = place
        hint = get_type_hints(type(owner)).get(name)
        if get_origin(hint) is Literal and not set(values) <= set(get_args(hint)):
            return False
    return True


def changed(flags: Flags, ours: Ours) -> Flags:
    """Those that do not say what holds without them."""
    left = []
    for flag, values in grouped(flags)[1].items():
        owner, name = place_of(flag, ours) or (None, "")
        default = getattr(owner, name)
        same = (
            default is (flag in ours) if isinstance(default, bool) else _same_value(values, default)
        )
        left += [] if same else [flag, *values]
    return left


def _same_value(values: Flags, default: object) -> bool:
    if isinstance(default, float):
        try:
            return float(values[0]) == default
        except ValueError:
            return False
    return values == [str(default)]


def grouped(arguments: Iterable[str]) -> tuple[Flags, dict[str, Flags]]:
    """The words before the first flag, and each flag with its values; the last one counts."""
    words: Flags = []
    given: dict[str, Flags] = {}
    values = words
    for argument in arguments:
        if _is_value(argument):
            values.append(argument)
            continue
        name, equals, value = argument.partition("=")
        values = [value] if equals else []
        given[name] = values
    return words, given


def _is_value(word: str) -> bool:
    """Whether a word is the value of the flag before it: `-1` is."""
    return not word.startswith("-") or word.lstrip("-").replace(".", "", 1).isdigit()
