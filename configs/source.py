"""What the configurations that read a data source share."""

from ml_collections import ConfigDict


def data_config(
    path: str,
    degradation: ConfigDict,
    *,
    crop: str,
    batch_size: int,
    captions: dict[str, float] | None = None,
) -> ConfigDict:
    """Return `config.data` at full size.

    Args:
        path: folder of the prepared shards (docs/data.md).
        degradation: see configs/degradations.py.
        crop: its kind; crops have 512 pixels.
        batch_size: images in a batch of all hosts together.
        captions: shares of prompts, None for batches without.
    """
    return ConfigDict(
        {
            "source": {"kind": "array_record", "path": path},
            "validation": None,  # or another source instead of every N-th example
            "held_out_every": 1000,
            "crop": {"kind": crop, "size": 512},
            "flip": False,
            "rotate": False,
            "degradation": degradation,
            "captions": captions,
            "dtype": "uint8",
            "batch_size": batch_size,
            "validation_size": 32,
            "workers": 16,
            "threads": 2,
            "ahead": 2,
            "keep_decoded": 0,  # MiB of decoded photos that each process keeps: for folders of a few
            "max_broken": 0.01,
        }
    )


def shrink(data: ConfigDict) -> None:
    """Make `config.data` fit a laptop, in place: a folder of photos, small crops, no captions, no processes."""
    data.source = ConfigDict({"kind": "folder", "path": "work/photos/train"})
    data.crop = ConfigDict({"kind": "scaled", "size": 112, "scale": (0.2, 0.8)})
    data.captions = None
    data.update(held_out_every=16, batch_size=8, validation_size=64, workers=0, keep_decoded=1024)


def check_variant(variant: str) -> bool:
    """Return whether `variant`, what follows the colon of --config, asks for the tiny one.

    Raises:
        ValueError: there is no such variant.
    """
    if variant not in ("", "tiny"):
        raise ValueError(
            f"no variant {variant!r}; give none, or NAME:tiny for networks that train on a laptop"
        )
    return variant == "tiny"
