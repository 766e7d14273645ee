"""Sharing the work among hosts. Hosts never wait for each other."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import jax

from diffbir_jax.batch.settings import FlagError, Settings

Job = TypeVar("Job")


def connect(settings: Settings, coordinator: str | None) -> Settings:
    """Return the settings with the numbers that jax.distributed gives this process.

    Call it before anything runs on a device. The processes meet once to learn their numbers and then separate: a host
    that finishes early or breaks down does not affect the others.

    Args:
        settings: the run. If it names several hosts, these numbers are given to jax.distributed.
        coordinator: HOST:PORT of the first host; by default the cluster's or that of JAX_COORDINATOR_ADDRESS.

    Raises:
        FlagError: the processes do not connect.
    """
    known = coordinator is not None or settings.hosts > 1
    numbers = (settings.hosts, settings.host_index) if known else (None, None)
    try:
        jax.distributed.initialize(coordinator, *numbers)
        hosts, index = jax.process_count(), jax.process_index()
        jax.distributed.shutdown()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FlagError(
            f"--distributed: {reason}; give --coordinator HOST:PORT, --hosts and --host-index, or --hosts and "
            "--host-index alone, which needs no connection"
        ) from None
    return dataclasses.replace(settings, hosts=hosts, host_index=index)


def share(jobs: Sequence[Job], settings: Settings) -> Sequence[Job]:
    """Return this host's part of the sorted list of all jobs."""
    return jobs[settings.host_index :: settings.hosts]
