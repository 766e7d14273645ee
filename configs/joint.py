"""Both stages of DiffBIR in one step: the restoration module and IRControlNet, started from trained weights.

Everything else is that of configs/bsr.py. The full size has not been run.

python train.py --config configs/joint.py --workdir work/joint
python train.py --config configs/joint.py:tiny --workdir work/joint_tiny    # shipped networks, work/photos/train
"""

from ml_collections import ConfigDict

from configs import bsr, tiny_control


def get_config(variant: str = "") -> ConfigDict:
    """Return the configuration; `variant` is "" or "tiny"."""
    config = bsr.get_config(variant)
    config.objective = "joint"
    # Of the diffusion loss, which is about 100 times the squared error of stage 1; through, stop or alternate.
    config.joint = ConfigDict({"weight": 0.01, "gradient": "through"})
    if variant:
        # The photos and the degradation that the shipped networks know.
        own = tiny_control.get_config()
        config.data.degradation = own.data.degradation
        config.diffusion.update(focus=own.diffusion.focus, noise_aug=0)
    return config
