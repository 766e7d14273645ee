import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffbir_jax.console.errors import UserError
from diffbir_jax.evaluation import scoring
from diffbir_jax.evaluation.evaluate import Evaluation, evaluate
from diffbir_jax.evaluation.metric import Metric, SetScore, Setup, UnavailableError
from diffbir_jax.evaluation.registry import select
from diffbir_jax.evaluation.result import Result, read_result
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.metrics.spread import global_deviation, local_deviation
from diffbir_jax.weights.safetensors import checksum
from tests.evaluation.folders import Counted, fill_folder, save

NAMES = ["a.png", "b.png", "c.png"]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder with pred (each 2 levels brighter than its ground truth), pred2 (5 levels), gt and lq."""
    for name, first in (("pred", 2), ("pred2", 5), ("gt", 0), ("lq", 9)):
        fill_folder(tmp_path / name, NAMES, first)
    return tmp_path


def score(
    folder: Path, metrics: Sequence[Metric], output: str = "out", preds: str = "pred", **more: object
) -> Result:
    given = [folder / name for name in preds.split()]
    fields = {"gt": folder / "gt"} | more
    return evaluate(Evaluation("run", given, folder / output, metrics, **fields))


def test_every_image_is_scored_once_and_kept(folders: Path):
    counted = Counted()
    result = score(folders, [counted.metric()], lq=folders / "lq")
    assert counted.calls == 3
    assert [(image.name, dict(image.scores)) for image in result.images] == [(x, {"gap": 2.0}) for x in "abc"]
    assert (result.summary["gap"].mean, result.summary["gap"].count) == (2.0, 3)
    assert result.images[0].files == {key: str(folders / key / "a.png") for key in ("pred", "gt", "lq")}
    assert score(folders, [counted.metric()], lq=folders / "lq") == result
    assert counted.calls == 3
    assert read_result(folders / "out/result.json") == result


def test_only_what_changed_is_scored_again(folders: Path):
    counted = Counted()
    score(folders, [counted.metric()])
    save(folders / "pred" / "b.png", level=20)
    assert score(folders, [counted.metric()]).images[1].scores["gap"] == 19.0
    assert counted.calls == 4
    for change in ({"version": 2}, {"name": "other"}):
        before = counted.calls
        score(folders, [dataclasses.replace(counted.metric(), **change)])
        assert counted.calls == before + 3


def test_the_border_matters_to_cropped_metrics_only(folders: Path):
    counted, cropped = Counted(), Counted()
    metrics = [counted.metric(), cropped.metric("cut", cropped=True)]
    for crop in (0, 4, 4):
        score(folders, metrics, setup=Setup(crop))
    assert (counted.calls, cropped.calls) == (3, 6)


def test_other_weights_or_packages_are_scored_again(folders: Path, monkeypatch: pytest.MonkeyPatch):
    counted, weights = Counted(), folders / "net.safetensors"
    metric = counted.metric(files=("net", "more.pth"), packages=("numpy",))
    (folders / "more.pth").write_bytes(b"123456789")
    for value in (1.0, 1.0, 2.0):
        save_file({"w": np.full(3, value, np.float32)}, weights)
        result = score(folders, [metric], setup=Setup(weights=folders))
    assert counted.calls == 6
    # The well-known check value of CRC-32.
    assert result.checksums == {"net": checksum(weights), "more.pth": "cbf43926"}
    assert result.protocol["scoring"]["metrics"]["gap"] == {"version": 1, "weights": dict(result.checksums)}
    assert result.versions["numpy"] == np.__version__
    monkeypatch.setattr(scoring, "version", lambda package: "0")
    score(folders, [metric], setup=Setup(weights=folders))
    assert counted.calls == 9


def test_it_goes_on_where_it_was_stopped(folders: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scoring.os, "cpu_count", lambda: 1)
    whole = score(folders, [Counted().metric()], output="whole")

    class Stopping(Counted):
        def __call__(self, *images: np.ndarray) -> float:
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().__call__(*images)

    with pytest.raises(KeyboardInterrupt):
        score(folders, [Stopping().metric()])
    assert not (folders / "out/result.json").exists()
    kept = (folders / "out/cache.jsonl").read_bytes().splitlines(keepends=True)
    assert len(kept) == 2
    # As if the process had been killed while it wrote the last line.
    (folders / "out/cache.jsonl").write_bytes(b"".join(kept)[:-5])
    counted = Counted()
    assert score(folders, [counted.metric()]) == whole
    assert counted.calls == 2


def test_two_runs_write_the_same_bytes(folders: Path):
    files = []
    for output in ("out", "other"):
        score(folders, select(["psnr", "ssim", "energy", "lstd"]), output, preds="pred pred2")
        files.append((folders / output / "result.json").read_bytes())
    assert files[0] == files[1]


def test_threads_change_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch):
    metrics = select(["psnr", "ssim"])
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(scoring.os, "cpu_count", lambda threads=threads: threads)
        results.append(score(folders, metrics, output=str(threads)))
    assert results[0] == results[1]


def test_what_a_metric_cannot_do_with_an_image_is_a_problem(folders: Path):
    save(folders / "pred" / "b.png", level=1)
    result = score(folders, select(["psnr", "ms_ssim"]))
    assert [image.scores["psnr"] is None for image in result.images] == [False, True, False]
    assert result.images[1].problems["psnr"] == "identical images"
    assert result.summary["psnr"].count == 2
    assert "160 pixels" in result.images[0].problems["ms_ssim"]
    assert "ms_ssim" not in result.summary
    assert result.unavailable == {}


def test_a_score_that_is_no_number_is_a_problem(folders: Path):
    metric = Metric("odd", "ODD", "single", "lower", lambda setup: lambda image: float("nan"))
    image = score(folders, [metric]).images[0]
    assert (image.scores["odd"], image.problems["odd"]) == (None, "the score is nan")
    json.loads((folders / "out/cache.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)


def test_metrics_that_cannot_run_are_told_with_the_reason(folders: Path):
    def load(setup: Setup) -> None:
        raise UnavailableError("no net:\n  put it there")

    metrics = [Metric("net", "NET", "single", "lower", load), *select(["psnr", "niqe", "lstd"])]
    result = score(folders, metrics, gt=None)
    assert result.unavailable == {
        "net": "no net: put it there",
        "psnr": "needs --gt",
        "lstd": "needs several folders in --pred, one per seed",
    }
    assert list(result.columns) == ["net", "psnr", "niqe", "lstd"]
    assert list(result.images[0].scores) == ["niqe"]
    assert list(result.images[0].files) == ["pred"]


def test_what_a_network_fails_at_is_told_and_tried_again(folders: Path):
    """Too little memory, for one, of which the next run may have more."""
    full = True

    def network(image: np.ndarray) -> float:
        if full:
            raise RuntimeError("out of memory")
        return float(image.mean())

    metric = Metric("net", "NET", "single", "lower", lambda setup: network)
    first = score(folders, [metric])
    assert [image.problems["net"] for image in first.images] == ["RuntimeError: out of memory"] * 3
    full = False
    assert all(image.scores["net"] is not None for image in score(folders, [metric]).images)


def test_bugs_of_a_metric_are_raised(folders: Path):
    with pytest.raises(TypeError):
        score(folders, [Metric("bad", "BAD", "single", "lower", lambda setup: lambda: 0.0)])


def test_scores_of_seeds_are_averaged_and_their_deviation_is_told(folders: Path):
    alone = Counted()
    metrics = [Counted().metric(), alone.metric("mean", kind="single"), *select(["lstd"])]
    result = score(folders, metrics, preds="pred pred2")
    assert list(result.columns) == ["gap", "mean", "lstd", "gap_gstd", "mean_gstd"]
    assert {column.kind for name, column in result.columns.items() if name.endswith("std")} == {"spread"}
    assert alone.calls == 6
    for image in result.images:
        assert image.scores["gap"] == 3.5
        assert image.scores["gap_gstd"] == global_deviation(np.array([[2.0, 5.0]]))
        assert image.scores["lstd"] == pytest.approx(
            local_deviation([np.full((1, 1, 3), x, np.uint8) for x in (2, 5)])
        )
    assert result.protocol["results_per_image"] == 2


def test_a_seed_without_score_leaves_the_image_without(folders: Path):
    save(folders / "pred2" / "a.png", level=0)
    image = score(folders, select(["psnr"]), preds="pred pred2").images[0]
    assert image.scores == {"psnr": None, "psnr_gstd": None}
    assert image.problems == {"psnr": "identical images", "psnr_gstd": "identical images"}


def test_sets_are_scored_as_a_whole_and_kept(folders: Path):
    looked: list[float] = []

    def features(image: np.ndarray) -> np.ndarray:
        looked.append(float(image.mean()))
        return image.mean((0, 1))

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        assert a.shape == b.shape == (3, 3)
        return float((a - b).mean())

    metric = Metric("set", "SET", "set", "lower", lambda setup: SetScore(features, distance))
    result = score(folders, [metric], preds="pred pred2")
    assert result.summary["set"].mean == pytest.approx(3.5)
    assert (result.summary["set"].low, result.summary["set"].count) == (None, 3)
    assert len(looked) == 9  # ground truths once
    assert score(folders, [metric], preds="pred pred2") == result
    assert len(looked) == 9
    save(folders / "gt" / "c.png", level=4)
    assert score(folders, [metric]).summary["set"].mean == pytest.approx(2 - 2 / 3)


def test_a_set_that_cannot_be_scored_is_told(folders: Path):
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        raise UserError("3 images are too few")

    metric = Metric(
        "set", "SET", "set", "lower", lambda setup: SetScore(lambda image: image.mean((0, 1)), distance)
    )
    result = score(folders, [metric])
    assert result.unavailable == {"set": "3 images are too few"}
    assert result.summary == {}


def test_an_unreadable_image_of_a_set_ends_the_run(folders: Path):
    """It is an error of the user, but none of the metric's: nothing is kept of it."""

    def features(image: np.ndarray) -> np.ndarray:
        raise ImageFileError("b.png: is damaged")

    metric = Metric("set", "SET", "set", "lower", lambda setup: SetScore(features, lambda a, b: 0.0))
    with pytest.raises(ImageFileError, match="is damaged"):
        score(folders, [metric])


def test_the_protocol_names_folders_without_their_places(folders: Path):
    result = score(folders, select(["psnr"]), lq=folders / "lq", setup=Setup(4), protocol={"suite": "x"})
    assert result.protocol["folders"] == {"pred": ["pred"], "gt": "gt", "lq": "lq"}
    assert (result.protocol["scoring"]["crop"], result.protocol["suite"]) == (4, "x")
    assert str(folders) not in json.dumps(result.protocol)
    assert {"numpy", "scipy", "jax", "opencv", "diffbir_jax", "Python"} <= result.versions.keys()


def test_files_below_the_output_are_relative(folders: Path):
    (folders / "pred").rename(folders / "inner")
    (folders / "out").mkdir()
    (folders / "inner").rename(folders / "out/pred")
    result = score(folders, select(["psnr"]), preds="out/pred")
    assert result.images[0].files == {"pred": "pred/a.png", "gt": str(folders / "gt/a.png")}


def test_scores_of_a_cut_image_are_kept_apart(folders: Path):
    """From those of the whole image, and of other cuts."""
    counted = Counted()
    single = [counted.metric(kind="single")]
    save(folders / "pred/b.png", 20, (17, 17))
    score(folders, single, gt=None)
    assert counted.calls == 3
    for side, calls in (((16, 17), 4), ((17, 16), 5), ((16, 17), 5), ((17, 17), 5)):
        save(folders / "gt/b.png", side=side)
        score(folders, single, crop_to_common=True)
        assert counted.calls == calls


def test_sets_see_images_of_the_common_size(folders: Path):
    seen = []

    def features(image: np.ndarray) -> np.ndarray:
        seen.append(image.shape)
        return np.array([float(image.shape[0])])

    metric = Metric("d", "D", "set", "lower", lambda setup: SetScore(features, lambda a, b: len(seen)))
    assert score(folders, [metric]).summary["d"].mean == 6
    save(folders / "pred/b.png", 3, (17, 16))
    assert score(folders, [metric], crop_to_common=True).summary["d"].mean == 12
    assert seen == [(16, 16, 3)] * 12


def mean_gap(seen: list[float]) -> Metric:
    """A set metric, the difference of mean gray levels, that notes the images it reads."""

    def features(image: np.ndarray) -> np.ndarray:
        seen.append(float(image.mean()))
        return image.mean((0, 1))

    made = SetScore(features, lambda a, b: float(a.mean() - b.mean()))
    return Metric("set", "SET", "set", "lower", lambda setup: made)


def test_a_set_without_ground_truths_is_compared_with_a_reference_set(folders: Path):
    """Of another number of images; it is part of the protocol, and read once."""
    seen: list[float] = []
    setup = Setup(reference=fill_folder(folders / "real", ["x.png", "y.png"], first=1))
    result = score(folders, [mean_gap(seen)], gt=None, setup=setup)
    assert result.summary["set"].mean == pytest.approx(3.0 - 1.5)
    reference = result.protocol["scoring"]["reference"]
    assert (reference["folder"], reference["images"], len(seen)) == ("real", 2, 5)
    assert score(folders, [mean_gap(seen)], gt=None, setup=setup) == result and len(seen) == 5
    save(folders / "real/y.png", level=4)
    other = score(folders, [mean_gap(seen)], gt=None, setup=setup)
    assert other.summary["set"].mean == pytest.approx(3.0 - 2.5)
    assert other.protocol["scoring"]["reference"]["sha256"] != reference["sha256"]


def test_ground_truths_come_before_a_reference_set(folders: Path):
    setup = Setup(reference=folders / "lq")
    result = score(folders, [mean_gap([])], setup=setup)
    assert result.summary["set"].mean == pytest.approx(2.0) and "reference" not in result.protocol["scoring"]
    assert score(folders, [mean_gap([])], gt=None).unavailable == {"set": "needs --gt"}
