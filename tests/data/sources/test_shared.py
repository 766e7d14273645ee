import os
import pickle
import threading

import pytest

from diffbir_jax.data.sources.shared import PerProcess, part_of


def test_a_handle_is_opened_once() -> None:
    handle = PerProcess(threading.Lock)
    assert handle() is handle()


def test_a_copy_opens_its_own_handle() -> None:
    """Handles need not be fit for copying."""
    handle = PerProcess(threading.Lock)
    handle()
    copy = pickle.loads(pickle.dumps(handle))
    assert copy() is not handle()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_opens_its_own_handle() -> None:
    handle = PerProcess(os.getpid)
    assert handle() == os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(0 if handle() == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert handle() == os.getpid()


def test_positions_in_parts_of_which_some_are_empty() -> None:
    ends = [0, 2, 2, 5]
    assert [part_of(ends, i) for i in range(5)] == [(1, 0), (1, 1), (3, 0), (3, 1), (3, 2)]
