"""The names that flags of networks and sampling take.

A command line is read before JAX is imported, which takes seconds. So these names are repeated here; a test compares
them with the tables that they come from.
"""

VERSIONS = [
    *(
        "hypir",
        "one-step",
        "osediff",
        "osediff-face",
        "pisa-sr",
        "realesrgan",
        "s3diff",
        "tiny",
        "v1",
        "v2",
        "v2.1",
    ),
]
# The version that --auto knows settings of.
AUTO_VERSION = "one-step"
STAGE1_VERSIONS = ["realesrgan"]
TASKS = ["sr", "face", "denoise"]
# The command has one more task, which uses the networks of two tasks.
FACES = "faces"
ALL_TASKS = [*TASKS, FACES]
PRECISIONS = ["fp32", "bf16", "fp16"]
ATTENTION = ["auto", "chunked", "queries", "xla", "cudnn", "flash"]
SPACINGS = ["uniform", "trailing", "karras", "exponential"]
START_POINTS = ["noise", "cond", "input"]
LOSSES = ["mse", "w_mse", "paper"]
SPACES = ["rgb", "latent"]
METHODS = ["project", "gradient"]
# Versions that sample in steps, which --operator corrects.
OPERATOR_VERSIONS = ["tiny", "v1", "v2", "v2.1"]
# The word of --stage1 that leaves stage 1 out.
NO_STAGE1 = "none"

_CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")
_ANCESTRAL = ("eta", "s_noise")
# Samplers, with the settings of their own.
SAMPLERS: dict[str, tuple[str, ...]] = {
    "spaced": (),
    "ddim": ("eta",),
    "dpm++_m2": (),
    "edm_euler": _CHURN,
    "edm_euler_a": _ANCESTRAL,
    "edm_heun": _CHURN,
    "edm_dpm_2": _CHURN,
    "edm_dpm_2_a": _ANCESTRAL,
    "edm_lms": ("order",),
    "edm_dpm++_2s_a": _ANCESTRAL,
    "edm_dpm++_sde": _ANCESTRAL,
    "edm_dpm++_2m": (),
    "edm_dpm++_2m_sde": _ANCESTRAL,
    "edm_dpm++_3m_sde": _ANCESTRAL,
}


def with_stage2() -> list[str]:
    """Return the versions that have both stages."""
    return [name for name in VERSIONS if name not in STAGE1_VERSIONS]
