"""The published ranges of degradations, to start one's own from: `config.data.degradation = second_order()`.

Data only: `diffbir_jax.data.degradation.make_degradation(config.to_dict())` makes one of it. What a field means
stands in the dataclasses there, and in docs/degradations.md.
"""

from ml_collections import ConfigDict

PI = 3.141592653589793
KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
MODES = ("area", "bilinear", "bicubic")


def first_order() -> ConfigDict:
    """Return the ranges of CodeFormer (Zhou et al., 2022): DiffBIR v1 and v2, and faces."""
    return ConfigDict(
        {
            "kind": "first_order",
            "sharpen": False,
            "blur": _blur(41, ("iso", "aniso"), (0.5, 0.5), (0.1, 12.0), sinc_probability=0.0),
            "downscale": {"factor": (1.0, 12.0), "modes": ("bilinear",)},
            "noise": {"sigma": (0.0, 15.0), "gray_probability": 0.0},
            "jpeg": {"quality": (30, 100)},
            "enlarge": True,
        }
    )


def second_order() -> ConfigDict:
    """Return the ranges of Real-ESRGAN (Wang et al., 2021): DiffBIR v2.1."""
    return ConfigDict(
        {
            "kind": "second_order",
            "sharpen": True,
            "blur": _blur((7, 21), KINDS, SHARES, (0.2, 3.0), sinc_probability=0.1),
            "resize": _resize((0.15, 1.5), (0.2, 0.7, 0.1), of_target=False),
            "gaussian_probability": 0.5,
            "noise": {"sigma": (1.0, 30.0), "gray_probability": 0.4},
            "poisson": {"scale": (0.05, 3.0), "gray_probability": 0.4},
            "jpeg": {"quality": (30, 95)},
            "stage2_scale": 4.0,
            "blur_probability2": 0.8,
            "blur2": _blur((7, 21), KINDS, SHARES, (0.2, 1.5), sinc_probability=0.1),
            "resize2": _resize((0.3, 1.2), (0.3, 0.4, 0.3), of_target=True),
            "gaussian_probability2": 0.5,
            "noise2": {"sigma": (1.0, 25.0), "gray_probability": 0.4},
            "poisson2": {"scale": (0.05, 2.5), "gray_probability": 0.4},
            "sinc_probability": 0.8,
            "sinc": {"size": (7, 21), "cutoff": (PI / 3, PI)},
            "jpeg2": {"quality": (30, 95)},
        }
    )


def denoise() -> ConfigDict:
    """Return the ranges of blind denoising, after SCUNet (Zhang et al., 2022) and Brooks et al. (2019)."""
    return ConfigDict(
        {
            "kind": "denoise",
            "sharpen": False,
            "noise_probability": 1.0,
            "noise": {"sigma": (2.0, 50.0), "gray_probability": 0.4},
            "poisson_probability": 0.5,
            "poisson": {"scale": (0.05, 3.0), "gray_probability": 0.4},
            "sensor_probability": 0.25,
            "sensor": {
                "shot": (1e-4, 0.012),
                "red_gain": (1.9, 2.4),
                "blue_gain": (1.5, 1.9),
                "mosaic_probability": 1.0,
            },
            "jpeg_probability": 0.75,
            "jpeg": {"quality": (30, 95)},
        }
    )


def _blur(
    size: int | tuple[int, int],
    kinds: tuple[str, ...],
    probabilities: tuple[float, ...],
    sigma: tuple[float, float],
    sinc_probability: float,
) -> dict:
    return {
        "size": size,
        "kinds": kinds,
        "probabilities": probabilities,
        "sigma": sigma,
        "theta": (-PI, PI),
        "beta_generalized": (0.5, 4.0),
        "beta_plateau": (1.0, 2.0),
        "sinc_probability": sinc_probability,
    }


def _resize(scale: tuple[float, float], probabilities: tuple[float, ...], of_target: bool) -> dict:
    return {"scale": scale, "probabilities": probabilities, "modes": MODES, "of_target": of_target}
