"""How many threads torch uses, for the length of one piece of work.

Small matrix products lose more by waking a second thread than they gain by it; on a machine that is busy with other
work, they lose a multiple. So small work runs on one thread, and the setting of the process is restored afterwards.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from invlib import _checks

SMALL_WORK = 10_000_000
"""Multiply-adds of one evaluation below which there is one thread: between sweeps of 8 and of 32 default networks.

On two cores of which one was busy, a second thread made the steps of an `IResNet` slower by the factors 1.7 at 3
million, 1.8 at 8 million, and 1.4 at 30 million. It can help where there is more work than that and cores are idle.
"""


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside of a `with` block; afterwards, as many as before.

    Args:
        count: a positive integer.

    Raises:
        ValueError: if `count` is no positive integer.

    Example:
        >>> before = torch.get_num_threads()
        >>> with limited_threads(1):
        ...     torch.get_num_threads()
        1
        >>> torch.get_num_threads() == before
        True
    """
    _checks.count("threads", count)
    before = torch.get_num_threads()
    if count == before:
        yield
        return

    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread_if_small(
    work: float, threads: int | None = None
) -> AbstractContextManager[None]:
    """Return a context with one thread where the work is small, and with as many as now where it is large.

    Args:
        work: multiply-adds of one evaluation; for a network about the number of its parameters, all members counted,
            times the number of points of each member.
        threads: the number of threads, whatever the work; None leaves the choice to the rule.

    Raises:
        ValueError: if `threads` is neither None nor a positive integer.
    """
    if threads is not None:
        return limited_threads(_checks.count("threads", threads))

    return limited_threads(1) if work < SMALL_WORK else nullcontext()
