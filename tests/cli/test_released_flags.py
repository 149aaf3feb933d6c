"""Commands of the released CUT and CycleGAN are answered with ours."""

from __future__ import annotations

import importlib.util
import shlex
from functools import cache
from pathlib import Path

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
        assert is_taken(ours)


def test_flags_without_a_counterpart_are_named(capsys):
    main(["train", "--dataroot", "d", "--display_id", "-1", "--no_html", "--phase", "train"])
    assert "(no need of --display_id, --no_html, --phase)" in capsys.readouterr().err


def test_a_folder_with_a_space_is_quoted(capsys):
    assert answer("--dataroot 'my photos'", capsys) == "train cut --data 'my photos'"


def test_our_own_flags_pass():
    ours = "cut --data d --direction BtoA --batch_size 4 --ngf 32 --seed 1 --data.load-size 40"
    refuse_released_flags(shlex.split(ours), METHODS)


NOTED = {
    # networks: what is the default, what is not offered, what is translated
    "--netG stylegan2": "(not offered here: --netG stylegan2): train cut",
    "--netG unet_256": "(not offered here: --netG unet_256): train cut",
    "--netG resnet_9blocks": "(no need of --netG resnet_9blocks): train cut",
    "--netG resnet_6blocks": ": train cut --blocks 6",
    "--model pix2pix --netG unet_256": "(no need of --netG unet_256): train pix2pix",
    "--model pix2pix --netG unet_128": ": train pix2pix --method.generator.levels 7",
    "--model pix2pix --netG resnet_9blocks": (
        "(not offered here: --netG resnet_9blocks): train pix2pix"
    ),
    "--model sincut --netG stylegan2 --netD stylegan2": (
        "(no need of --netG stylegan2, --netD stylegan2): train sincut"
    ),
    "--model sincut --netG smallstylegan2": (
        ": train sincut --blocks 2 --method.generator.no-noise"
    ),
    "--netD basic": "(no need of --netD basic): train cut",
    "--netD basic --n_layers_D 5": "(no need of --netD basic, --n_layers_D 5): train cut",
    "--netD n_layers": "(no need of --netD n_layers): train cut",
    "--netD n_layers --n_layers_D 4": ": train cut --method.discriminator.layers 4",
    "--netD pixel": ": train cut --method.discriminator.kind pixel",
    "--netD stylegan2": "(not offered here: --netD stylegan2): train cut",
    "--netF mlp_sample": "(no need of --netF mlp_sample): train cut",
    "--netF sample": "(not offered here: --netF sample): train cut",
    "--init_type normal": ": train cut --method.initialization.kind normal",
    "--init_type xavier --init_gain 0.02": (
        "(no need of --init_type xavier, --init_gain 0.02): train cut"
    ),
    "--init_type he": "(not offered here: --init_type he): train cut",
    "--model cycle_gan --init_type normal": "(no need of --init_type normal): train cyclegan",
    "--model cycle_gan --init_type xavier": (
        ": train cyclegan --method.initialization.kind xavier"
    ),
    "--model sincut --init_type normal": ": train sincut --method.head-initialization.kind normal",
    "--normG batch --normD instance": (
        "(no need of --normD instance): train cut --method.generator.norm batch"
    ),
    "--normD none": ": train cut --method.discriminator.norm none",
    "--normG layer": "(not offered here: --normG layer): train cut",
    "--no_antialias --no_antialias_up": (
        ": train cut --method.generator.no-antialias-down --method.discriminator.no-antialias "
        "--method.generator.no-antialias-up"
    ),
    "--model cycle_gan --no_antialias": "(no need of --no_antialias): train cyclegan",
    "--no_dropout true": "(no need of --no_dropout true): train cut",
    "--no_dropout false": ": train cut --method.generator.dropout",
    # schedules and modes
    "--lr_policy linear": "(no need of --lr_policy linear): train cut",
    "--lr_policy cosine": "(not offered here: --lr_policy cosine): train cut",
    "--epoch_count 5": "(not offered here: --epoch_count 5): train cut",
    "--CUT_mode fast": ("(not offered here: --CUT_mode fast (there: CUT, FastCUT)): train cut"),
    "--model cycle_gan --CUT_mode FastCUT": (
        "(not offered here: --CUT_mode FastCUT of cyclegan): train cyclegan"
    ),
    "--CUT_mode toy": "(not offered here: --CUT_mode toy (there: CUT, FastCUT)): train cut",
    "--CUT_mode FastCUT --lr_policy linear": (
        "(no need of --lr_policy linear): train cut --preset fastcut"
    ),
    "--lambda_A 10": "(not offered here: --lambda_A 10): train cut",
    "--gan_mode other": "(not offered here: --gan_mode other): train cut",
    "--pool_size 50": "(no need of --pool_size): train cut",
    "--model cycle_gan --pool_size 0": ": train cyclegan --method.pool.capacity 0",
    # channels
    "--input_nc 1 --output_nc 1": ": train cut --channels 1",
    "--input_nc 3 --output_nc 3": "(no need of --input_nc 3, --output_nc 3): train cut",
    "--output_nc 3": "(no need of --output_nc 3): train cut",
    "--input_nc 3 --output_nc 1": (
        ": train cut --method.generator.out-channels 1 --method.discriminator.in-channels 1"
    ),
    "--input_nc 1": ": train cut --method.generator.in-channels 1",
    "--model pix2pix --input_nc 1 --output_nc 3": (
        ": train pix2pix --method.generator.in-channels 1 --method.discriminator.in-channels 4"
    ),
    # mistyped
    "--CUT_mde FastCUT": "(not known: --CUT_mde (did you mean --CUT_mode?)): train cut",
    "--no_antialas": "(not known: --no_antialas (did you mean --no_antialias?)): train cut",
    # ours among theirs
    "--method.taps 0 4 --precision 16-mixed": ": train cut --method.taps 0 4 --precision 16-mixed",
}
"""Theirs -> what is said, and ours; `--dataroot d` and `--data d` are left out."""


@pytest.mark.parametrize("released", NOTED)
def test_a_setting_is_translated_or_named(released, capsys):
    ours = whole_answer(f"train --dataroot d {released}", capsys)
    notes, _, flags = NOTED[released].rpartition(": train ")
    method, _, rest = flags.partition(" ")
    preset = "--preset fastcut " if rest.startswith("--preset") else ""
    expected = f"{method} {preset}--data d {rest.removeprefix(preset.strip())}"
    assert ours == f"{f' {notes}' if notes else ''}: patchkin train {' '.join(expected.split())}"
    assert is_taken(ours.rpartition(": patchkin ")[2])


@cache
def is_taken(command):
    return main([*shlex.split(command), "--print-config"]) == 0


def whole_answer(command, capsys):
    """What follows the sentence that all answers begin with."""
    assert main(shlex.split(command)) == 2
    line = capsys.readouterr().err
    start = "patchkin: error: These are flags of the released CUT and CycleGAN. Here it is"
    assert line.startswith(start)
    assert line.count("\n") == 1
    return line.rstrip("\n").removeprefix(start)


def test_a_mistyped_flag_alone_tells_where_a_command_comes_from(capsys):
    assert whole_answer("train --data d --CUT_mde FastCUT", capsys) == (
        " (not known: --CUT_mde (did you mean --CUT_mode?)): patchkin train cut --data d"
    )


def test_a_model_that_there_is_not_is_no_cut(capsys):
    assert main(["train", "--dataroot", "d", "--model", "cycle_gn"]) == 2
    wanted = "patchkin: error: There is no method `cycle-gn` here. Did you mean `cyclegan`?\n"
    assert capsys.readouterr().err == wanted


OTHER_PLACES = {
    # the program is pasted too
    "train train.py --dataroot d --name n": ": patchkin train cut --data d --run-dir runs/n",
    "train python train.py --dataroot d --name n --CUT_mode FastCUT": (
        ": patchkin train cut --preset fastcut --data d --run-dir runs/n"
    ),
    "train python -u ./train.py --dataroot d": ": patchkin train cut --data d",
    "train python test.py --dataroot d --name n": (
        ": patchkin translate runs/n d/testA --output results/n"
    ),
    # test.py
    "test --dataroot x --name y": ": patchkin translate runs/y x/testA --output results/y",
    "translate --dataroot x --name y --CUT_mode CUT --phase train": (
        " (no need of --CUT_mode): patchkin translate runs/y x/trainA --output results/y"
    ),
    "test --dataroot x --name y --checkpoints_dir c --results_dir r --direction BtoA": (
        ": patchkin translate c/y x/testB --output r/y"
    ),
    "test --dataroot x --model test --name y --gpu_ids -1 --overwrite": (
        ": patchkin translate runs/y x --device cpu --overwrite --output results/y"
    ),
    "translate m.onnx a.jpg b.jpg -o out --gpu_ids 0 --direction BtoA --batch_size 4": (
        ": patchkin translate m.onnx a.jpg b.jpg -o out --device cuda --batch_size 4 "
        "--direction BtoA"
    ),
    "test --dataroot x --name y --num_test 9 --epoch 5 --preprocess none --eval --nam z": (
        " (no need of --preprocess, --eval; not offered here: --num_test 9, --epoch 5; "
        "not known: --nam (did you mean --name?)): "
        "patchkin translate runs/y x/testA --output results/y"
    ),
    # a run that goes on
    "train --dataroot d --name n --checkpoints_dir c --continue_train --lr 1e-4 --display_id 0": (
        " (no need of --display_id; the run keeps its own settings, whatever these say: "
        "--dataroot, --lr): patchkin train --resume c/n"
    ),
    "train --dataroot x/d --continue_train --epoch 50 --CUT_mde CUT": (
        " (not offered here: --epoch 50; not known: --CUT_mde (did you mean --CUT_mode?); "
        "the run keeps its own settings, whatever these say: --dataroot): "
        "patchkin train --resume runs/cut_d"
    ),
    "train --dataroot d --name n --continue_train --pretrained_name p": (
        ": patchkin train cut --data d --from runs/p --run-dir runs/n"
    ),
}
"""Whole commands, after `patchkin` -> what follows the first sentence."""


@pytest.mark.parametrize("released", OTHER_PLACES)
def test_programs_translations_and_resumed_runs_are_answered(released, capsys):
    assert whole_answer(released, capsys) == OTHER_PLACES[released]


def test_an_answered_translation_is_taken(capsys, tmp_path):
    command = f"test --dataroot {tmp_path} --name none --checkpoints_dir {tmp_path}"
    ours = whole_answer(command, capsys).rpartition(": patchkin ")[2]
    assert main(shlex.split(ours)) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path}/none" in told  # the options are read; there is no such run
    assert "nrecognized" not in told


def test_test_without_their_flags_is_no_verb(capsys):
    assert main(["test", "photo.jpg"]) == 2
    assert "Unknown verb `test`" in capsys.readouterr().err


def test_the_help_of_fastcut_is_of_fastcut(capsys):
    with pytest.raises(SystemExit):
        main(["train", "fastcut", "--help"])
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert told.startswith("usage: patchkin train fastcut ")
    assert "Defaults are those of the preset `fastcut`: released FastCUT: lambda_NCE 10" in told
    assert "Defaults are the released CUT." not in told
    assert "lambda_NCE, for both contrast terms. (default: 10.0)" in told


def test_the_table_of_the_docs_is_up_to_date():
    hooks_file = Path(__file__).parents[2] / "docs" / "making" / "hooks.py"
    spec = importlib.util.spec_from_file_location("hooks", hooks_file)
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.PAGE.read_text(encoding="utf-8")
    assert page == hooks.with_released_flags(page), "run `python docs/making/hooks.py`"
    assert "| `--crop_size V` | `--size V` |" in page
    assert "| `--netG stylegan2` | not offered |" in page
    assert "| `--input_nc 1 --output_nc 1` | `--channels 1` |" in page
