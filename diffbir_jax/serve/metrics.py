"""Numbers for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """Counts of one service; several of a process do not mix."""

    def __init__(self) -> None:
        self._all = CollectorRegistry()
        more = {"registry": self._all, "namespace": "diffbir"}
        self._jobs = Counter("jobs", "Jobs that are over, by outcome", ["outcome"], **more)
        self._accepted = Counter("accepted", "Jobs accepted", **more)
        self._refused = Counter(
            "refused", "Jobs refused since the queue was full or the service stopped", **more
        )
        self._queue = Gauge("queue_jobs", "Jobs that wait", **more)
        self._bytes = Gauge("kept_bytes", "Bytes of results in memory", **more)
        self._wait = Histogram("wait_seconds", "From acceptance to the device", buckets=SECONDS, **more)
        self._whole = Histogram("job_seconds", "From acceptance to the end", buckets=SECONDS, **more)
        self._pack = Histogram(
            "pack_jobs", "Jobs that are computed together", buckets=(1, 2, 4, 8, 16), **more
        )
        self._device = Counter("device_seconds", "Seconds in which the device computed", **more)

    def accepted(self) -> None:
        """Count a job that was accepted."""
        self._accepted.inc()

    def refused(self) -> None:
        """Count a job that was refused."""
        self._refused.inc()

    def waiting(self, jobs: int) -> None:
        """Take the length of the queue."""
        self._queue.set(jobs)

    def started(self, seconds: float) -> None:
        """Take how long a job waited."""
        self._wait.observe(seconds)

    def computed(self, jobs: int, seconds: float) -> None:
        """Take the size of a pack and its time."""
        self._pack.observe(jobs)
        self._device.inc(seconds)

    def ended(self, outcome: str, seconds: float) -> None:
        """Count a job that is over, and its time."""
        self._jobs.labels(outcome).inc()
        self._whole.observe(seconds)

    def kept(self, count: int) -> None:
        """Take the bytes of all results."""
        self._bytes.set(count)

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self._all)
