"""Test-wide JAX settings: four CPU devices, strict promotion, exact products, and a compilation cache.

Environment variables are set before jax is imported, so that processes started by a test inherit them.
"""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# LLVM's optimisations take half the time of compiling and change results by rounding at most. Off before the flags of
# the environment, so that XLA_FLAGS=--xla_backend_optimization_level=3 tests what users run.
QUICK, DEVICES = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    "--xla_force_host_platform_device_count=4",
)
os.environ["XLA_FLAGS"] = " ".join([QUICK, os.environ.get("XLA_FLAGS", ""), DEVICES])
# Compiling takes most of the suite's time: keep the executables between runs, the quick ones too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

import jax  # noqa: E402
import pytest  # noqa: E402

from diffbir_jax.console import meter  # noqa: E402
from diffbir_jax.models.presets import PRESETS  # noqa: E402
from diffbir_jax.restoration import compiled, names  # noqa: E402
from diffbir_jax.restoration.defaults import DEFAULTS  # noqa: E402
from diffbir_jax.sampling.options import Options  # noqa: E402
from diffbir_jax.weights import loading  # noqa: E402
from diffbir_jax.weights.safetensors import save_weights  # noqa: E402
from tests.micro import MICRO, MICRO_TEXT, random_params  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
LEFT_OUT = {
    "slow": "compiles for long, other tests holding most of it, or needs the fusions that users run",
    "tools": "compiles at length for a tool of benchmarks",
}
# The tests' programs are small, and those of one file more than a run has: what was let go of would be traced again.
compiled.KEPT = 96
# On a slow machine runs would say how far they are, in between what tests look for.
meter.LINE = 1e6


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of tests that `make test` leaves to other targets."""
    for name, about in LEFT_OUT.items():
        config.addinivalue_line("markers", f"{name}: {about}; make test-{name}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of `LEFT_OUT`, unless -m names them or the command line names a test."""
    if any("::" in given for given in config.args):
        return
    markers = [name for name in LEFT_OUT if name not in config.option.markexpr]
    left_out = [item for item in items if any(map(item.get_closest_marker, markers))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module", autouse=True)
def memory_of_a_file() -> Iterator[None]:
    """Release the programs of each file of tests: those of all files would take gigabytes."""
    yield
    compiled._COMPILED.clear()
    jax.clear_caches()


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Names of the functions compiled since the test began (or since it cleared the list)."""
    names = []
    # Room for a test's own programs: none of them is let go of on the way.
    compiled._COMPILED.clear()

    def listen(event: str, _: float, **details: object) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(str(details.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shipped weights that holds those of the presets `micro` and `micro_text`."""
    folder = tmp_path_factory.mktemp("pretrained")
    for preset in (MICRO, MICRO_TEXT):
        for name, params in random_params(preset).items():
            save_weights(folder / preset.name / f"{name}.safetensors", params, {})
    return folder


@pytest.fixture
def inputs(tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for inputs, with the small presets known to diffbir restore."""
    for preset in (MICRO, MICRO_TEXT):
        monkeypatch.setitem(PRESETS, preset.name, preset)
        monkeypatch.setitem(DEFAULTS, preset.name, Options(steps=2, start=0.5))
    monkeypatch.setattr(names, "VERSIONS", [*names.VERSIONS, MICRO.name, MICRO_TEXT.name])
    monkeypatch.setattr(loading, "PRETRAINED", pretrained)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"
