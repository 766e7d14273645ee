"""What is typed and said of faces."""

import pytest

from diffbir_jax.faces.flags import LEAST, face_size
from diffbir_jax.faces.reports import FaceReport, summary
from tests.faces.known import face


@pytest.mark.parametrize(
    "text, sizes",
    [("20,400", (20, 400)), ("20", (20, None)), (",400", (LEAST, 400)), (",5", (5, 5)), ("0", (0, None))],
)
def test_sizes_may_be_left_out(text: str, sizes: tuple) -> None:
    assert face_size(text) == sizes


def test_what_is_said_of_faces() -> None:
    left = FaceReport(face(0, 0, 20), "already sharp")
    assert summary([]) == "no face" and summary([FaceReport(face(0, 0, 20))]) == "1 face"
    assert summary([left, left]) == "2 faces, 2 left as background (already sharp)"
    assert summary([left], whole=False) == "1 face, 1 left out (already sharp), so no crop is written"
    assert summary([left, FaceReport(face(0, 0, 20))], whole=False) == "2 faces, 1 left out (already sharp)"
