"""The command `diffbir`: its programs, their help, one meaning per flag, and what it says to plausible mistakes."""

import argparse
import os
import subprocess
import sys
import threading
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from diffbir_jax.cli.main import PROGRAMS, main
from diffbir_jax.console import configurations, extras
from diffbir_jax.console.parser import options_of
from diffbir_jax.console.threads import READER
from diffbir_jax.evaluation.suites.flags import SUITES
from diffbir_jax.evaluation.suites.spec import suite_names
from diffbir_jax.models.attention import Backend
from diffbir_jax.models.presets import PRESETS, TASKS, with_stage2
from diffbir_jax.restoration import names
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.sampling.guidance import Loss, Space
from diffbir_jax.sampling.options import Method, StartPoint
from diffbir_jax.sampling.samplers import SAMPLERS, settings_of
from diffbir_jax.sampling.timesteps import Spacing
from diffbir_jax.weights.loading import NO_STAGE1, PRECISIONS

ROOT = Path(__file__).parents[2]


def call(capsys: pytest.CaptureFixture, *command: str) -> tuple[int, str, str]:
    """Exit code, output and error stream of `diffbir`."""
    with pytest.raises(SystemExit) as end:
        main(command)
    streams = capsys.readouterr()
    return int(end.value.code or 0), streams.out, streams.err


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a photo, and folders with two and with no photos."""
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "-cat.png", "photos/a.png", "photos/b.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(name)
    Path("empty").mkdir()
    return tmp_path


MISTAKES = [
    ("resotre photo.png -o out", "no command 'resotre'; did you mean diffbir restore?"),
    ("photo.png -o out", "to restore photos: diffbir restore photo.png -o DIR"),
    ("--input photo.png", "to restore photos: diffbir restore --input ..."),
    ("phoot.png -o out", "phoot.png: no such file; to restore photos: diffbir restore PHOTO -o DIR"),
    ("Restore photo.png -o out", "no command 'Restore'; did you mean diffbir restore?"),
    ("restore phoot.png -o out", "phoot.png: no such file or folder; give an image or a folder of images"),
    ("restore -o out", "nothing to restore: name a photo or a folder"),
    ("restore photo.png", "--output is missing: give the folder for the results, -o DIR"),
    ("restore -cat.png -o out", "no option -cat.png; for the file of this name write ./-cat.png"),
    ("restore -- -cat.png -o out", "give the folder for the results, -o DIR; options stand before --"),
    ("restore photo.png -o out --inptu x", "no option --inptu; did you mean --input?"),
    ("restore photo.png -o out --workdir w", "no option --workdir; it belongs to diffbir train"),
    ("restore photo.png -o out --version V2", "'V2' given; did you mean v2?"),
    ("restore photo.png -o out --gt photos", "no option --gt; it belongs to diffbir evaluate"),
    ("restore photo.png -o out --upscale 4x", "'4x' given, allowed are finite numbers above 0; give 4, without a unit"),
    ("restore photo.png -o out --detail 50%", "'50%' given, allowed are numbers; give 0.5, without a unit"),
    ("restore photo.png -o out --version hypir --stage1-only", "--version hypir has no stage 1; leave"),
    ("restore photo.png -o out --version=--", "argument --version: expected a value in place of --"),
    ("restore photo.png -o out --operator down4", "version one-step does not sample in several steps, which"),
    ("restore photo.png -o out --operator dwon4", "operator word 'dwon4' is unknown or given twice; allowed are downN"),
    ("restore photo.png -o out --operator gray --version tiny --upscale 2", "is 2, but --operator gray needs 1"),
    ("restore photo.png -o out --operator mask:no.png --version tiny", "no.png: no such file"),
    ("restore photo.png -o out --operator down4 --version tiny --stage1-only", "does not go with --stage1-only"),
    ("restore photo.png -o out --operator down4 --version tiny --detail 0", "--detail is 0, which leaves stage 2 out"),
    ("restore photo.png -o out --version tiny --operator-method gradient", "without --operator; give both or neither"),
    ("restore photo.png -o out --version v3", "'v3' given; allowed are"),
    ("train --config bsr:tinny --workdir w", "--config bsr:tinny: no variant 'tinny'; give none, or NAME:tiny"),
    ("train --config bssr --workdir w", "--config bssr: no such configuration; did you mean --config bsr?"),
    ("train --config configs/bsr.py --workdir w", "no such file; did you mean --config bsr?"),
    ("train --config bsr:tiny", "--workdir is missing: give the folder for checkpoints and weights, --workdir DIR"),
    ("train --config bsr:tiny --workdir w", "work/photos/train (config.data.source.path): no such folder; give a "
     "folder of photos, --photos DIR"),
    ("train --config tiny_rm --workdir w", "no such folder; give a folder of photos, --photos DIR"),
    ("train --config bsr:tiny --workdir w --photos empty", "empty: holds no image file; put files ending in .png"),
    ("train --config bsr:tiny --workdir w --photos photos --steps 9", "did you mean --config.train.steps=VALUE or"),
    ("train --config bsr:tiny --workdir w --config.train.stepz=9", "no such setting in the config: 'stepz'"),
    ("train --config bsr:tiny --workdir w --config.modle.control=9", "no such setting in the config: 'modle' Did you"),
    ("sweep --config bsr:tiny --workdir w --grid trian.lr=1,2", "no such setting in the config: 'trian' Did you mean"),
    ("sweep --config bsr:tiny --workdir w --photos photos --grid train.steps=2,0", "steps is 0, must be at least 1"),
    ("train --config bsr:tiny --workdir w --photos photos --config.train.steps=0", "steps is 0, must be at least 1"),
    ("train --config tiny_rm:tiny --workdir w", "tiny_rm has no variants; give --config tiny_rm"),
    ("sweep --config bsr:tiny --workdir w", "--grid is missing"),
    ("evaluate --pred out --gt photos -o scores", "out: no such folder; give one as --pred DIR"),
    ("evaluate --pred photos -o scores --compare x", "no option --compare; to compare runs give --runs RUN RUN"),
    ("evaluate photos --gt photos -o scores", "'photos' is not expected here; write --pred photos"),
    ("finetune photos", "'photos' is not expected here; write --photos photos"),
    ("evaluate --pred photos --gt photos -o scores --metrics pnsr", "no such metric: pnsr; did you mean psnr?"),
    ("evaluate --pred photos", "--output is missing: give the folder for the result, -o DIR"),
    ("reproduce fases -o out", "'fases' given; did you mean faces?"),
    ("reproduce faces", "--output is missing: give the folder for the results, -o DIR"),
    ("weights fetch", "Name files as listed, or give --version v2"),
    ("data prepaer", "no command 'data prepaer'; did you mean diffbir data prepare?"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "line"), MISTAKES)
def test_mistakes_get_one_line_that_says_what_to_type(command, line, photos, capsys):
    code, out, err = call(capsys, *command.split())
    assert (code, out) == (2, "")
    assert line in err and err.count("\n") == 1 and err.startswith("diffbir")
    assert {path.name for path in photos.iterdir()} == {"photo.png", "-cat.png", "photos", "empty"}


WITHOUT_JAX = """
import sys
from diffbir_jax.cli.main import PROGRAMS, main
for name in PROGRAMS:
    # The help of evaluate names the metrics, which need JAX.
    for flag, code in (("--help", 0), ("--hlep", 2))[name == "evaluate":]:
        try:
            main([*name.split(), flag])
        except SystemExit as end:
            assert end.code == code, (name, flag)
assert "jax" not in sys.modules
"""


def test_mistakes_are_told_before_jax_is_imported():
    """In a process of its own: a mistake in each program, and its help."""
    command, environment = [sys.executable, "-c", WITHOUT_JAX], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_of_every_program(name, capsys):
    code, out, _ = call(capsys, *name.split(), "--help")
    assert code == 0 and out.startswith(f"usage: diffbir {name}")
    assert "%(" not in out and "<function" not in out and "%%" not in out


def test_help_of_the_command(capsys):
    for command in ((), ("--help",), ("help",)):
        code, out, _ = call(capsys, *command)
        assert code == 0 and all(f"\n  {name} " in out for name in PROGRAMS)
    for command in ("help weights", "--help data prepare"):
        assert call(capsys, *command.split())[1].startswith(f"usage: diffbir {command.partition(' ')[2]}")
    assert (
        "data preview" in call(capsys, "data")[1]
        and "restore " not in call(capsys, "data", "--help")[1].split("\n\n")[2]
    )
    for word in ("--version", "-V", "version"):
        assert call(capsys, word)[1].startswith("diffbir-jax ")


def test_help_of_verbs(capsys):
    for verb in ("list", "fetch", "path"):
        assert call(capsys, "weights", verb, "--help")[0] == 0


def test_restore_shows_a_photographer_ten_options_and_all_on_request(capsys):
    short, whole = (call(capsys, "restore", flag)[1] for flag in ("--help", "--help-all"))
    basic = [line.split()[0].rstrip(",") for line in short.splitlines() if line.startswith("  -")]
    assert 8 <= len(basic) <= 12 and {"-o", "--upscale", "--detail", "--compare", "--version"} <= set(basic)
    options = set(options_of(PROGRAMS["restore"].parser()))
    assert all(option in whole for option in options) and len(options) > 50


def test_train_lists_the_settings_of_its_config(capsys):
    out = call(capsys, "train", "--help", "--config", "bsr:tiny", "--photos", "mine")[1]
    assert "--config.train.steps=200\n" in out and "--config.data.source.path=mine\n" in out
    out = call(capsys, "train", "--help")[1]
    assert all(f"\n  {name} " in out for name in configurations.names())


def test_a_flag_means_the_same_in_every_program():
    """Whether it takes a value, and how many."""
    kinds: dict[str, dict[str, object]] = defaultdict(dict)
    for name, program in PROGRAMS.items():
        for action in program.parser()._actions:
            for option in action.option_strings:
                kinds[option][name] = (action.nargs == 0, isinstance(action.const, bool))
    # The help with the settings of a configuration is no action that ends the process.
    del kinds["-h"], kinds["--help"]
    several = {option: programs for option, programs in kinds.items() if len(set(programs.values())) > 1}
    assert not several


def test_names_are_those_of_the_tables_that_they_come_from():
    """The command line has them without importing JAX."""
    assert sorted(PRESETS) == names.VERSIONS and with_stage2() == [
        n for n in PRESETS if n in names.with_stage2()
    ]
    assert set(with_stage2()) == set(names.with_stage2())
    assert list(TASKS) == names.TASKS and list(PRECISIONS) == names.PRECISIONS
    assert list(get_args(Backend)) == names.ATTENTION
    kinds = (Spacing, StartPoint, Loss, Space, Method)
    assert [list(kind.__args__) for kind in kinds] == [
        names.SPACINGS,
        names.START_POINTS,
        names.LOSSES,
        names.SPACES,
        names.METHODS,
    ]
    several = [name for name in with_stage2() if default_options(name).steps > 1]
    assert sorted(several) == names.OPERATOR_VERSIONS
    assert {name: set(settings_of(name)) for name in SAMPLERS} == {
        n: set(own) for n, own in names.SAMPLERS.items()
    }
    assert list(SAMPLERS) == list(names.SAMPLERS) and names.NO_STAGE1 == NO_STAGE1
    assert sorted(file.stem for file in SUITES.glob("*.toml")) == suite_names()


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_extras_are_those_of_the_package(extra):
    """A module of an extra is named like its distribution, but for the core's."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    if extra == "web":
        assert listed == ["diffbir-jax[serve]"] and extras.EXTRAS["web"] == extras.EXTRAS["serve"]
        return
    text = " ".join(listed).lower().replace("-", "_")
    shown = {"absl": "absl_py", "orbax.checkpoint": "orbax_checkpoint"}
    assert all(shown.get(name, name.lower()) in text for name in extras.EXTRAS[extra])


def test_a_missing_extra_is_one_line(photos, monkeypatch, capsys):
    monkeypatch.setattr(extras, "is_installed", lambda name: name not in ("grain", "tensorboardX"))
    code, _, err = call(capsys, "train", "--config", "bsr:tiny", "--workdir", "w", "--photos", "photos")
    assert (
        code == 2 and err == "diffbir train: grain, tensorboardX missing: pip install 'diffbir-jax[train]'\n"
    )


def test_several_photos_and_words_after_flags():
    parser = PROGRAMS["restore"].parser()
    args = parser.parse_args(["a.png", "-o", "out", "b.png", "--seed", "1", "c.png"])
    assert [str(path) for path in args.paths] == ["a.png", "b.png", "c.png"]
    assert isinstance(parser, argparse.ArgumentParser)


def test_a_config_of_ones_own_imports_the_shipped_ones(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from configs.bsr import get_config as shipped\n\n\ndef get_config():\n    return shipped('tiny')\n"
    )
    code = "from diffbir_jax.console import configurations as c; print(c.read('mine.py').train.steps)"
    environment = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "200", done.stderr


@pytest.mark.parametrize(("code", "busy", "left"), [(130, True, True), (130, False, False), (0, True, False)])
def test_an_interrupted_program_does_not_wait_for_a_thread_that_reads(
    monkeypatch: pytest.MonkeyPatch, code: int, busy: bool, left: bool
) -> None:
    """A thread that is in the middle of a huge image."""
    free, left_at = threading.Event(), []
    thread = threading.Thread(target=free.wait, args=(60,), name=READER if busy else "other", daemon=True)
    thread.start()
    monkeypatch.setattr("diffbir_jax.cli.main.start", lambda *_: sys.exit(code))
    monkeypatch.setattr(os, "_exit", left_at.append)
    with pytest.raises(SystemExit) as end:
        main(["weights", "list"])
    free.set()
    thread.join()
    assert end.value.code == code and left_at == [130] * left


def started(program: str, how: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """What a process does that runs a program of these words; the shell starts it as `how` says."""
    code = (
        "import os, sys; from diffbir_jax.cli.main import PROGRAMS, Program, start\n"
        f"def main(argv):\n    {program}\n"
        "PROGRAMS['it'] = Program('__main__', ''); start('it', [])"
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" {how}', sys.executable, code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize("closed", ["0<&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_streams_that_a_service_closed_cost_nothing(closed: str) -> None:
    """Files would get their numbers, and what libraries say would go into them."""
    program = "print(sys.stdin.read(), file=sys.stderr); return 7 if open(os.devnull).fileno() > 2 else 1"
    assert started(program, closed).returncode == 7


def test_a_current_folder_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", gone)
    with pytest.raises(
        SystemExit, match="^diffbir weights: the current folder is no longer there; change to"
    ):
        main(["weights", "list"])


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_devices_that_are_not_there_are_one_line(platform: str) -> None:
    done = started("import jax; jax.devices()", JAX_PLATFORMS=platform)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"diffbir it: JAX finds no device for JAX_PLATFORMS={platform} (Unable to")
    assert "Traceback" in started("import jax; jax.devices(); raise AssertionError").stderr
