"""The steps of the Dockerfile in a fresh Debian root, for where there is no Docker.

    python docs/making/checked_image.py FOLDER [--build-arg NAME=VALUE] [--bind FOLDER]

Needs root, debootstrap and a Debian mirror. Every instruction is read from the file and done as
Docker would: steps as the user of their place, in its folder, with its environment and no other.
Then comes what a user does, as the container's user and as one of no name (`docker run --user`),
with a mounted folder, a volume and the 64 MB of shared memory that Docker gives.

What this machine needs to reach its package index is lent to the root while steps run: its names
of hosts, its pip settings and certificates; `--bind` lends a folder that those settings name.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STRANGER = (1234, 1234)
"""User and group of `--user`: the image has no name for them."""
SHARED_MEMORY = "64m"
LENT = "/lent"
"""Folder of certificates, where no package of the image overwrites them."""
_SHARED_PREFIXES = ("PIP_", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy")
_TINY = (
    *("--steps", "4", "--size", "32", "--data.load-size", "36", "--ngf", "4", "--ndf", "4"),
    *("--blocks", "5", "--method.num-patches", "8", "--method.head-width", "8"),
)
_SCENE = "from patchkin.data.toy import Scene; Scene(256, 3).plain().save('photo.png')"


@dataclass(frozen=True)
class Step:
    """An instruction of a Dockerfile."""

    word: str
    text: str
    line: int


def steps_of(text: str) -> list[Step]:
    r"""The instructions, with lines that go on joined and comments left out.

    >>> steps_of("# why\nRUN a \\\n  # not this\n  && b\nuser me\n")
    [Step(word='RUN', text='a   && b', line=2), Step(word='USER', text='me', line=5)]
    """
    found: list[Step] = []
    parts: list[str] = []
    begun = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        begun = begun if parts else number
        goes_on = line.rstrip().endswith("\\")
        parts.append(line.rstrip().removesuffix("\\"))
        if not goes_on:
            word, _, rest = "".join(parts).strip().partition(" ")
            found.append(Step(word.upper(), rest.strip(), begun))
            parts = []
    return found


def expanded(text: str, values: Mapping[str, str]) -> str:
    """Variables as Docker fills them in.

    >>> values = {"A": "1", "EMPTY": ""}
    >>> expanded("$A ${A} ${EMPTY:-none} ${A:+is $A} ${EMPTY:+is}.", values)
    '1 1 none is 1 .'
    """

    def value(match: re.Match[str]) -> str:
        found = values.get(match[1] or match[2], "")
        if match[3] == "-":
            return found or expanded(match[4], values)
        return (expanded(match[4], values) if found else "") if match[3] == "+" else found

    return re.sub(r"\$(?:(\w+)|\{(\w+)(?::([-+])([^}]*))?\})", value, text)


@dataclass
class Image:
    """A root, and what the instructions so far say of it."""

    root: Path
    given: Mapping[str, str]
    """Of `--build-arg`."""
    arguments: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "root"
    folder: str = "/"
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    lent: Mapping[str, str] = field(default_factory=dict)
    """Environment of the steps that is this machine's, not the image's."""

    def do(self, step: Step) -> None:
        """One instruction.

        Raises:
            ValueError: it is none that this script knows.
            CalledProcessError: its command failed.
        """
        doing = getattr(self, f"_{step.word.lower()}", None)
        if doing is None:
            raise ValueError(f"Dockerfile:{step.line}: {step.word} is not known here.")
        doing(step.text)

    def _known(self) -> dict[str, str]:
        return {**self.arguments, **self.environment}

    def _arg(self, text: str) -> None:
        name, _, usual = text.partition("=")
        self.arguments[name] = self.given.get(name, expanded(usual, self._known()))

    def _from(self, text: str) -> None:
        self.base = expanded(text, self.arguments)
        self.arguments = {}  # those in front of FROM end with it

    def _env(self, text: str) -> None:
        for pair in shlex.split(text):
            name, _, value = pair.partition("=")
            self.environment[name] = expanded(value, self._known())

    def _workdir(self, text: str) -> None:
        self.folder = os.path.normpath(os.path.join(self.folder, expanded(text, self._known())))  # noqa: PTH118
        self.inside(self.folder).mkdir(parents=True, exist_ok=True)

    def _user(self, text: str) -> None:
        self.user = expanded(text, self._known())
        self.identity(self.user)

    def _volume(self, text: str) -> None:
        self.volumes += text.split()

    def _entrypoint(self, text: str) -> None:
        self.entrypoint = json.loads(text)

    def _cmd(self, text: str) -> None:
        self.command = json.loads(text)

    def _copy(self, text: str) -> None:
        *sources, target = expanded(text, self._known()).split()
        for source in sources:
            here, there = REPOSITORY / source, self.inside(target)
            if here.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(here, there, dirs_exist_ok=True, ignore=ignored)
            else:
                there = there / here.name if target.endswith("/") else there
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(here, there)

    def _run(self, text: str) -> None:
        environment = {**self._known(), **self.lent}
        self.inside_call(["/bin/sh", "-c", text], self.identity(self.user), environment)

    def inside(self, path: str) -> Path:
        """A path of the root, seen from here."""
        return self.root / path.lstrip("/")

    def identity(self, user: str) -> tuple[int, int]:
        """Numbers of a user's name.

        Raises:
            ValueError: the root has no such user.
        """
        for line in self.inside("/etc/passwd").read_text().splitlines():
            name, _, number, group, *_ = line.split(":")
            if name == user:
                return int(number), int(group)
        raise ValueError(f"The image has no user `{user}`.")

    def home(self, number: int) -> str:
        """Of a user; / for one of no name, as Docker has it."""
        for line in self.inside("/etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if int(fields[2]) == number:
                return fields[5]
        return "/"

    def inside_call(
        self, words: Sequence[str], who: tuple[int, int], environment: Mapping[str, str]
    ) -> str:
        """Run something in the root; returns what it printed, errors go through.

        Raises:
            CalledProcessError: it failed.
        """
        told = {"HOME": self.home(who[0]), **environment}
        change = ["chroot", f"--userspec={who[0]}:{who[1]}", "--groups=", str(self.root)]
        clean = ["/usr/bin/env", "-i", "-C", self.folder, *(f"{k}={v}" for k, v in told.items())]
        done = subprocess.run(
            [*change, *clean, *words], stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    def container(self, *words: str, user: tuple[int, int] | None = None) -> str:
        """`docker run [--user] IMAGE WORDS`."""
        who = self.identity(self.user) if user is None else user
        command = [*self.entrypoint, *(words or self.command)]
        return self.inside_call(command, who, self.environment)


@contextmanager
def mounted(*options: str, at: Path) -> Iterator[None]:
    """Something is mounted for a while."""
    at.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *options, str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def lend(image: Image) -> None:
    """What lets pip and apt reach their index from inside."""
    for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf"):
        if Path(file).is_file():
            shutil.copy(file, image.inside(file))
    of_user = Path.home() / ".config" / "pip" / "pip.conf"
    if of_user.is_file():
        there = image.inside("/root/.config/pip/pip.conf")
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(of_user, there)
    image.inside(LENT).mkdir(exist_ok=True)
    lent = {k: v for k, v in os.environ.items() if k.startswith(_SHARED_PREFIXES)}
    for name, value in lent.items():
        if Path(value).is_file():
            lent[name] = f"{LENT}/{name}"
            shutil.copy(value, image.inside(lent[name]))
    image.lent = lent


def take_back(image: Image) -> None:
    """What a user of the image would not have."""
    shutil.rmtree(image.inside(LENT))
    image.inside("/etc/pip.conf").unlink(missing_ok=True)
    image.inside("/root/.config/pip/pip.conf").unlink(missing_ok=True)


def built(root: Path, arguments: Mapping[str, str], lent: Sequence[Path]) -> Image:
    """The image, step by step, each with its seconds; the folders are lent meanwhile."""
    image = Image(root, arguments)
    with ExitStack() as stack:
        for step in steps_of((REPOSITORY / "Dockerfile").read_text(encoding="utf-8")):
            begun = time.monotonic()
            image.do(step)
            if step.word == "FROM":
                _debian(root, image.base)
                lend(image)
                stack.enter_context(mounted("-t", "proc", "proc", at=root / "proc"))
                for path in lent:
                    bound = ("--bind", "-o", "ro", str(path))
                    stack.enter_context(mounted(*bound, at=image.inside(str(path))))
            text = step.text if len(step.text) < 70 else f"{step.text[:67]}..."
            tell(f"{time.monotonic() - begun:7.1f} s  {step.word} {text}")
    take_back(image)
    return image


def _debian(root: Path, base: str) -> None:
    name, _, tag = base.rpartition("/")[2].partition(":")
    if name != "debian":
        raise SystemExit(f"Only the Debian base can be made here, not {base}.")
    if not (root / "bin").exists():
        suite = tag.partition("-")[0]
        command = ["debootstrap", "--variant=minbase", suite, str(root)]
        subprocess.run(command, check=True, stdout=sys.stderr)


def use(image: Image, folder: Path) -> None:
    """What a user does; `folder` is the one that they mount."""
    tell(f"patchkin --version: {image.container('--version').strip()}")
    with mounted("--bind", str(folder), at=image.inside(image.folder)):
        python = f"{image.environment['PATH'].partition(':')[0]}/python"
        for who in (STRANGER, image.identity(image.user)):
            os.chown(folder, *who)
            image.inside_call([python, "-c", _SCENE], who, image.environment)
            begun = time.monotonic()
            image.container("translate", "horse2zebra", "photo.png", "-o", "out", user=who)
            owner = (folder / "out" / "photo.png").stat()
            assert (owner.st_uid, owner.st_gid) == who, "the translation is another's"
            tell(f"{time.monotonic() - begun:7.1f} s  translate as {who[0]}")
            found = json.loads(image.container("doctor", "--json", user=who))
            tell(f"doctor as {who[0]}: {json.dumps(found)}")
            begun = time.monotonic()
            image.container(
                *("train", "semantic-relation", "--data", "toy", "--run-dir", "run", *_TINY),
                user=who,
            )
            state = folder / "run" / "checkpoints" / "step_00000004" / "model.safetensors"
            assert state.stat().st_uid == who[0], "the run is another's"
            tell(f"{time.monotonic() - begun:7.1f} s  4 steps of training as {who[0]}")
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def container_of(image: Image) -> Iterator[None]:
    """Volumes with the owner and the rights that the image has there, and little shared memory."""
    with ExitStack() as stack:
        shared = ("-t", "tmpfs", "-o", f"size={SHARED_MEMORY},mode=1777", "shm")
        stack.enter_context(mounted(*shared, at=image.inside("/dev/shm")))
        for volume in image.volumes:
            there = image.inside(volume)
            kept = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            shutil.copystat(there, kept)
            os.chown(kept, there.stat().st_uid, there.stat().st_gid)
            stack.enter_context(mounted("--bind", str(kept), at=there))
        yield


def size_of(root: Path) -> float:
    """Gigabytes."""
    command = ["du", "--one-file-system", "--summarize", "--block-size=1", str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[0]) / 1e9


def tell(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for the root: empty, or of an earlier try")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--bind", action="append", default=[], type=Path, metavar="FOLDER")
    options = parser.parse_args()
    root = options.folder.resolve()
    arguments = dict(pair.split("=", 1) for pair in options.build_arg)
    image = built(root, arguments, [path.resolve() for path in options.bind])
    tell(f"the root has {size_of(root):.2f} GB")
    with mounted("-t", "proc", "proc", at=root / "proc"), container_of(image):
        place = Path(tempfile.mkdtemp())
        try:
            use(image, place)
        finally:
            shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
