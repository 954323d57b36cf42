import os
from functools import partial

import pytest

from antvisionps.errors import CacheError
from antvisionps.parallel import map_images


def open_power(exponent):
    calls = []

    def power(number):
        calls.append(number)
        return number**exponent, os.getpid(), calls[0]

    return power


def open_failing():
    def fail_at_seven(number):
        if number == 7:
            raise CacheError("image 7 is missing")
        return number

    return fail_at_seven


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers):
    results = map_images(partial(open_power, 2), range(100), workers=workers, description="square")
    assert [square for square, _, _ in results] == [number**2 for number in range(100)]


def test_one_worker_is_this_process():
    assert {process for _, process, _ in map_images(partial(open_power, 2), range(9), workers=1, description="")} == {
        os.getpid()
    }


def test_each_process_opens_its_work_once():
    results = list(map_images(partial(open_power, 2), range(200), workers=2, description=""))
    assert len({(process, first) for _, process, first in results}) == len({process for _, process, _ in results})
    assert os.getpid() not in {process for _, process, _ in results}


def test_nothing_to_do_needs_no_process():
    assert list(map_images(partial(open_power, 2), [], workers=4, description="")) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_through_as_it_is(workers):
    with pytest.raises(CacheError, match="image 7 is missing"):
        list(map_images(open_failing, range(50), workers=workers, description=""))
