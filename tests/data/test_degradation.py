import dataclasses
import pickle
from collections import Counter

import cv2
import numpy as np
import pytest

from configs import degradations
from configs.tiny_rm import get_config
from diffbir_jax.data.degradation import FirstOrder, SecondOrder, make_degradation
from diffbir_jax.data.example import DataError
from diffbir_jax.data.steps import Blur, Downscale, GaussianNoise, Jpeg
from scripts.make_demo import DEGRADATION

COMPOSED = [
    ("blur", {"sigma": 1.5, "kinds": ("iso",), "probabilities": (1.0,), "size": None}),
    ("maybe", {"probability": 0.5, "steps": [("sinc", {})]}),
    ("reduced", {"factor": 2.0, "steps": [("resize", {"scale": [0.5, 1], "of_target": True})]}),
    ("shuffle", {"steps": [("noise", {"sigma": 10}), ("poisson", {}), ("sensor", {}), ("blur", {})]}),
    ("one_of", {"probabilities": [0.5, 0.5], "steps": [("jpeg", {"quality": 50}), ("chain", {"steps": []})]}),
    ("downscale", {"factor": [1, 2]}),
]
CONFIGS = [
    {"kind": "first_order"},
    {"kind": "second_order"},
    {"kind": "denoise"},
    {"kind": "compose", "steps": COMPOSED},
]
# Does next to nothing; tests turn on one step each.
NONE = FirstOrder(Blur(1), Downscale(1.0), GaussianNoise(0.0), Jpeg(100))
EACH_KIND = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["kind"])


@pytest.fixture(scope="module")
def photo():
    """Odd sides, grey: JPEG halves the resolution of colours at any quality."""
    blocks = np.random.default_rng(0).integers(30, 220, (7, 9, 1))
    return np.kron(blocks, np.ones((15, 15, 3))).astype(np.uint8)[:97, :131]


def rng(seed=0):
    return np.random.default_rng(seed)


@EACH_KIND
def test_pairs_have_the_shape_and_range_of_the_target(photo, config):
    degradation = make_degradation(config)
    for image in (photo, photo[:16, :9], photo.astype(np.float32) / 255):
        for seed in range(10):
            pair = degradation(image, rng(seed))
            for out in (pair.hq, pair.lq):
                assert (out.shape, out.dtype) == (image.shape, np.float32)
                assert out.min() >= 0 and out.max() <= 1


@EACH_KIND
def test_a_pair_depends_on_its_generator_only(photo, config):
    degradation, copy = make_degradation(config), pickle.loads(pickle.dumps(make_degradation(config)))
    first = degradation(photo, rng(1))
    other = degradation(photo, rng(2))
    again = copy(photo, rng(1))
    np.testing.assert_array_equal(first.lq, again.lq)
    assert first.record == again.record
    assert (first.lq != other.lq).any()
    assert set(first.record.values()) != set(other.record.values())


@EACH_KIND
def test_the_given_image_is_not_written_to(photo, config):
    image = photo.astype(np.float32) / 255
    image.flags.writeable = False
    for seed in range(10):
        make_degradation(config)(image, rng(seed))


@pytest.mark.parametrize(
    "changes",
    [
        {"blur": Blur(None, sigma=2.0)},
        {"noise": GaussianNoise(15.0)},
        {"jpeg": Jpeg(10)},
        {"downscale": Downscale(4.0)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_step_shows(photo, changes):
    def error(degradation):
        pair = degradation(photo, rng())
        return 255 * np.abs(pair.lq - pair.hq).mean()

    assert error(NONE) < 2 < error(dataclasses.replace(NONE, **changes))


def test_a_small_result_has_divided_sides(photo):
    degradation = dataclasses.replace(NONE, downscale=Downscale(4.0), enlarge=False)
    assert degradation(photo, rng()).lq.shape == (24, 32, 3)
    degradation = dataclasses.replace(NONE, downscale=Downscale(400.0), enlarge=False)
    assert degradation(photo, rng()).lq.shape == (1, 1, 3)


def test_first_order_draws_from_its_ranges(photo):
    records = [FirstOrder()(photo[:32, :32], generator).record for generator in rng().spawn(600)]
    limits = {
        "blur.sigma_x": (0.1, 12),
        "downscale.factor": (1, 12),
        "noise.sigma": (0, 15),
        "jpeg.quality": (30, 100),
    }
    for key, (low, high) in limits.items():
        values = np.array([record[key] for record in records])
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high >= values.max() > high - 0.05 * (high - low)
        assert values.mean() == pytest.approx((low + high) / 2, rel=0.1)
    kinds = Counter(record["blur.kind"] for record in records)
    assert kinds["iso"] / 600 == pytest.approx(0.5, abs=0.1)


def test_second_order_takes_every_way_with_its_share(photo):
    count = 500
    records = [SecondOrder()(photo[:48, :48], rng(seed)).record for seed in range(count)]

    def share(condition):
        return sum(map(condition, records)) / count

    assert share(lambda r: r["end.chosen"] == "jpeg_last") == pytest.approx(0.5, abs=0.08)
    assert share(lambda r: r["resize.scale"] > 1) == pytest.approx(0.2, abs=0.07)
    assert share(lambda r: r["resize.scale"] == 1) == pytest.approx(0.1, abs=0.05)
    assert share(lambda r: r["resize2.scale"] == 1) == pytest.approx(0.3, abs=0.07)
    assert share(lambda r: "noise.sigma" in r) == pytest.approx(0.5, abs=0.08)
    assert share(lambda r: "poisson2.scale" in r) == pytest.approx(0.5, abs=0.08)
    assert share(lambda r: "blur2.kind" in r) == pytest.approx(0.8, abs=0.07)
    assert share(lambda r: "sinc.size" in r) == pytest.approx(0.8, abs=0.07)
    assert all(("noise.sigma" in r) != ("poisson.scale" in r) for r in records)
    for record in records:
        keys = list(record)
        codec_last = keys.index("jpeg2.quality") > keys.index("last_resize.mode")
        assert codec_last == (record["end.chosen"] == "jpeg_last")


def test_every_sample_of_a_batch_has_its_own_scale(photo):
    generators = rng().spawn(16)
    pairs = [SecondOrder(stage2_scale=(2.0, 6.0))(photo, generator) for generator in generators]
    assert len({pair.record["reduced.factor"] for pair in pairs}) == 16


def test_second_order_sharpens_its_target_and_rounds_its_input(photo):
    pair, blunt = (SecondOrder(sharpen=sharp)(photo, rng()) for sharp in (True, False))
    assert np.abs(np.diff(pair.hq, axis=0)).mean() > 1.01 * np.abs(np.diff(blunt.hq, axis=0)).mean()
    np.testing.assert_array_equal(blunt.hq, photo / np.float32(255))
    np.testing.assert_allclose(255 * pair.lq, np.rint(255 * pair.lq), atol=1e-4)


def test_denoising_shuffles_and_keeps_the_resolution(photo):
    quiet = {f"{name}_probability": 0.0 for name in ("poisson", "sensor", "jpeg")}
    degradation = make_degradation({"kind": "denoise", "noise": {"sigma": 5.0}} | quiet)
    pair = degradation(photo, rng())
    assert 255 * (pair.lq - pair.hq).std() == pytest.approx(5, rel=0.05)
    orders = {make_degradation(CONFIGS[2])(photo[:8, :8], rng(s)).record["shuffle.order"] for s in range(200)}
    assert len(orders) == 24


def test_composed_steps_have_names_of_their_own(photo):
    record = make_degradation(CONFIGS[3])(photo, rng()).record
    assert record["blur.sigma_x"] == 1.5 and "blur2.sigma_x" in record
    assert 0.5 <= record["resize.scale"] <= 1 and record["noise.sigma"] == 10


def test_composed_steps_run_in_their_order(photo):
    """Noise before a strong blur is gone, after it it stays."""
    blur, noise = ("blur", {"sigma": 6.0}), ("noise", {"sigma": 30.0})
    early, late = (
        make_degradation({"kind": "compose", "steps": steps})(np.full_like(photo, 128), rng()).lq
        for steps in ([noise, blur], [blur, noise])
    )
    assert 255 * early.std() < 5 < 25 < 255 * late.std()


@pytest.mark.parametrize(
    "config", [degradations.first_order(), degradations.second_order(), degradations.denoise()]
)
def test_public_configs_are_the_defaults(config):
    plain = config.to_dict()
    defaults = make_degradation({"kind": plain["kind"]})
    assert make_degradation(plain) == defaults
    assert dataclasses.asdict(defaults) == {key: value for key, value in plain.items() if key != "kind"}


def test_the_demo_is_degraded_as_the_tiny_preset_trains():
    assert make_degradation(get_config().data.degradation.to_dict()) == DEGRADATION


def test_noise_of_the_default_steps_is_seen_in_luma():
    """JPEG at quality 100 keeps the luma of the noise."""
    flat = np.full((64, 64, 3), 128, np.uint8)
    weights = np.array([0.299, 0.587, 0.114])
    luma = 255 * dataclasses.replace(NONE, noise=GaussianNoise(12.0))(flat, rng()).lq @ weights
    assert luma.std() == pytest.approx(12 * np.linalg.norm(weights), rel=0.05)


@pytest.mark.parametrize(
    "config, message",
    [
        ({}, r"kind is None; give one of first_order, second_order, denoise, compose"),
        ({"kind": "third_order"}, r"kind is 'third_order'"),
        ({"kind": "first_order", "blurr": {}}, r"first_order has no 'blurr'; give any of .*blur, downscale"),
        ({"kind": "first_order", "blur": {"sigmas": 1}}, r"first_order\.blur has no 'sigmas'"),
        ({"kind": "first_order", "blur": {"size": 20}}, r"first_order\.blur: Blur\.size is 20"),
        ({"kind": "first_order", "blur": 3.0}, r"first_order\.blur is 3\.0; give \{field: value\}"),
        ({"kind": "first_order", "jpeg": {"quality": [95, 30]}}, r"jpeg: Jpeg\.quality is \(95, 30\)"),
        ({"kind": "second_order", "blur2": {"probabilities": [1, 0, 0, 0, 0, 1]}}, r"blur2: .*sum to 1"),
        ({"kind": "second_order", "sinc_probability": 2}, r"sinc_probability is 2; give a probability"),
        ({"kind": "second_order", "stage2_scale": (4, 2)}, r"factor is \(4, 2\)"),
        ({"kind": "second_order", "resize": {"scale": 0.5}}, r"resize: Resize\.scale is 0\.5.*<= 1 <="),
        ({"kind": "second_order", "resize": {"modes": ["nearest"]}}, r"Resize\.modes is \('nearest',\)"),
        ({"kind": "denoise", "sensor": {"shot": 0}}, r"sensor: SensorNoise\.shot is 0"),
        ({"kind": "denoise", "jpeg_probability": True}, r"jpeg_probability is True"),
        ({"kind": "first_order", "enlarge": "false"}, r"enlarge is 'false'; give True or False"),
        ({"kind": "compose"}, r"compose lacks a field.*steps"),
        ({"kind": "compose", "steps": "blur"}, r"compose\.steps is 'blur'; give a list"),
        ({"kind": "compose", "steps": [("blur",)]}, r"compose\.steps\[0\] is \('blur',\)"),
        ({"kind": "compose", "steps": [("fog", {})]}, r"compose\.steps\[0\] has no 'fog'; give any of blur"),
        (
            {"kind": "compose", "steps": [("maybe", {"steps": [("jpeg", {"quality": 0})]})]},
            r"compose\.steps\[0\] maybe\.steps\[0\] jpeg: Jpeg\.quality is 0",
        ),
        (
            {"kind": "compose", "steps": [("one_of", {"steps": [("jpeg", {})], "probabilities": [0.5]})]},
            r"OneOf\.probabilities is \(0\.5,\); give 1 probabilities that sum to 1, of jpeg",
        ),
    ],
)
def test_a_config_that_cannot_be_used_says_why(config, message):
    with pytest.raises(DataError, match=message):
        make_degradation(config)


def test_results_do_not_depend_on_threads():
    photo = rng().integers(0, 256, (256, 256, 3), np.uint8)
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            results.append([make_degradation(c)(photo, rng(s)).lq for c in CONFIGS for s in range(4)])
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*results)
