"""The command line and a tiny run, as the tests of the command line have them."""

from __future__ import annotations

from cli.conftest import command, finished_run, run_copy, toy_root

__all__ = ["command", "finished_run", "run_copy", "toy_root"]
