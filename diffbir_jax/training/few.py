"""Settings of fine-tuning that depend on how many photos there are."""

from diffbir_jax.console.section import Section

# Steps by default: of many photos, and of fewer than four, which a network soon knows by heart.
STEPS, FIRST, EACH = 500, 100, 100
# Crops that are encoded for each photo, and the most of all.
CROPS, MOST = 128, 1024
# Validations of a run, and steps between checkpoints at most.
VALIDATIONS, CHECKPOINT = 5, 100


def adapt(config: Section, photos: int, steps: int | None = None) -> None:
    """Set how long to train, how many crops to encode and what to hold out, in place.

    One photo serves both to train and to validate. Of up to 16 photos one is held out, of more every 16th.

    Args:
        config: of configs/finetune.py.
        photos: how many there are, at least 1.
        steps: optimizer steps; by default 500, and fewer for fewer than four photos.
    """
    train, data = config.train, config.data
    train.steps = steps or min(STEPS, FIRST + EACH * photos)
    train.warmup = min(train.warmup, train.steps // 10)
    train.eval_every = max(1, train.steps // VALIDATIONS)
    train.checkpoint_every = min(CHECKPOINT, train.eval_every)
    train.log_every = min(train.log_every, train.checkpoint_every)
    # A pool that no step uses up would only take time.
    if "pool" in data:
        data.pool = max(data.batch_size, min(MOST, CROPS * photos, train.steps * data.batch_size))
    if photos == 1:
        data.validation = data.source
