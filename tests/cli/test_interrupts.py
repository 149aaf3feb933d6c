"""Ctrl-C while a command still imports what it needs: a line, and code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from patchkin import _interrupts
from patchkin.cli import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent to one process")
COMMANDS = {
    "methods": ["methods"],
    "translate": ["translate", "horse2zebra-small", "nowhere.png", "-o", "out"],
    "train": ["train", "cut", "--data", "nowhere"],
    "demo": ["demo", "--port", "0", "--device", "cpu"],
}


class Imports:
    """What a process imports, told as it does so; all else that it says is kept."""

    def __init__(self, process):
        self.process, self.others = process, []

    def wait_for(self, module):
        for line in self.process.stderr:
            if line.startswith("import time:"):
                if line.rpartition("|")[2].strip() == module:
                    return
            else:
                self.others.append(line)
        raise AssertionError(f"{module} was not imported: {self.others}")

    def interrupted(self):
        """Send SIGINT; the exit code and what was said."""
        self.process.send_signal(signal.SIGINT)
        _, rest = self.process.communicate(timeout=60)
        lines = [*self.others, *rest.splitlines(keepends=True)]
        return self.process.returncode, [x for x in lines if not x.startswith("import time:")]


@pytest.fixture
def importing(tmp_path):
    """Starts a command, which hears of interrupts: what a shell starts in its background ignores
    them, and so does all that it starts.
    """
    begun = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def begin(*arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "patchkin", *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env={**os.environ, **environment},
        )  # fmt: skip
        begun.append(process)
        return Imports(process)

    yield begin
    signal.signal(signal.SIGINT, before)
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_that_is_interrupted_while_it_imports(importing, verb, seconds):
    """From when patchkin has the word: what came before is of Python."""
    imports = importing(*COMMANDS[verb])
    imports.wait_for("difflib")  # the first of `patchkin.cli`
    time.sleep(seconds)
    code, said = imports.interrupted()
    assert "Traceback" not in "".join(said)
    if seconds < 1 or code not in (0, 2):  # a fast machine may be done
        assert (code, said) == (130, ["patchkin: interrupted\n"])


@pytest.mark.parametrize("module", ["difflib", "numpy", "torch._C", "torch.nn", "tyro"])
def test_a_library_that_is_being_imported_says_nothing(importing, module):
    imports = importing("evaluate", "nowhere", "--data", "nowhere")
    imports.wait_for(module)
    assert imports.interrupted() == (130, ["patchkin: interrupted\n"])


def test_of_several_processes_one_says_it(importing):
    imports = importing("methods", LOCAL_RANK="1")
    imports.wait_for("difflib")
    assert imports.interrupted() == (130, [])


def test_torch_is_not_imported_for_it():
    program = "import sys, patchkin.__main__, patchkin.cli; print('torch' in sys.modules)"
    told = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert told == "False\n"


def test_the_handler_of_a_program_that_calls_it_stays(capsys):
    """Called with arguments it changes nothing; and what is ignored stays ignored."""
    seen = []
    for handler in (signal.default_int_handler, signal.SIG_IGN, lambda *_: seen.append(True)):
        before = signal.signal(signal.SIGINT, handler)
        try:
            assert main(["--version"]) == 0
            assert signal.getsignal(signal.SIGINT) is handler
            _interrupts.leave_at_once()
            is_default = handler is signal.default_int_handler
            assert _interrupts.is_left_at_once() == is_default
            _interrupts.raise_again()
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, before)


def test_a_thread_that_calls_it_changes_nothing():
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=_interrupts.leave_at_once)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
