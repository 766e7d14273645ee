"""Settings that a configuration may leave out."""

import pytest
from ml_collections import ConfigDict

from diffbir_jax.training.config import OPTIONAL, optional
from diffbir_jax.training.settings import check_config
from tests.training.micro import micro_config


@pytest.mark.parametrize("path", OPTIONAL)
def test_what_is_missing_has_one_default(path: str) -> None:
    """Whatever the kind of its section; what is given, None included, counts."""
    name = path.rpartition(".")[2]
    for kind in (dict, ConfigDict):
        assert optional(kind({}), path) == OPTIONAL[path]
        assert optional(kind({name: "given"}), path) == "given"
        assert optional(kind({name: None}), path) is None


def test_other_settings_have_no_default() -> None:
    with pytest.raises(KeyError, match="train.stepz"):
        optional({}, "train.stepz")


def test_a_run_needs_no_setting_that_may_be_missing() -> None:
    config = micro_config("rm")
    for name in ("keep_best", "diverged_above", "profile", "peak_tflops", "wandb", "lr_steps"):
        del config.train[name]
    check_config(config)
    config.train.keep_best = "psnr"
    with pytest.raises(ValueError, match="config.train.keep_best is 'psnr'"):
        check_config(config)
