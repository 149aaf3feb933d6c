"""Commands of the released CUT and CycleGAN are answered with ours."""

from __future__ import annotations

import shlex

import pytest

from patchkin.cli import main
from patchkin.cli.released_flags import refuse_released_flags
from patchkin.methods import METHODS

COMMANDS = {
    # their READMEs
    "--dataroot ./datasets/grumpifycat --name grumpycat_CUT --CUT_mode CUT": (
        "train cut --data ./datasets/grumpifycat --run-dir runs/grumpycat_CUT"
    ),
    "--dataroot ./datasets/grumpifycat --name grumpycat_FastCUT --CUT_mode FastCUT": (
        "train cut --preset fastcut --data ./datasets/grumpifycat --run-dir runs/grumpycat_FastCUT"
    ),
    "--model cycle_gan --dataroot maps --name maps_cyclegan --display_id -1": (
        "train cyclegan --data maps --run-dir runs/maps_cyclegan"
    ),
    "--model sincut --name singleimage --dataroot ./single_image_monet_etretat": (
        "train sincut --data ./single_image_monet_etretat --run-dir runs/singleimage"
    ),
    "--dataroot d --gpu_ids -1": "train cut --data d --device cpu",
    "--dataroot d --gpu_ids 0,1": "train cut --data d --device cuda --devices 2",
    "--dataroot d --gpu_ids=2": "train cut --data d --device cuda",
    "--dataroot d --load_size 300 --crop_size 256 --preprocess scale_width": (
        "train cut --data d --data.load-size 300 --size 256 --data.preprocess scale_width"
    ),
    # constant and decaying epochs; what is not given is published
    "--dataroot d --n_epochs 50 --n_epochs_decay 150": (
        "train cut --data d --epochs 200 --schedule.decay-fraction 0.75"
    ),
    "--dataroot d --n_epochs 50": ("train cut --data d --epochs 250 --schedule.decay-fraction 0.8"),
    "--dataroot d --CUT_mode FastCUT --n_epochs_decay 150": (
        "train cut --preset fastcut --data d --epochs 300 --schedule.decay-fraction 0.5"
    ),
    "--dataroot d --model cycle_gan --niter 100 --niter_decay 0": (
        "train cyclegan --data d --epochs 100 --schedule.decay-fraction 0"
    ),
    "--dataroot d --num_threads 0 --batch_size 4 --netG resnet_6blocks --direction BtoA": (
        "train cut --data d --workers 0 --batch-size 4 --blocks 6 --direction BtoA"
    ),
    "--dataroot d --name n --checkpoints_dir c --continue_train --lr 1e-4": ("train --resume c/n"),
    "semantic-relation --dataroot d --lambda_HDCE 0.2 --lambda_SRC 0.1": (
        "train semantic-relation --data d --method.contrast-weight 0.2 --method.relation-weight 0.1"
    ),
    "--dataroot d --lr 1e-4 --nce_idt False --nce_layers 0,4,8 --no_flip --serial_batches": (
        "train cut --data d --method.generator-adam.learning-rate 1e-4 "
        "--method.discriminator-adam.learning-rate 1e-4 --method.no-identity "
        "--method.taps 0 4 8 --data.no-flip --data.pairing serial"
    ),
    "--model pix2pix --dataroot d --lambda_L1 50 --netG unet_256 --gan_mode wgangp": (
        "train pix2pix --data d --method.content-weight 50 --method.adversarial wgan"
    ),
}
"""Theirs -> ours."""


def answer(command, capsys):
    assert main(["train", *shlex.split(command)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("patchkin: error: These are flags of the released CUT and CycleGAN.")
    assert line.count("\n") == 1
    return line.rstrip("\n").partition(": patchkin ")[2]


@pytest.mark.parametrize("released", COMMANDS)
def test_a_released_command_is_answered_with_ours(released, capsys):
    ours = answer(released, capsys)
    assert ours == COMMANDS[released]
    if "--resume" not in ours:  # it is a command that runs
        assert main([*shlex.split(ours), "--print-config"]) == 0


def test_flags_without_a_counterpart_are_named(capsys):
    main(["train", "--dataroot", "d", "--display_id", "-1", "--no_html", "--phase", "train"])
    assert "(no need of --display_id, --no_html, --phase)" in capsys.readouterr().err


def test_a_folder_with_a_space_is_quoted(capsys):
    assert answer("--dataroot 'my photos'", capsys) == "train cut --data 'my photos'"


def test_our_own_flags_pass():
    ours = "cut --data d --direction BtoA --batch_size 4 --ngf 32 --seed 1 --data.load-size 40"
    refuse_released_flags(shlex.split(ours), METHODS)
