"""What a service accepts, holds and waits for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a service. They keep its memory and the wait of its clients within known sizes.

    Attributes:
        queue: jobs that may wait; more are refused at once.
        per_client: jobs of one client that may wait.
        rate: pictures per minute of one client, and as many estimates; None: no limit.
        upload_bytes: of a request.
        upload_seconds: for the arrival of a request's body.
        pixels: of an input.
        output_pixels: of all results of a picture together.
        samples: results of a picture.
        held_pixels: of all inputs that wait.
        patience: seconds that a job waits for others of its shape before the device takes it alone.
        timeout: seconds from acceptance to the result; later a job fails.
        expiry: seconds that a result is kept.
        kept_bytes: of all results; beyond, the oldest are dropped.
        kept_jobs: number of finished jobs that are remembered.
    """

    queue: int = 64
    per_client: int = 64
    rate: int | None = None
    upload_bytes: int = 64 * 2**20
    upload_seconds: float = 120.0
    pixels: int = 2**25
    output_pixels: int = 2**27
    samples: int = 4
    held_pixels: int = 2**27
    patience: float = 0.05
    timeout: float = 3600.0
    expiry: float = 3600.0
    kept_bytes: int = 2**30
    kept_jobs: int = 4096
