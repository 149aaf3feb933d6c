from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from patchkin.data import steps
from patchkin.data.config import DataConfig
from patchkin.data.datasets import Place, UnpairedBatch, UnpairedDataset, collate
from patchkin.data.loading import evaluation_images, training_loader
from patchkin.data.steps import (
    StepBatches,
    StepLoader,
    held_out,
    start_worker,
    steps_per_epoch,
)
from patchkin.errors import ConfigError, DataError
from patchkin.images import read_image, to_tensor
from patchkin.randomness import derive_seed


@pytest.fixture
def dataset(tmp_path, make_images):
    """7 and 4 images, cropped and flipped."""
    a, b = make_images(tmp_path / "a", 7), make_images(tmp_path / "b", 4, first=140)
    config = DataConfig(size=12, load_size=16, source="a", target="b")
    return UnpairedDataset(a, b, config, seed=5)


def _steps(dataset, **settings):
    settings = {"batch_size": 2, "total_steps": 8} | settings
    return [
        (batch.a_names, batch.b_names, batch.a_BCHW, batch.b_BCHW)
        for batch in training_loader(dataset, **settings)
    ]


def _same(ours, theirs):
    return len(ours) == len(theirs) and all(
        x[:2] == y[:2] and torch.equal(x[2], y[2]) and torch.equal(x[3], y[3])
        for x, y in zip(ours, theirs, strict=True)
    )


# One item


def test_item_is_a_pure_function_of_its_place(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    for place in (Place(0, 3), Place(2, 3), Place(0, 6, jitter=False)):
        first, second = dataset[place], copy[place]
        assert first[2:] == second[2:]
        assert torch.equal(first.a_CHW, second.a_CHW)
        assert torch.equal(first.b_CHW, second.b_CHW)
    assert not torch.equal(dataset[Place(0, 3)].a_CHW, dataset[Place(1, 3)].a_CHW)


def test_domains_are_cropped_and_flipped_independently(tmp_path, make_images):
    paths = make_images(tmp_path / "a", 2)
    dataset = UnpairedDataset(paths[:1], paths[:1], DataConfig(size=12, preprocess="crop"), seed=0)
    items = [dataset[Place(epoch, 0)] for epoch in range(200)]
    flipped = Counter(
        (
            bool(item.a_CHW[0, 0, 0] > item.a_CHW[0, 0, -1]),
            bool(item.b_CHW[0, 0, 0] > item.b_CHW[0, 0, -1]),
        )
        for item in items
    )
    assert len(flipped) == 4
    assert all(25 < count < 75 for count in flipped.values())


def test_target_is_drawn_uniformly_and_anew_each_epoch(dataset):
    drawn = Counter(
        dataset.files(Place(epoch, item))[1].stem for epoch in range(400) for item in range(7)
    )
    assert len(drawn) == 4
    assert all(abs(count - 700) < 4 * 700**0.5 for count in drawn.values())
    partners = {dataset.files(Place(epoch, 0))[1].stem for epoch in range(20)}
    assert len(partners) == 4


def test_serial_pairing_takes_both_in_order(dataset, tmp_path):
    config = DataConfig(size=12, load_size=16, pairing="serial")
    serial = UnpairedDataset(dataset.train_a, dataset.train_b, config, seed=5)
    names = [
        pair
        for step in _steps(serial, batch_size=1, total_steps=7)
        for pair in zip(*step[:2], strict=True)
    ]
    assert names == [(f"{i:03d}", f"{i % 4:03d}") for i in range(7)]


def test_smaller_source_domain_is_repeated(dataset):
    exchanged = UnpairedDataset(dataset.train_b, dataset.train_a, dataset.config, seed=5)
    names = Counter(
        name for step in _steps(exchanged, batch_size=1, total_steps=7) for name in step[0]
    )
    assert names == {"000": 2, "001": 2, "002": 2, "003": 1}


def test_without_jitter_views_are_the_whole_image_but_for_the_flip(dataset):
    from patchkin.data.datasets import finished
    from patchkin.data.transforms import resized

    item = dataset[Place(0, 2, jitter=False)]
    whole = finished(resized(read_image(dataset.train_a[2]).pixels, 12, 12))
    assert torch.equal(item.a_CHW, whole) or torch.equal(item.a_CHW, whole.flip(2))


def test_channels_may_differ_between_domains_and_bits_too(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for i in range(2):
        np.save(
            tmp_path / "a" / f"{i}.npy", generator.integers(0, 65536, (16, 16, 5), dtype=np.uint16)
        )
        np.save(tmp_path / "b" / f"{i}.npy", generator.integers(0, 4096, (16, 16), dtype=np.uint16))
    config = DataConfig(size=16, preprocess="crop", flip=False, value_range=(0, 65535))
    dataset = UnpairedDataset(
        sorted((tmp_path / "a").iterdir()),
        sorted((tmp_path / "b").iterdir()),
        config,
        seed=0,
        channels=(5, 1),
    )
    item = dataset[Place(0, 1)]
    assert (item.a_CHW.shape, item.b_CHW.shape) == ((5, 16, 16), (1, 16, 16))
    expected = (
        torch.from_numpy(np.load(tmp_path / "a" / "1.npy").astype(np.float32)) / 65535 * 2 - 1
    )
    torch.testing.assert_close(item.a_CHW, expected.permute(2, 0, 1), rtol=0, atol=1e-6)


# Order


def test_every_image_comes_once_per_epoch_in_another_order():
    steps = list(StepBatches(10, batch_size=5, total_steps=4, seed=0))
    epochs = [[place.item for step in steps[i : i + 2] for place in step] for i in (0, 2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert [step[0].epoch for step in steps] == [0, 0, 1, 1]


def test_incomplete_batches_are_dropped():
    steps = list(StepBatches(7, batch_size=2, total_steps=6, seed=0))
    assert steps_per_epoch(7, 2) == 3
    for i in (0, 3):
        assert len({place.item for step in steps[i : i + 3] for place in step}) == 6


def test_sets_smaller_than_a_batch_are_tiled_with_other_draws():
    (step,) = StepBatches(3, batch_size=8, total_steps=1, seed=0)
    assert len(step) == len(set(step)) == 8
    assert sorted(place.item % 3 for place in step[:6]) == [0, 0, 1, 1, 2, 2]
    assert steps_per_epoch(3, 8) == 1


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_global_batch(world_size):
    single = list(StepBatches(20, batch_size=6, total_steps=9, seed=1))
    shares = [
        list(
            StepBatches(
                20,
                batch_size=6 // world_size,
                total_steps=9,
                seed=1,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]
    for step, whole in enumerate(single):
        parts = [share[step] for share in shares]
        assert all(len(part) == 6 // world_size for part in parts)
        assert sorted(place for part in parts for place in part) == sorted(whole)


def order_of(seed, epoch, number, count):
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch, number))
    return torch.randperm(count, generator=generator).tolist()


def test_the_order_is_that_of_every_version():
    """A run of an earlier version goes on with the images that it would have seen."""
    steps = list(StepBatches(5, batch_size=2, total_steps=6, start_step=1, seed=3))
    whole = [(e, item) for e in range(3) for item in order_of(3, e, 0, 5)[:4]]
    assert [(p.epoch, p.item) for step in steps for p in step] == whole[2:]
    assert all(place.jitter for step in steps for place in step)
    (tiled, _) = StepBatches(3, batch_size=7, total_steps=2, seed=3)
    numbers = [3 * n + item for n in range(3) for item in order_of(3, 0, n, 3)]
    assert [place.item for place in tiled] == numbers[:7]


def test_without_a_shuffle_images_come_as_they_lie():
    def items(count, batch_size, total_steps):
        batches = StepBatches(
            count, batch_size=batch_size, total_steps=total_steps, seed=3, shuffle=False
        )
        return [[place.item for place in step] for step in batches]

    assert items(5, 2, 3) == [[0, 1], [2, 3], [0, 1]]
    assert items(2, 5, 2) == [[0, 1, 2, 3, 4]] * 2


def test_seed_changes_the_order():
    orders = [list(StepBatches(20, batch_size=1, total_steps=20, seed=seed)) for seed in (0, 1)]
    assert orders[0] != orders[1]


# Loader


def test_workers_do_not_change_a_bit(dataset):
    assert _same(_steps(dataset), _steps(dataset, workers=2))


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_anywhere_gives_the_same_steps(dataset, workers):
    whole = _steps(dataset)
    for start in (1, 3, 5, 8):
        assert _same(_steps(dataset, start_step=start, workers=workers), whole[start:])


def test_union_of_two_processes_is_one_process_with_twice_the_batch(dataset):
    whole = _steps(dataset, batch_size=4, total_steps=3)
    ranks = [_steps(dataset, batch_size=2, total_steps=3, rank=r, world_size=2) for r in (0, 1)]
    for step, (a_names, _, a_BCHW, b_BCHW) in enumerate(whole):
        for rank in (0, 1):
            assert ranks[rank][step][0] == a_names[rank::2]
            assert torch.equal(ranks[rank][step][2], a_BCHW[rank::2])
            assert torch.equal(ranks[rank][step][3], b_BCHW[rank::2])


def test_loader_leaves_the_global_generator_alone(dataset):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    _steps(dataset, workers=1)
    assert torch.equal(torch.rand(3), expected)


def test_length_and_jitter(dataset):
    loader = training_loader(dataset, batch_size=2, start_step=2, total_steps=9, jitter_steps=4)
    assert len(loader) == 7
    batches = StepBatches(7, batch_size=2, start_step=2, total_steps=9, seed=5, jitter_steps=4)
    assert [step[0].jitter for step in batches] == [True, True, *[False] * 5]
    early, late = _steps(dataset, jitter_steps=8)[0], _steps(dataset, jitter_steps=0)[0]
    assert early[0] == late[0], "only the view changes"
    assert not torch.equal(early[2], late[2])


class _Processes(torch.utils.data.Dataset):
    """Which process made an item."""

    def __getitem__(self, place):
        return os.getpid()


def test_workers_live_for_all_epochs():
    places = StepBatches(4, batch_size=2, total_steps=12, seed=0)  # six epochs
    loader = StepLoader(_Processes(), places, collate=list, seed=0, workers=2)
    processes = Counter(pid for batch in loader for pid in batch)
    assert sorted(processes.values()) == [12, 12]
    assert os.getpid() not in processes


def test_what_a_worker_does_first(monkeypatch):
    handlers, threads = {}, []
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    start_worker(1)
    assert threads == [1]
    assert handlers[signal.SIGINT] is signal.SIG_IGN
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert handlers == {signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_DFL}


def test_what_torch_is_asked_for(dataset):
    places = StepBatches(4, batch_size=2, total_steps=2, seed=0)
    alone = StepLoader(dataset, places, collate=list, seed=7)
    assert (alone.num_workers, alone.prefetch_factor, alone.pin_memory) == (0, None, False)
    assert alone.worker_init_fn is None
    loader = StepLoader(dataset, places, collate=list, seed=7, workers=2, pin_memory=True)
    assert (loader.num_workers, loader.prefetch_factor, loader.pin_memory) == (2, 4, True)
    assert loader.worker_init_fn is start_worker
    assert loader.generator.initial_seed() == 7


def test_workers_that_hang_are_ended(monkeypatch):
    """After two waits: one for them to end by themselves, one for what is left to be cleared."""
    monkeypatch.setattr(steps, "_WORKER_SECONDS", 0.1)
    ended = threading.Event()

    class Worker:
        killed = 0

        def kill(self):
            self.killed += 1
            ended.set()

    class Batches:
        _workers = (Worker(), Worker())
        done = False

        def _shutdown_workers(self):
            assert threading.current_thread().daemon
            ended.wait(20)
            self.done = True

    batches = Batches()
    steps._end_workers(batches)
    assert [worker.killed for worker in batches._workers] == [1, 1]
    assert batches.done
    steps._end_workers(iter(()))  # that of a loader without workers


def test_workers_that_cannot_be_ended_are_not_waited_for(monkeypatch):
    """On a file system that does not answer, not even by force."""
    monkeypatch.setattr(steps, "_WORKER_SECONDS", 0.01)
    answered = threading.Event()

    class Batches:
        _workers = (type("Worker", (), {"kill": lambda self: None})(),)

        def _shutdown_workers(self):
            answered.wait(60)

    waiting = threading.Thread(target=steps._end_workers, args=(Batches(),), daemon=True)
    waiting.start()
    waiting.join(20)
    assert not waiting.is_alive()
    answered.set()


@pytest.mark.parametrize(("number", "count"), [(2, 2), (3, 3), (9, 3)])
def test_the_images_held_out_are_those_of_every_version(number, count):
    """At most a quarter; both parts stay in order."""
    files = tuple(Path(f"{index}.png") for index in range(12))
    generator = torch.Generator().manual_seed(derive_seed(5, "validation", "A"))
    chosen = torch.randperm(12, generator=generator)[:count].tolist()
    train, val = held_out(files, number, seed=5, domain="A", folder="valA")
    assert val == tuple(files[index] for index in sorted(chosen))
    assert train == tuple(path for path in files if path not in val)


@pytest.mark.parametrize(("number", "count"), [(1, 12), (5, 7)])
def test_a_single_image_is_too_few_to_hold_out(number, count):
    files = tuple(Path(f"{index}.png") for index in range(count))
    with pytest.raises(DataError) as caught:
        held_out(files, number, seed=5, domain="A", folder="valA")
    assert str(caught.value) == (
        f"Domain `A` has {count} training images, too few to hold some out for scores; add valA, "
        "or leave out --score-every."
    )


def test_a_worker_outlives_one_termination_signal_but_not_two():
    script = (
        "import time; from patchkin.data.steps import start_worker\n"
        "start_worker(0); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline() == b"ready\n"
        worker.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.5)
        worker.terminate()
        assert worker.wait(10) == -signal.SIGTERM


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_in_locked_pages(dataset, workers):
    loader = training_loader(dataset, batch_size=2, total_steps=3, workers=workers, pin_memory=True)
    for batch in loader:
        assert batch.a_BCHW.is_pinned()
        assert batch.b_BCHW.is_pinned()


@pytest.mark.parametrize("workers", [0, 1])
def test_vanished_file_is_one_line_from_any_process(dataset, workers):
    dataset.train_a[3].unlink()
    with pytest.raises(DataError) as caught:
        _steps(dataset, workers=workers)
    assert str(caught.value) == f"`{dataset.train_a[3]}` does not exist."


def test_images_of_different_sizes_cannot_share_a_batch(tmp_path, make_images):
    a = make_images(tmp_path / "a", 1) + make_images(tmp_path / "b", 1, size=(32, 16))
    dataset = UnpairedDataset(a, a, DataConfig(size=16, preprocess="none"), seed=0)
    with pytest.raises(
        DataError, match=r"different sizes \(24 x 16, 32 x 16\); use `batch_size` 1"
    ):
        _steps(dataset, total_steps=1)


def test_crop_larger_than_an_image_names_the_file(tmp_path, make_images):
    a = make_images(tmp_path / "a", 2)
    dataset = UnpairedDataset(a, a, DataConfig(size=64, preprocess="crop"), seed=0)
    with pytest.raises(DataError, match=r"`.*00[01]\.png`: 24 x 16 pixels are smaller"):
        _steps(dataset, total_steps=1)


def test_rank_out_of_range(dataset):
    for rank in (-1, 2):
        with pytest.raises(ConfigError, match=f"`rank` must be from 0 to 1; got {rank}"):
            training_loader(dataset, batch_size=1, total_steps=1, rank=rank, world_size=2)


# Batches


def test_batch(dataset):
    batch = collate([dataset[Place(0, i)] for i in range(3)])
    assert len(batch) == 3
    assert batch.a_BCHW.shape == batch.b_BCHW.shape == (3, 3, 12, 12)
    assert batch.a_BCHW.dtype == torch.float32
    assert batch.a_names == ("000", "001", "002")
    moved = batch.to("meta")
    assert isinstance(moved, UnpairedBatch)
    assert moved.b_BCHW.device.type == "meta"
    assert moved.b_names == batch.b_names


def test_evaluation_images_are_whole_resized_and_in_order(tmp_path, make_images):
    paths = make_images(tmp_path / "a", 5)
    batches = list(evaluation_images(paths, size=16, batch_size=2))
    assert [batch.names for batch in batches] == [("000", "001"), ("002", "003"), ("004",)]
    expected = read_image(paths[2]).pixels.resize((16, 16), 3)
    from patchkin.images import pillow_to_tensor

    assert torch.equal(batches[1].images_BCHW[0], pillow_to_tensor(expected))
    same_size = next(
        iter(evaluation_images(make_images(tmp_path / "b", 1, size=(16, 16)), size=16))
    )
    assert torch.equal(same_size.images_BCHW[0], to_tensor(read_image(tmp_path / "b" / "000.png")))
