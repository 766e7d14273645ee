"""--task faces with networks: which restore crops and which backgrounds, planned and repeated bit for bit."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.batch import faces as batch_faces
from diffbir_jax.batch import run
from diffbir_jax.faces import memory
from diffbir_jax.faces.networks import differing
from diffbir_jax.faces.restoring import FaceRestorer, Way
from diffbir_jax.models.presets import VARIANTS, get_preset
from diffbir_jax.restoration import planner
from diffbir_jax.restoration.candidates import default_plan
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.sampling.options import Options
from diffbir_jax.weights.safetensors import save_weights
from tests.command import call, complaint
from tests.faces.known import SMALL, known_faces, small_crops
from tests.faces.pictures import wall
from tests.micro import MICRO, micro, random_params

FLAGS = ("--version", "micro", "--task", "faces", "--upscale", "1", "--steps", "1")


@pytest.fixture
def photo(inputs: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A photo with a face, and a version whose stage 1 for faces is another one; weights in w/."""
    small_crops(monkeypatch)
    known_faces(monkeypatch)
    monkeypatch.setattr(batch_faces, "model_file", lambda: None)
    monkeypatch.setitem(VARIANTS, ("micro", "face"), dataclasses.replace(MICRO, files=FACES))
    shutil.copytree(pretrained / "micro", "w")
    save_weights(Path("w/rm_face.safetensors"), random_params(MICRO, 1, ["rm"])["rm"], {})
    monkeypatch.setattr(run, "planned", unplanned)
    Image.fromarray(wall(*SMALL)).save(inputs / "a.png")
    return inputs / "a.png"


FACES = MICRO.files._replace(rm="rm_face")


def unplanned(both: FaceRestorer, *_: object) -> Plan:
    """In place of plans by memory, for which programs are compiled."""
    both.plan = default_plan(MICRO, Options(), both.faces.programs.devices)
    return both.plan


def restore(*flags: object, output: str = "out") -> object:
    return call("--input", "in", "-o", output, "--weights", "w", *FLAGS, *flags)


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("flags", [("--stage1-only",), pytest.param((), marks=pytest.mark.slow)])
def test_faces_and_backgrounds_have_their_own_networks(
    photo: Path, flags: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    """With a plan each, which the sidecar repeats; without a background to restore there are only those for faces."""
    assert restore("--save-faces", *flags) == 0
    assert "no network for faces" not in capsys.readouterr().err
    record = json.loads(Path("out/a.json").read_text())
    both = () if flags else ("vae", "unet", "control")
    files = {name: entry["file"].removesuffix(".safetensors") for name, entry in record["weights"].items()}
    assert files == {name: name for name in ("rm", *both)} | {"face_rm": "rm_face"}
    assert record["crops"]["sample"] and record["plan"]["sample"]
    assert call("--from-sidecar", "out/a.json", "-o", "again") == 0
    for name in ("a.png", "a_face_01_after.png"):
        assert Path("again", name).read_bytes() == Path("out", name).read_bytes()
    assert restore("--background", "resize", "--save-faces", *flags, output="alone") == 0
    weights = json.loads(Path("alone/a.json").read_text())["weights"]
    assert weights["rm"]["file"] == "rm_face.safetensors" and "face_rm" not in weights
    after = "a_face_01_after.png"
    assert (pixels(f"alone/{after}") == pixels(f"out/{after}")).all()
    ground = wall(*SMALL)
    changed = (pixels("alone/a.png") != ground).any(axis=2)
    assert changed[22:40, 22:40].mean() > 0.9 and not changed[:2].any()


def test_missing_weights_for_faces_are_one_line(photo: Path, capsys) -> None:
    Path("w/rm_face.safetensors").unlink()
    assert restore() == 1
    # The first line says what will be done.
    assert "w lacks rm_face.safetensors; give a folder (--weights)" in complaint(capsys)


def test_published_versions_share_what_they_can() -> None:
    """One restorer where nothing differs."""
    for version, names in (("v1", ["rm", "control"]), ("v2", ["rm"]), ("v2.1", ["rm"]), ("one-step", [])):
        assert differing(get_preset(version, "face"), get_preset(version)) == names, version


def test_plans_leave_room_for_pasting(monkeypatch) -> None:
    """Counted by hand for one photo of 100x200 that becomes 400x800: every pixel has three bytes."""
    both = FaceRestorer(micro(), way=Way(zoom=4))
    photos = [((100, 200), (400, 800))]
    held = 100 * 200 + 400 * 800
    crops = 64 * (128**2 + 512**2)
    strip, detector = 100 * 512 * 800, 300 * 2**20 * (200 / 2560) ** 2
    wanted = Wanted(Options(), keep=False)
    by_hand = 3 * (2 * held + crops) + strip + int(detector) + 4 * planner.PROGRAM
    assert abs(memory.beside(both, wanted, photos) - by_hand) <= 1
    asked: list[int] = []
    monkeypatch.setattr(memory, "make_plan", lambda *_, beside, **__: asked.append(beside))
    memory.crops_plan(both, wanted, photos)
    memory.photos_plan(both, wanted, photos)
    assert asked == [memory.beside(both, wanted, photos)] * 2
    more = memory.beside(both, wanted._replace(count=3, keep=True), photos)
    assert more - asked[0] == 3 * 5 * (held + 64 * 512**2)
