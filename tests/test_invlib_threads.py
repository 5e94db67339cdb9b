"""Tests of `invlib.threads`: the number of threads inside and afterwards."""

import pytest
import torch

from invlib.threads import SMALL_WORK, limited_threads, one_thread_if_small


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("work", "threads", "expected"),
    [(SMALL_WORK - 1, None, 1), (SMALL_WORK, None, 2), (1, 2, 2), (1, 3, 3), (10 * SMALL_WORK, 1, 1)],
)
def test_small_work_has_one_thread_unless_the_caller_says_otherwise(work, threads, expected):
    with one_thread_if_small(work, threads):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_threads_are_restored_after_an_error():
    with pytest.raises(KeyError), limited_threads(1):
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "two"])
def test_a_number_of_threads_is_a_positive_integer(threads):
    with pytest.raises(ValueError, match=r"^threads must be an integer >= 1"):
        one_thread_if_small(1, threads)
