"""What the processes of `test_shards.py` do; a module, because they import it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time

import torch

from patchkin.errors import ConfigError


def work(mode, number, tell):
    """Tell the number; then process 2 goes wrong as `mode` says, and process 1 waits for ever."""
    tell(number)
    if mode == "leave" and number == 2:  # and is slow at it
        atexit.register(time.sleep, 5)
        raise ConfigError("two is not wanted")
    if mode == "well":
        return number, torch.get_num_threads(), os.getpid()
    if number == 1:
        signal.pause()
    if mode == "raise":
        raise ConfigError("two is not wanted")
    if mode == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(1)
