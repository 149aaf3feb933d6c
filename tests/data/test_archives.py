"""Archives of others: safe, limited, whole or not at all."""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from patchkin.data.archives import Limits, extract_archive
from patchkin.errors import DownloadError, StorageError


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _zip(*entries: tuple[str, bytes], link: str | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return file.getvalue()


def _tar(*entries: tuple[str, bytes], link: str | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return file.getvalue()


PACKERS = [(_zip, "a.zip"), (_tar, "a.tar.gz")]


@pytest.mark.parametrize(("pack", "name"), PACKERS)
def test_single_folder_becomes_the_root(tmp_path, pack, name):
    content = pack(("horses/trainA/a.png", b"1"), ("horses/trainB/b.png", b"2"))
    (tmp_path / name).write_bytes(content)
    extract_archive(tmp_path / name, tmp_path / "set")
    assert (tmp_path / "set" / "trainB" / "b.png").read_bytes() == b"2"
    assert _left(tmp_path) == [name, "set"]


@pytest.mark.parametrize(("pack", "name"), PACKERS)
def test_several_folders_are_kept_and_mac_notes_are_not(tmp_path, pack, name):
    content = pack(("trainA/a.png", b"1"), ("trainB/b.png", b"2"), ("__MACOSX/._a.png", b""))
    (tmp_path / name).write_bytes(content)
    extract_archive(tmp_path / name, tmp_path / "set")
    assert _left(tmp_path / "set") == ["trainA", "trainB"]


def test_single_split_folder_is_kept(tmp_path):
    (tmp_path / "a.zip").write_bytes(_zip(("train/a.png", b"1")))
    extract_archive(tmp_path / "a.zip", tmp_path / "set")
    assert _left(tmp_path / "set") == ["train"]


@pytest.mark.parametrize(("pack", "name"), PACKERS)
@pytest.mark.parametrize(
    "evil", ["../evil.png", "/tmp/evil.png", "a/../../evil.png", "..\\evil.png"]
)
def test_entries_that_would_land_outside_are_refused(tmp_path, pack, name, evil):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / name).write_bytes(pack(("ok.png", b"1"), (evil, b"2")))
    with pytest.raises(DownloadError, match=r"is unsafe: its entry .* would land outside"):
        extract_archive(tmp_path / "inner" / name, tmp_path / "inner" / "set")
    assert _left(tmp_path / "inner") == [name]
    assert _left(tmp_path) == ["inner"]


@pytest.mark.parametrize(("pack", "name"), PACKERS)
def test_links_are_refused(tmp_path, pack, name):
    (tmp_path / name).write_bytes(pack(link="trainA/link.png"))
    with pytest.raises(DownloadError, match=r"is unsafe: `trainA/link\.png` is a link"):
        extract_archive(tmp_path / name, tmp_path / "set")


@pytest.mark.parametrize(("pack", "name"), PACKERS)
def test_damaged_archives_are_one_line(tmp_path, pack, name):
    whole = pack(("trainA/a.png", bytes(range(256)) * 50))
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises((DownloadError, StorageError), match="unpack") as caught:
        extract_archive(tmp_path / name, tmp_path / "set")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()


def test_unknown_kind_of_archive(tmp_path):
    with pytest.raises(DownloadError, match="is no archive"):
        extract_archive(tmp_path / "a.rar", tmp_path / "set")


@pytest.mark.parametrize(("pack", "name"), PACKERS)
def test_more_than_allowed_is_refused_before_anything_is_written(tmp_path, pack, name):
    content = pack(("trainA/a.png", bytes(600)), ("trainA/b.png", bytes(500)))
    (tmp_path / name).write_bytes(content)
    for limits, message in (
        (Limits(most_bytes=1099), "unpacks to more than 1,099 bytes"),
        (Limits(most_files=1), "holds more than 1 files"),
    ):
        with pytest.raises(DownloadError, match=message):
            extract_archive(tmp_path / name, tmp_path / "set", limits=limits)
        assert _left(tmp_path) == [name]
    extract_archive(tmp_path / name, tmp_path / "set", limits=Limits(most_bytes=1100, most_files=2))
    assert _left(tmp_path / "set" / "trainA") == ["a.png", "b.png"]


def test_an_archive_that_lies_about_a_size_is_damaged(tmp_path):
    """A zip entry of 600 bytes that says it has 10: no more than 10 are read, and that is told."""
    content = bytearray(_zip(("trainA/a.png", bytes(range(200)) * 3)))
    directory = content.index(b"PK\x01\x02")
    for at in (22, directory + 24):  # uncompressed size, in the entry and in the directory
        struct.pack_into("<I", content, at, 10)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DownloadError, match="cannot be unpacked: Bad CRC-32"):
        extract_archive(tmp_path / "a.zip", tmp_path / "set", limits=Limits(most_bytes=10))
    assert _left(tmp_path) == ["a.zip"]


def test_an_encrypted_member_is_one_line(tmp_path):
    content = bytearray(_zip(("trainA/a.png", b"1"), ("trainA/b.png", b"2")))
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[second + 8] |= 1  # the flag of encryption
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=r"`trainA/b\.png` is encrypted; unpack it by hand"):
        extract_archive(tmp_path / "a.zip", tmp_path / "set")
    assert _left(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_stream_is_one_line(tmp_path, method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("trainA/a.png", bytes(range(256)) * 500)
    content = bytearray(file.getvalue())
    for at in range(60, 90):
        content[at] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DownloadError, match="cannot be unpacked") as caught:
        extract_archive(tmp_path / "a.zip", tmp_path / "set")
    assert "\n" not in str(caught.value)
    assert _left(tmp_path) == ["a.zip"]


def test_an_unknown_compression_is_one_line(tmp_path):
    content = bytearray(_zip(("trainA/a.png", b"1")))
    directory = content.index(b"PK\x01\x02")
    struct.pack_into("<H", content, 8, 97)
    struct.pack_into("<H", content, directory + 10, 97)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DownloadError, match="cannot be unpacked: That compression method"):
        extract_archive(tmp_path / "a.zip", tmp_path / "set")


@pytest.mark.parametrize(("name", "content"), [("a.tar", bytes(10_240)), ("a.zip", _zip())])
def test_an_archive_without_a_file_is_none(tmp_path, name, content):
    """Zeros are a tar that ends at once: a server's hole would become a set without images."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DownloadError, match=f"{name}` cannot be unpacked: it holds no file"):
        extract_archive(tmp_path / name, tmp_path / "set")
    assert _left(tmp_path) == [name]


def test_a_size_below_zero_is_damage(tmp_path):
    info = tarfile.TarInfo("a.png")
    info.size = -512
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DownloadError, match=r"cannot be unpacked: .*(below zero|header|damaged)"):
        extract_archive(tmp_path / "a.tar", tmp_path / "out")
    assert _left(tmp_path) == ["a.tar"]


@pytest.mark.parametrize("mtime", ["inf", "-inf", "nan", "1e300"])
def test_a_time_that_no_system_has_is_none(tmp_path, mtime):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("b/a.png")
        info.size, info.pax_headers = 1, {"mtime": mtime}
        archive.addfile(info, io.BytesIO(b"a"))
    (tmp_path / "a.tar").write_bytes(file.getvalue())
    extract_archive(tmp_path / "a.tar", tmp_path / "out")
    assert (tmp_path / "out" / "a.png").read_bytes() == b"a"


def test_an_entry_without_a_name_is_damage(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a"), b"x")
        archive.filelist[0].filename = ""
    (tmp_path / "a.zip").write_bytes(file.getvalue())
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        extract_archive(tmp_path / "a.zip", tmp_path / "out")
    assert _left(tmp_path) == ["a.zip"]
