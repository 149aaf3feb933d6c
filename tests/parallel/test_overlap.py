import threading
import time
from collections import deque
from functools import partial

import pytest

from patchkin.parallel.overlap import Fed, ahead, behind


def test_items_are_made_before_they_are_asked_for():
    made = []

    def items():
        for number in range(10):
            made.append(number)
            yield number

    seen = ahead(items(), depth=2)
    assert next(seen) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]  # one taken, two waiting, one in the maker's hands
    assert list(seen) == list(range(1, 10))


def test_an_error_comes_where_its_item_would_have_come():
    def items():
        yield 1
        raise ValueError("broken")

    seen = ahead(items())
    assert next(seen) == 1
    with pytest.raises(ValueError, match="broken"):
        next(seen)


def test_a_consumer_that_stops_stops_the_thread():
    before = threading.active_count()
    seen = ahead(iter(int, 1), depth=1)  # endless
    next(seen)
    seen.close()
    assert threading.active_count() == before


def test_work_is_done_in_order_by_one_other_thread():
    done, threads = [], set()

    def work(number):
        time.sleep(0.01 * (number % 2))
        done.append(number)
        threads.add(threading.get_ident())

    with behind(depth=3) as later:
        for number in range(8):
            later(lambda number=number: work(number))
            assert number - len(done) <= 3
    assert done == list(range(8))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_error_behind_is_not_lost():
    def fail():
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), behind() as later:
        later(fail)


def test_fed_work_takes_items_as_they_come_and_waits_for_no_more_than_its_depth():
    taken, given = [], []

    def work(items):
        for item in items:
            taken.append(item)
            time.sleep(0.005)
        return sum(taken)

    fed = Fed(work, depth=2)
    for number in range(8):
        fed.give(number)
        given.append(number)
        assert len(given) - len(taken) <= 3
    assert fed.finish() == 28
    assert taken == list(range(8))


def test_an_error_of_fed_work_is_raised_where_items_are_given_or_at_the_end():
    def work(items):
        next(items)
        raise OSError("no space")

    fed = Fed(work, depth=1)
    give_all = partial(deque, map(fed.give, range(9)))
    with pytest.raises(OSError, match="no space"):
        give_all()
    fed.abandon()
    fed = Fed(work)
    fed.give(0)
    with pytest.raises(OSError, match="no space"):
        fed.finish()


def test_abandoned_work_is_over():
    before, ended = threading.active_count(), []

    def work(items):
        try:
            return list(items)
        finally:
            ended.append(True)

    fed = Fed(work)
    fed.give(1)
    fed.abandon()
    assert ended == [True]
    assert threading.active_count() == before
