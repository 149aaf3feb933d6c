import json
import os
from dataclasses import replace

import pytest
import torch
from PIL import Image

from patchkin.config import to_plain
from patchkin.errors import ConfigError, DataError, StorageError
from patchkin.images import read_image, to_tensor
from patchkin.images.pages import each_page
from patchkin.metrics import (
    Protocol,
    cached_statistics,
    compare,
    file_statistics,
    frechet_distance,
    kernel_distance,
    kernel_distance_subsets,
    output_statistics,
    read_statistics,
    write_statistics,
)
from patchkin.metrics.statistics import statistics_key

PROTOCOL = Protocol(name="mine", image_size=None, input_size=None, extractor="tiny")


class Counting:
    """An extractor that knows how many images it saw."""

    def __init__(self, extractor):
        self._extractor, self.name, self.sha256 = extractor, extractor.name, extractor.sha256
        self.images = 0

    def __call__(self, levels_BCHW):
        self.images += len(levels_BCHW)
        return self._extractor(levels_BCHW)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_features_of_files_in_order(make_images, tiny, batch_size):
    paths, seen = make_images("real", 7), []
    statistics = file_statistics(paths, PROTOCOL, tiny, batch_size=batch_size, progress=seen.append)
    rows = [tiny.features(PROTOCOL.prepare(read_image(path, 3))[None])[0] for path in paths]
    torch.testing.assert_close(statistics.features_ND, torch.stack(rows)[:, :5])
    torch.testing.assert_close(statistics.logits_NK, torch.stack(rows)[:, 5:])
    assert statistics.names == tuple(map(str, paths))
    assert statistics.protocol.extractor_sha256 == tiny.sha256
    assert seen[-1] == len(statistics) == 7


def test_outputs_score_as_files_do(make_images, tiny):
    paths = make_images("outputs", 4)
    protocol = replace(PROTOCOL, rounding="nearest")
    images = [(path.name, to_tensor(read_image(path, 3))) for path in paths]
    in_memory = output_statistics(images, protocol, tiny)
    assert torch.equal(in_memory.features_ND, file_statistics(paths, protocol, tiny).features_ND)


def test_a_result_carries_its_protocol(make_images, tiny):
    protocol = replace(PROTOCOL, kernel_subsets=5, kernel_subset_size=4, seed=3)
    real = file_statistics(make_images("real", 6), protocol, tiny)
    outputs = file_statistics(make_images("outputs", 5, seed=1), protocol, tiny)
    scores = compare(real, outputs)
    a, b = real.features_ND, outputs.features_ND
    assert scores.frechet == frechet_distance(a, b)
    kernel = kernel_distance_subsets(a, b, subsets=5, subset_size=4, seed=3)
    assert (scores.kernel, scores.kernel_deviation) == kernel
    written = json.loads(json.dumps(to_plain(scores)))
    assert (written["num_real"], written["num_outputs"]) == (6, 5)
    assert written["protocol"]["extractor_sha256"] == tiny.sha256
    whole = [replace(s, protocol=replace(s.protocol, kernel_subsets=0)) for s in (real, outputs)]
    assert compare(*whole).kernel == kernel_distance(a, b)
    assert compare(*whole).kernel_deviation is None
    with pytest.raises(
        ConfigError, match=r"another protocol: `kernel_subsets` is 5, this score us"
    ):
        compare(real, whole[1])


def test_the_cache_is_used(make_images, tiny, tmp_path):
    paths, extractor = make_images("real", 4), Counting(tiny)
    first = cached_statistics(paths, PROTOCOL, extractor, folder=tmp_path / "cache")
    again = cached_statistics(paths, PROTOCOL, extractor, folder=tmp_path / "cache")
    assert extractor.images == 4
    assert torch.equal(first.features_ND, again.features_ND)
    assert torch.equal(first.logits_NK, again.logits_NK)
    assert (again.names, again.protocol) == (first.names, first.protocol)
    assert [path.name[:5] for path in (tmp_path / "cache").iterdir()] == ["mine-"]


def test_the_cache_notices_what_changes(make_images, tiny, other_tiny, tmp_path):
    paths = make_images("real", 4)

    def images_seen(paths, protocol=PROTOCOL, extractor=tiny):
        counting = Counting(extractor)
        cached_statistics(paths, protocol, counting)
        return counting.images

    assert images_seen(paths) == 4
    assert images_seen(paths) == 0
    assert images_seen(paths[:3]) == 3
    assert images_seen(paths, replace(PROTOCOL, rounding="nearest")) == 4
    assert images_seen(paths, extractor=other_tiny) == 4
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for path in paths:
        (copied / path.name).write_bytes(path.read_bytes())
    assert images_seen(sorted(copied.iterdir())) == 0  # the same set, copied
    known = cached_statistics(sorted(copied.iterdir()), PROTOCOL, tiny)
    assert known.names[0] == str(copied / "000.png")
    before = paths[1].stat()
    swapped = paths[2].read_bytes()
    paths[1].write_bytes(swapped)
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert images_seen(paths) == 4  # another content with the old date


def test_a_cache_of_another_extractor_is_refused(make_images, tiny, other_tiny, tmp_path):
    statistics = file_statistics(make_images("real", 3), PROTOCOL, tiny)
    write_statistics(tmp_path / "real.safetensors", statistics)
    mine = PROTOCOL.with_extractor(tiny)
    assert read_statistics(tmp_path / "real.safetensors", mine).names == statistics.names
    with pytest.raises(
        ConfigError,
        match=r"weights have sha256 `a{16}`, this score uses `b{16}`: .* not comparable",
    ):
        read_statistics(tmp_path / "real.safetensors", PROTOCOL.with_extractor(other_tiny))
    with pytest.raises(ConfigError, match=r"`seed` is 0, this score uses 1"):
        read_statistics(tmp_path / "real.safetensors", replace(mine, seed=1))
    others = file_statistics(make_images("outputs", 3), PROTOCOL, other_tiny)
    with pytest.raises(ConfigError, match=r"^the statistics of the real images came from an ext"):
        compare(statistics, others)


def test_a_damaged_cache_is_named(make_images, tiny, tmp_path):
    path = tmp_path / "real.safetensors"
    write_statistics(path, file_statistics(make_images("real", 3), PROTOCOL, tiny))
    whole = path.read_bytes()
    for content in (whole[:-5], b"", b"{}"):
        path.write_bytes(content)
        with pytest.raises(
            DataError, match=r"cannot be read as statistics of images .*; remove it"
        ):
            read_statistics(path)
    with pytest.raises(DataError, match="cannot be read as statistics"):
        read_statistics(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("is_cache", "advice"),
    [
        (True, "Set PATCHKIN_CACHE to another folder."),
        (False, "What was saved before is untouched."),
    ],
)
def test_a_folder_that_cannot_be_written_is_one_line(
    make_images, tiny, tmp_path, *, monkeypatch, is_cache, advice
):
    """Of which the cache alone is elsewhere with PATCHKIN_CACHE."""
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "statistics" if is_cache else tmp_path / "kept"
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("")
    counting = Counting(tiny)
    options = {} if is_cache else {"folder": folder}
    with pytest.raises(StorageError) as caught:
        cached_statistics(make_images("real", 2), PROTOCOL, counting, **options)
    assert str(caught.value) == f"Cannot write `{folder}`: File exists. {advice}"
    assert counting.images == 0  # said before the work, not after


def test_errors_say_what_is_wrong(make_images, tiny):
    paths = make_images("real", 3)
    for statistics in (file_statistics, cached_statistics):
        with pytest.raises(DataError, match=r"Protocol `mine` needs at least 2 images; got 1"):
            statistics(paths[:1], PROTOCOL, tiny)
    with pytest.raises(DataError, match=r"needs at least 2 images; got 0"):
        output_statistics([], PROTOCOL, tiny)
    larger = make_images("larger", 1, size=(41, 24))
    with pytest.raises(
        DataError, match=r"40 x 24 and `.*` 41 x 24, and protocol `mine` does not r"
    ):
        file_statistics(paths + larger, PROTOCOL, tiny)
    resizing = replace(PROTOCOL, input_size=16)
    assert len(file_statistics(paths + larger, resizing, tiny)) == 4
    bad = torch.full((3, 8, 8), float("nan"))
    with pytest.raises(DataError, match=r"^`second`: an output holds NaN or infinity"):
        output_statistics([("first", torch.zeros(3, 8, 8)), ("second", bad)], PROTOCOL, tiny)
    paths[1].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"001\.png`: cannot be decoded"):
        file_statistics(paths, PROTOCOL, tiny)
    with pytest.raises(DataError, match=r"Cannot read `.*gone\.png`: No such file"):
        cached_statistics([paths[0], paths[0].with_name("gone.png")], PROTOCOL, tiny)


def test_pages_of_a_file_have_a_key_each(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    pages = each_page([tmp_path / "a.gif"])
    keys = {statistics_key(chosen, PROTOCOL) for chosen in (pages, pages[:1], pages[1:])}
    assert len(keys) == 3
