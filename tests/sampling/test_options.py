"""What sampler, start point and tiles may be; ranges of the others: tests/restoration/test_restorer.py."""

import pytest

from diffbir_jax.sampling.options import Options
from diffbir_jax.sampling.samplers import SAMPLERS


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sampler": "dpm"}, "sampler is 'dpm'; use one of .*'spaced'"),
        ({"eta": 0.5}, "eta is 0.5, but sampler 'spaced' has none; leave it out"),
        ({"sampler": "edm_heun", "s_churn": -1.0}, r"s_churn is -1.0; allowed are numbers in \[0, inf\]"),
        ({"spacing": "linear"}, "spacing is 'linear'; use one of .*'karras'"),
        ({"guidance_start": 1001}, "guidance_start is 1001; allowed are 0 to 1000"),
        ({"guidance_stop": -1}, "guidance_stop is -1"),
        (
            {"guidance_start": 100, "guidance_stop": 500},
            "guidance_stop is 500 and guidance_start 100: there is no",
        ),
        ({"guidance_repeats": 101}, "guidance_repeats is 101; allowed are 1 to 100"),
        ({"start_point": "image"}, r"start_point is 'image'; use one of \('noise', 'cond', 'input'\)"),
        ({"tile": 500}, "tile is 500; allowed are multiples of 64"),
        ({"tile": 0}, "tile is 0; allowed are multiples of 64"),
        ({"tile": 512, "tile_stride": 100}, "tile_stride is 100; allowed are multiples of 8 .* tile's 512"),
        ({"tile": 512, "tile_stride": 520}, "tile_stride is 520"),
        ({"tile": 512, "tile_stride": 0}, "tile_stride is 0"),
        ({"tile_stride": 256}, "tile_stride is 256 without tiles; give `tile` as well"),
    ],
)
def test_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_a_choice(name: str) -> None:
    assert Options(sampler=name).sampler == name


def test_stride_is_half_a_tile_by_default() -> None:
    assert Options().tiling is None
    assert Options(tile=512).tiling == (512, 256)
    assert Options(tile=512, tile_stride=384).tiling == (512, 384)
