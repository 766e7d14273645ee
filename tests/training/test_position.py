import json

import jax
import pytest

from diffbir_jax.data.batches import Batches
from diffbir_jax.training import position
from diffbir_jax.training.position import position_of, resume


class Data(Batches):
    def __init__(self, **identity):
        self.named, self.broken = identity, {}

    @property
    def identity(self):
        return self.named

    def remember(self, broken):
        self.broken.update(broken)


def saved(batches):
    """As a checkpoint holds it."""
    return json.loads(json.dumps(position_of(batches, 40)))


def test_a_run_goes_on_with_the_same_data_and_what_was_broken():
    before, after = Data(seed=1, source="abc"), Data(seed=1, source="abc")
    before.broken |= {7: "7.png: is cut off", 3: "3.png: is empty"}
    assert saved(before)["next_batch"] == 40
    resume(after, saved(before))
    assert after.broken == before.broken


def test_what_changed_is_listed():
    with pytest.raises(ValueError) as error:
        resume(Data(seed=2, source="abc", batch_size=8), saved(Data(seed=1, source="abd", batch_size=8)))
    assert str(error.value) == (
        "the data of this run changed since its checkpoint: seed was 1, is 2; source was abd, is abc. "
        "Set them back, or begin anew with a new `workdir`"
    )


def test_a_source_does_not_take_over_from_a_folder():
    with pytest.raises(ValueError, match="source was None, is abc"):
        resume(Data(source="abc"), saved(Data()))


def test_a_checkpoint_without_a_position_is_gone_on_from():
    resume(Data(source="abc"), None)


@pytest.mark.parametrize(
    ("count", "found"),
    [
        (1, [{3: "c", 7: "g", 8: "h"}]),
        (2, [{3: "c", 7: "g"}, {8: "h"}]),
        (3, [{3: "c"}, {8: "h"}, {7: "g"}]),
    ],
)
def test_each_process_remembers_what_it_found(monkeypatch, count, found):
    """What three processes saved goes on in one, two or three; in two, the third one's is the first one's."""
    lists = [[[3, "c"]], [[8, "h"]], [[7, "g"]]]
    monkeypatch.setattr(position, "gathered", lambda text: [json.dumps(pairs) for pairs in lists])
    monkeypatch.setattr(jax, "process_count", lambda: count)
    for index, expected in enumerate(found):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        after = Data()
        resume(after, saved(Data()))
        assert after.broken == expected


def test_a_checkpoint_from_before_processes_were_told_apart():
    after = Data()
    resume(after, {"next_batch": 40, "data": {}, "broken": [[7, "7.png: is cut off"]]})
    assert after.broken == {7: "7.png: is cut off"}
