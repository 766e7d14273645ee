"""Restore a folder or a bucket on a Ray cluster: each share of it is a task on a device of its own.

python examples/ray_restore.py gs://lab/photos gs://lab/restored --shares 64 --gpus 1 -- --upscale 2

A share is what `diffbir restore --hosts 64 --host-index I --skip-existing` takes, so all its flags can follow `--`.
Ray gives shares to free devices, and asks its autoscaler for more machines while shares wait. It tries the share of a
lost worker again elsewhere. The manifest in the output folder tells that try which images are done, so each is restored
once. More shares than devices keep all of them busy to the end. Add no photos during the run: shares list the folder.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ray

# Tries of a share whose worker was lost: preempted machines come often.
TRIES = 20


def restore(flags: Sequence[str]) -> int:
    """Run `diffbir restore` in this process and return its exit code."""
    # Only workers need JAX.
    from diffbir_jax.cli.main import start

    try:
        start("restore", flags)
    except SystemExit as end:
        return int(end.code or 0)


def restore_all(
    source: str,
    output: str,
    flags: Sequence[str] = (),
    shares: int = 8,
    run: Callable[[Sequence[str]], int] = restore,
    **resources: Any,
) -> list[int]:
    """Restore all shares and return their exit codes, see `diffbir restore`.

    Args:
        source: folder or URL of the inputs; the same for all machines.
        output: folder or URL of the results.
        flags: further flags.
        shares: number of tasks.
        run: runs a share's command line.
        resources: what each needs, as Ray takes it: num_cpus, num_gpus.

    Raises:
        ray.exceptions.RayError: workers of a share were lost `TRIES` times.
    """
    # A new process for each: memory and devices of the share before are free.
    task = ray.remote(max_retries=TRIES, max_calls=1, **resources)(run)
    common = [source, "--output", output, "--skip-existing", f"--hosts={shares}", *flags]
    return ray.get([task.remote([*common, f"--host-index={share}"]) for share in range(shares)])


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line; 0 if every image was restored, else the largest exit code of a share."""
    parser = argparse.ArgumentParser(usage="%(prog)s SOURCE OUTPUT [options] -- FLAGS OF diffbir restore")
    parser.add_argument("source", help="folder or URL of the photos")
    parser.add_argument("output", help="folder or URL for the results")
    parser.add_argument(
        "--shares", type=int, default=8, help="tasks; a few per device (default: %(default)s)"
    )
    parser.add_argument("--cpus", type=float, default=1, help="CPU cores per task (default: %(default)g)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs per task (default: %(default)g)")
    words = [*sys.argv[1:], "--"] if argv is None else [*argv, "--"]
    at = words.index("--")
    args, flags = parser.parse_args(words[:at]), words[at + 1 : -1]
    ray.init()
    codes = restore_all(args.source, args.output, flags, args.shares, num_cpus=args.cpus, num_gpus=args.gpus)
    print(f"{codes.count(0)} of {len(codes)} shares without a failed image")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
