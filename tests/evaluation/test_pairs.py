from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.evaluation.pairs import check_cases, find_cases, match_cases
from diffbir_jax.files.errors import ImageFileError
from diffbir_jax.imaging.reading import read_image
from tests.evaluation.folders import fill_folder, save


def test_files_match_by_path_without_suffix(tmp_path: Path):
    pred = fill_folder(tmp_path / "pred", ["b.v1.png", "sub/a.png"])
    gt = fill_folder(tmp_path / "gt", ["sub/a.bmp", "b.v1.JPG"])
    lq = fill_folder(tmp_path / "lq", ["b.v1.png", "sub/a.png", "more.png"])
    first, second = find_cases([pred], gt, lq)
    assert (first.name, second.name) == ("b.v1", "sub/a")
    assert second.preds == (pred / "sub/a.png",)
    assert (second.gt, second.lq) == (gt / "sub/a.bmp", lq / "sub/a.png")
    assert second.scored == (pred / "sub/a.png", gt / "sub/a.bmp")
    assert [case.gt for case in find_cases([pred])] == [None, None]


def test_accents_in_one_or_two_characters_are_one_name(tmp_path: Path):
    save(tmp_path / "pred" / "\u00e9.png")
    save(tmp_path / "gt" / "e\u0301.png")
    (case,) = find_cases([tmp_path / "pred"], tmp_path / "gt")
    assert case.gt == tmp_path / "gt" / "e\u0301.png"


def test_images_are_known_by_their_content(tmp_path: Path):
    pred = fill_folder(tmp_path / "pred", ["a.png"])
    gt = fill_folder(tmp_path / "gt", ["a.png"])
    (gt / "a.png").rename(gt / "a.photo")
    (gt / "notes.txt").write_text("no image")
    assert [case.gt for case in find_cases([pred], gt)] == [gt / "a.photo"]


def test_results_of_several_seeds_belong_together(tmp_path: Path):
    seeds = [fill_folder(tmp_path / seed, ["a.png", "b.png"]) for seed in "12"]
    assert [case.preds for case in find_cases(seeds)] == [
        tuple(seed / name for seed in seeds) for name in ("a.png", "b.png")
    ]
    (seeds[1] / "b.png").unlink()
    with pytest.raises(ImageFileError, match=r"1 image has no prediction in \S+/2 \(b\);"):
        find_cases(seeds)


def test_pictures_that_restore_writes_beside_its_results_are_left_out(tmp_path: Path):
    names = ["a.png", "a_compare.png", "a_stage1.png", "b_1.png", "b_2.png", "b_1_compare.png", "b_std.png"]
    pred = fill_folder(tmp_path / "pred", [*names, "c_stage1.png"])
    # c_stage1 lies beside no c: it is a result.
    assert [case.name for case in find_cases([pred])] == ["a", "b_1", "b_2", "c_stage1"]
    gt = fill_folder(tmp_path / "gt", ["a.png", "a_compare.png", "b_1.png", "b_2.png", "c_stage1.png"])
    assert "a_compare" in [case.name for case in find_cases([pred], gt)]


def test_all_names_that_do_not_match_are_told_at_once(tmp_path: Path):
    pred = fill_folder(tmp_path / "pred", ["a.png", "x.png", "y.png"])
    gt = fill_folder(tmp_path / "gt", ["a.png", *(f"{i}.png" for i in range(13))])
    with pytest.raises(ImageFileError) as error:
        find_cases([pred], gt, fill_folder(tmp_path / "lq", ["a.png"]))
    message = str(error.value)
    assert f"13 images have no prediction in {pred} (0, 1, 10, 11, 12, 2, 3, 4, 5, 6 and 3 more); " in message
    assert f"2 images have no ground truth in {gt} (x, y); " in message
    assert (
        f"15 images have no input in {tmp_path / 'lq'} (0, 1, 10, 11, 12, 2, 3, 4, 5, 6 and 5 more); "
        in message
    )
    assert "\n" not in message


def test_two_files_of_one_name_are_an_error(tmp_path: Path):
    pred = fill_folder(tmp_path / "pred", ["sub/a.png", "sub/a.jpg"])
    with pytest.raises(ImageFileError, match="must differ: sub/a.jpg and sub/a.png; keep one of each"):
        find_cases([pred])


def test_an_empty_or_missing_folder_is_named(tmp_path: Path):
    pred = fill_folder(tmp_path / "pred", ["a.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageFileError, match="empty: holds no image file"):
        find_cases([pred], tmp_path / "empty")
    with pytest.raises(ImageFileError, match="nowhere: no such folder"):
        find_cases([tmp_path / "nowhere"], pred)


def test_folders_of_evaluations_are_left_out(tmp_path: Path):
    pred = fill_folder(tmp_path / "pred", ["a.png", "out/report/a.png"])
    assert [case.name for case in find_cases([pred], exclude=[pred / "out"])] == ["a"]


def test_pictures_of_reports_are_no_results(tmp_path: Path):
    pred = fill_folder(tmp_path / "pred", ["a.png", "old/report/0-pred.png", "report/b.png"])
    (pred / "old" / "report.html").touch()
    assert [case.name for case in find_cases([pred])] == ["a", "report/b"]


def test_a_folder_is_not_two_seeds(tmp_path: Path):
    pred = fill_folder(tmp_path / "pred", ["a.png"])
    with pytest.raises(ImageFileError, match="--pred names a folder twice; give one folder per seed"):
        find_cases([pred, pred / ".." / "pred"])


def test_sizes_that_differ_are_told_with_both(tmp_path: Path):
    gt = fill_folder(tmp_path / "gt", [f"{i}.png" for i in range(13)])
    pred = fill_folder(tmp_path / "pred", ["0.png"])
    for i in range(1, 13):
        save(pred / f"{i}.png", side=(32, 16))
    with pytest.raises(ImageFileError) as error:
        check_cases(find_cases([pred], gt))
    message = str(error.value)
    assert message.startswith("12 of 13 images differ in size from what they are compared with: ")
    assert f"{pred / '1.png'} is 16x32, not 16x16, " in message
    assert " and 2 more; " in message
    assert len(check_cases(find_cases([pred]))) == 13


def test_sizes_of_seeds_must_agree(tmp_path: Path):
    save(tmp_path / "1" / "a.png")
    save(tmp_path / "2" / "a.png", side=(16, 20))
    with pytest.raises(ImageFileError, match=r"2/a.png is 20x16, not 16x16;"):
        check_cases(find_cases([tmp_path / "1", tmp_path / "2"]))


def test_one_message_has_every_kind_of_problem(tmp_path: Path):
    """All files that have no partner, cannot be read or have another size; with or without a partner."""
    pred = fill_folder(
        tmp_path / "pred", ["a.png", "b.png", "c.png", "double.png", "double.jpg", "alone.png"]
    )
    save(pred / "a.png", side=(32, 32))
    gt = fill_folder(tmp_path / "gt", ["a.png", "b.png", "c.png", "double.png", "other.png"])
    (pred / "alone.png").write_bytes(b"")
    (gt / "b.png").write_bytes((gt / "b.png").read_bytes()[:60])
    (pred / "c.png").write_text("no image")
    (gt / "other.png").write_text("no image")
    cases, problems = match_cases([pred], gt)
    with pytest.raises(ImageFileError) as error:
        check_cases(cases, problems=problems)
    message = str(error.value)
    assert message.startswith(f"{pred}: names without suffixes must differ: double.jpg and double.png; ")
    assert (
        f"1 image has no prediction in {pred} (other); 1 image has no ground truth in {gt} (alone); "
        in message
    )
    assert f" in each. 4 files cannot be read: {pred / 'alone.png'} (is empty" in message
    for path in (gt / "b.png", pred / "c.png", gt / "other.png"):
        assert f"), {path} (is " in message
    assert (
        f". 1 of 6 images differ in size from what they are compared with: {pred / 'a.png'} is 32x32, not"
        in message
    )
    assert "\n" not in message


def test_checked_cases_know_the_contents_of_their_files(tmp_path: Path):
    pred = fill_folder(tmp_path / "pred", ["a.png", "b.png"])
    gt = fill_folder(tmp_path / "gt", ["a.png", "b.png"], first=1)
    a, b = check_cases(find_cases([pred], gt))
    assert set(a.digests) == set(a.scored)
    assert a.digests[gt / "a.png"] == b.digests[pred / "b.png"] != b.digests[gt / "b.png"]


@pytest.mark.parametrize("side", [(17, 16), (16, 17), (17, 17), (16, 16)])
def test_a_pixel_more_or_less_is_cut_to_the_common_size(tmp_path: Path, side: tuple[int, int]):
    pred, gt = save(tmp_path / "pred" / "a.png", side=side), save(tmp_path / "gt" / "a.png", 5, (17, 17))
    (case,) = check_cases(find_cases([tmp_path / "pred"], tmp_path / "gt"), crop_to_common=True)
    assert case.cut == (None if side == (17, 17) else side)
    for path in (pred, gt):
        np.testing.assert_array_equal(case.read(path), read_image(path)[: side[0], : side[1]])


@pytest.mark.parametrize("side", [(18, 16), (16, 14), (18, 18)])
def test_two_pixels_are_not_cut(tmp_path: Path, side: tuple[int, int]):
    height, width = max(16, side[0]), max(16, side[1])
    save(tmp_path / "pred" / "a.png", side=(height, width))
    save(tmp_path / "gt" / "a.png", side=(height - side[0] + 16, width - side[1] + 16))
    with pytest.raises(
        ImageFileError, match="differ in size .*; --crop-to-common cuts a difference of 1 pixel"
    ):
        check_cases(find_cases([tmp_path / "pred"], tmp_path / "gt"), crop_to_common=True)


def test_large_images_are_refused_by_the_limit(tmp_path: Path):
    pred = fill_folder(tmp_path / "pred", ["a.png"])
    assert check_cases(find_cases([pred]), max_pixels=256)
    with pytest.raises(ImageFileError, match="a.png .is 16x16 = 256 pixels, more than the limit of 255"):
        check_cases(find_cases([pred]), max_pixels=255)
