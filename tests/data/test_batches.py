import threading
import time

import numpy as np
import pytest

from diffbir_jax.data.batches import prefetch


@pytest.mark.parametrize(("first", "last"), [(0, 7), (5, 7), (3, 3), (9, 4)])
def test_prefetch_yields_every_batch_once_and_in_order(first, last):
    def slow(step):
        time.sleep(0.002 * (step % 3))
        return {"step": np.array(step)}

    assert [int(batch["step"]) for batch in prefetch(slow, first, last)] == list(range(first, last))


def test_prefetch_works_ahead_but_not_far():
    asked, third = [], threading.Event()

    def source(step):
        asked.append(step)
        if step == 3:
            third.set()
        return {}

    ahead = prefetch(source, 0, 100, depth=3)
    next(ahead)
    assert third.wait(300)
    ahead.close()
    assert asked == [0, 1, 2, 3]


def test_prefetch_hands_on_what_went_wrong():
    def source(step):
        if step == 2:
            raise ValueError("photo 2 is broken")
        return {}

    ahead = prefetch(source, 0, 9)
    assert [next(ahead), next(ahead)] == [{}, {}]
    with pytest.raises(ValueError, match="photo 2 is broken"):
        next(ahead)
