"""`patchkin demo` in a process of its own, and what the system says of it: for `clients.py`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Looked:
    """A server at a moment."""

    resident_mib: float
    threads: int
    handles: int
    files: int
    """That it keeps for its visitors."""

    def or_more(self, other: Looked) -> Looked:
        """The larger of each."""
        return Looked(*(max(pair) for pair in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        return (
            f"{self.resident_mib:.0f} MiB, {self.threads} threads, {self.handles} handles, "
            f"{self.files} files"
        )


class Server:
    """With the shipped model and an empty folder of runs, on any free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        (self.folder / "runs").mkdir()
        self.said = self.folder / "said.txt"
        environment = {**os.environ, "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "patchkin", "demo", "horse2zebra", "--device", "cpu"]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [*command, "--runs", "runs", "--port", "0"],
                stdout=said, stderr=said, cwd=self.folder, env=environment,
            )  # fmt: skip
        self.address = self._address()

    def _address(self) -> str:
        for _ in range(1200):
            found = re.search(r"^(http://\S+)/$", self.said.read_text(), re.MULTILINE)
            if found and "Ctrl" in self.said.read_text():
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(self.said.read_text())

    def look(self) -> Looked:
        """Memory, threads, handles and files; of Linux."""
        proc = Path(f"/proc/{self.process.pid}")
        status = (proc / "status").read_text()
        (room,) = self.folder.glob("patchkin-demo-*")
        resident, threads = (
            int(re.search(rf"{name}:\s+(\d+)", status)[1])  # type: ignore[index]
            for name in ("VmRSS", "Threads")
        )
        handles = len(list((proc / "fd").iterdir()))
        files = sum(len(names) for _, _, names in os.walk(room))
        return Looked(resident / 1024, threads, handles, files)

    def end(self) -> list[str]:
        """What was wrong with it: complaints, how it ended, what it left."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        text = self.said.read_text()
        faults = [] if code == 0 else [f"the server ended with {code}"]
        if "Traceback" in text:
            faults.append(f"the server said: {text[text.index('Traceback') :][:2000]}")
        if list(self.folder.glob("patchkin-demo-*")):
            faults.append("the server left files")
        return faults
