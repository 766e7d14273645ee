"""OpenCV's log, which all threads of the process share."""

from diffbir_jax.imaging.opencv import ERRORS, SILENT, log_level, logged


def test_threads_that_overlap_leave_the_level_as_it_was() -> None:
    """A photo is read while the face detector is loaded; the reader ends first."""
    before = log_level()
    reader, detector = logged(SILENT), logged(ERRORS)
    reader.__enter__()
    detector.__enter__()
    assert log_level() == SILENT
    reader.__exit__(None, None, None)
    assert log_level() == ERRORS
    detector.__exit__(None, None, None)
    assert log_level() == before > ERRORS
