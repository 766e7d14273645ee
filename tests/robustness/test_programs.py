"""Each program meets errors of the system, signals and a lost reader, at its operations on files: docs/folders.md.

`diffbir restore` is in test_faults.py, `diffbir train` in test_training.py. `make fuzz` tries every place.
"""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import save_file

from diffbir_jax.cli import sweep
from diffbir_jax.cli.main import start
from diffbir_jax.console import process
from tests.conversion import small
from tests.evaluation.folders import fill_folder
from tests.robustness.operations import alone, happening
from tests.robustness.unread import unread
from tests.weights.conftest import server
from tests.weights.server import CONTENT, NAME, Server

__all__ = ["server"]

FUZZ = "DIFFBIR_FUZZ" in os.environ
STEP = 1 if FUZZ else 4
FAULTS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "forbidden": errno.EACCES, "broken": errno.EIO}
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A training that is done at once.
TRAIN = """
import sys
from pathlib import Path
(Path(sys.argv[sys.argv.index("--workdir") + 1]) / "export").mkdir(exist_ok=True)
"""
GOLDEN = Path(__file__).parents[1] / "golden"
# Files that are the same each time: nothing in them says how long something took.
KINDS = (".md", ".png", ".pth", ".safetensors")
# A case of `parity` that NumPy computes: no program of JAX runs in a fork.
UNCOMPILED = "degradation:filter2D"


def evaluate() -> list[str]:
    for name, first in (("pred", 2), ("gt", 0)):
        fill_folder(Path(name), ["a.png", "b.png"], first)
    return ["--pred", "pred", "--gt", "gt", "--output", "out", "--metrics", "psnr", "--no-page"]


def convert() -> list[str]:
    save_file(small.swinir(), "mine.safetensors")
    return ["--input", "mine.safetensors", "--output", "out"]


def photos() -> None:
    Path("in").mkdir()
    for i in range(4):
        Image.effect_noise((40, 40), 50 + i).convert("RGB").save(f"in/{i}.png")


def prepare() -> list[str]:
    photos()
    return ["--input", "in", "--output", "out", "--workers", "0", "--min-side", "16", "--shard-size", "2"]


def preview() -> list[str]:
    photos()
    return ["--config", "bsr:tiny", "--photos", "in", "--output", "out/grid.png", "--number", "2"]


def swept() -> list[str]:
    photos()
    Path("fake.py").write_text(TRAIN)
    grid = "train.lr=1,2"
    return ["--config", "bsr:tiny", "--photos", "in", "--workdir", "out", "--grid", grid]


def fetch() -> list[str]:
    return ["--folder", "out", "fetch", "--quiet", NAME]


def parity() -> list[str]:
    return ["--golden", str(GOLDEN), "--only", "image_ops:wavelet", "--json", "out/report.json"]


PROGRAMS = {
    "evaluate": evaluate,
    "convert": convert,
    "data prepare": prepare,
    "data preview": preview,
    "sweep": swept,
    "weights": fetch,
    "parity": parity,
}


@pytest.fixture(params=PROGRAMS)
def program(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, list[str]]:
    """A program and its command line, which writes into out/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "configure", lambda precision: None)
    monkeypatch.setattr(sweep, "TRAIN", (sys.executable, "fake.py"))
    server.http.handle_error = lambda *client: None  # it is we who leave
    server.add("/a")
    server.file("/a", size=len(CONTENT))
    return request.param, PROGRAMS[request.param]()


def run(
    program: tuple[str, list[str]], number: int = 0, happen: Callable[[], None] = lambda: None
) -> tuple[int, bool]:
    """Exit code of a program in an empty folder, where something happens; whether it did."""
    shutil.rmtree("out", ignore_errors=True)
    if program[0] == "parity":
        Path("out").mkdir()
    with happening("out", number, happen) as operations, pytest.raises(SystemExit) as end:
        start(*program)
    code = end.value.code
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    return code or 0, operations.count >= number


def state() -> dict[str, bytes]:
    """What is written, but for what is hidden or says how long something took."""
    files = (path for path in Path("out").rglob("*") if path.is_file())
    kept = (
        path
        for path in files
        if not any(part.startswith(".") for part in path.parts) and path.suffix in KINDS
    )
    return {str(path): path.read_bytes() for path in kept}


def says_one_line(text: str, name: str) -> bool:
    """Whether the last line is the program's, and no traceback is shown."""
    last = text.strip().splitlines()[-1]
    return "Traceback" not in text and len(last) > 20 and (last.startswith("diffbir") or name == "weights")


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_of_the_system_is_one_line(
    program: tuple[str, list[str]], fault: str, capfd: pytest.CaptureFixture
) -> None:
    """The exit code is 1, or the program did without the operation and wrote everything."""
    assert run(program)[0] == 0
    whole, failed, number, happened = state(), 0, 1, True

    def fail() -> None:
        raise OSError(FAULTS[fault], os.strerror(FAULTS[fault]), "out/file")

    while True:
        capfd.readouterr()
        code, happened = run(program, number, fail)
        if not happened:
            break
        error = capfd.readouterr().err
        assert code in (0, 1, 2) and "Traceback" not in error, (number, error)
        assert code or state() == whole, number
        assert not code or says_one_line(error, program[0]), (number, error)
        failed += bool(code)
        number += STEP
    assert failed


def killed(program: tuple[str, list[str]], number: int) -> bool:
    """Run a program in a fork that kills itself at an operation on files; whether it came to it."""
    if child := os.fork():
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    try:
        alone()
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        run(program, number, lambda: os.kill(os.getpid(), signal.SIGKILL))
    finally:
        os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.filterwarnings(
    "ignore:os.fork", "ignore:.*multi-threaded"
)  # no program of JAX runs in the forks
def test_killed_at_any_operation_and_run_again(program: tuple[str, list[str]]) -> None:
    """Each file is whole at any time, and the end is that of a run without a break."""
    if program[0] == "parity":
        program = (program[0], ["--golden", str(GOLDEN), "--only", UNCOMPILED, "--json", "out/report.json"])
    assert run(program)[0] == 0
    whole, number = state(), 1
    while killed(program, number):
        for name, data in state().items():
            # A sweep's table says how far it is.
            assert data == whole[name] or name.endswith("results.md"), (number, name)
        with pytest.raises(SystemExit) as end:
            start(*program)
        assert not end.value.code, number
        assert state() == whole, number
        # What a killed run left would otherwise fill the disk.
        assert not [*Path("out").glob(".converting-*")], number
        number += 2 * STEP
    assert number > 1


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C interrupts, even if the tests run in the background, where shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_program_and_the_same_command_goes_on(
    program: tuple[str, list[str]], number: signal.Signals, capfd: pytest.CaptureFixture
) -> None:
    assert run(program)[0] == 0
    whole, at, interrupted = state(), 1, 0
    while True:
        capfd.readouterr()
        code, happened = run(program, at, lambda: os.kill(os.getpid(), number))
        if not happened:
            break
        error = capfd.readouterr().err
        # In the last moment, when all is done, a signal changes nothing.
        assert code in (0, 130) and "Traceback" not in error, (at, code, error)
        if code:
            with pytest.raises(SystemExit) as end:
                start(*program)
            assert not end.value.code, at
        interrupted += bool(code)
        assert state() == whole, at
        at += 2 * STEP
    assert interrupted


def test_a_folder_that_vanishes(program: tuple[str, list[str]], capfd: pytest.CaptureFixture) -> None:
    """It is made again, or one line says what is missing."""
    at = 2
    while True:
        code, happened = run(program, at, lambda: shutil.rmtree("out"))
        if not happened:
            break
        error = capfd.readouterr().err
        assert "Traceback" not in error, (at, error)
        assert not code or says_one_line(error, program[0]), (at, error)
        at += STEP


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("lost", ["reader", "disk"])
def test_output_that_nobody_reads(
    program: tuple[str, list[str]], lost: str, capfd: pytest.CaptureFixture
) -> None:
    """The work is done. A reader that has left is no fault; a full disk is."""
    assert run(program)[0] == 0
    whole = state()
    with unread(lost):
        code, _ = run(program)
    error = capfd.readouterr().err
    assert code == int(lost == "disk") and "Traceback" not in error, error
    assert state() == whole
