import pytest

from patchkin.errors import ConfigError
from patchkin.training import TrainingConfig
from patchkin.training.launch import _processes

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
SLURM = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, 1)),
        (TORCHRUN, (4, 2)),
        (SLURM, (2, 3)),
        ({**SLURM, **TORCHRUN}, (4, 2)),  # torchrun inside of Slurm
        ({**SLURM, "SLURM_NTASKS": "1"}, (1, 1)),
        ({"SLURM_NTASKS": "6", "SLURM_NNODES": "3"}, (1, 1)),  # the batch script itself
    ],
)
def test_processes_of_a_launcher(environment, expected):
    assert _processes(TrainingConfig(), environment) == expected


def test_settings_hold_without_a_launcher():
    assert _processes(TrainingConfig(devices=2, nodes=3), {}) == (2, 3)


def test_settings_may_repeat_the_launcher_but_not_contradict_it():
    assert _processes(TrainingConfig(devices=4, nodes=2), TORCHRUN) == (4, 2)
    with pytest.raises(ConfigError, match=r"--devices 2: the launcher started 2 x 4"):
        _processes(TrainingConfig(devices=2), TORCHRUN)
    with pytest.raises(ConfigError, match=r"--training\.nodes 4"):
        _processes(TrainingConfig(nodes=4), SLURM)
