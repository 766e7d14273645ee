import json
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from diffbir_jax.data.example import DataError
from diffbir_jax.data.sources import make_source
from tests.data.sources.samples import check_copies, check_reads, png, put

ROOT = Path(__file__).parents[3]


def test_sources_are_put_one_behind_the_other(tmp_path: Path) -> None:
    configs = []
    for i, count in enumerate((2, 1, 3)):
        for j in range(count):
            put(tmp_path / str(i) / f"{j}.png", png(10 * i + j))
        configs.append({"kind": "folder", "path": str(tmp_path / str(i))})
    source = make_source({"kind": "concat", "sources": configs})
    names = ["0/0", "0/1", "1/0", "2/0", "2/1", "2/2"]
    check_reads(source, [png(i) for i in (0, 1, 10, 20, 21, 22)], [{}] * 6, lambda i: f"{names[i]}.png")
    check_copies(source)
    other = make_source({"kind": "concat", "sources": configs[::-1]})
    assert other.fingerprint != source.fingerprint


def test_a_configuration_may_be_a_config_dict(tmp_path: Path) -> None:
    """With fields that are there but not set."""
    put(tmp_path / "l.txt", "0.png")
    put(tmp_path / "0.png", png(0))
    source = make_source(ConfigDict({"kind": "list", "path": tmp_path / "l.txt", "root": None}))
    check_reads(source, [png(0)], [{}], lambda i: "0.png")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"kind": "zip"},
            "kind of source 'zip' is unknown; allowed are folder, list, table, pairs, array_record, tar",
        ),
        ({}, "kind of source None is unknown"),
        ({"kind": "list", "path": "x", "rot": "y"}, "source list: unknown rot; it takes path, root"),
        ({"kind": "folder"}, "source folder: path must be given; it takes path"),
        ({"kind": "folder", "path": None}, "source folder: path must be given"),
        ({"kind": "concat", "sources": []}, "kind concat needs sources; list at least one"),
        ({"kind": "concat", "sources": [{"kind": "folder"}]}, "source folder: path must be given"),
    ],
)
def test_a_wrong_configuration_is_refused(config: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_source(config)


MISSING = """
import json, sys
for name in ("tensorflow", "tensorflow_datasets", "pyarrow", "array_record"):
    sys.modules[name] = None
from diffbir_jax.data.sources import make_source
messages = []
for config in json.loads(sys.argv[1]):
    try:
        make_source(config)
    except ValueError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""


def test_what_is_not_installed_is_named_with_its_extra(tmp_path: Path) -> None:
    """Neither is it needed for anything else."""
    put(tmp_path / "a.csv", "image_path")
    put(tmp_path / "a.array_record", b"-")
    configs = [
        {"kind": "table", "path": str(tmp_path / "a.csv")},
        {"kind": "array_record", "path": str(tmp_path)},
        {"kind": "tfds", "name": "mnist"},
    ]
    run = [sys.executable, "-c", MISSING, json.dumps(configs)]
    output = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    messages = json.loads(output)
    assert len(messages) == 3
    for message, package in zip(messages, ("pyarrow", "array_record", "tensorflow_datasets")):
        assert f"need {package}" in message and "pip install 'diffbir-jax[data]'" in message
