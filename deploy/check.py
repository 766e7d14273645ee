"""Check the jobs within deploy/*.yaml by the schema of Kubernetes, which knows no JobSet.

python deploy/check.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

VERSION = "1.37"


def jobs(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the manifest, or each job of a set as a manifest of its own."""
    if manifest["kind"] != "JobSet":
        yield manifest
        return
    for group in manifest["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": group["name"]}}
        yield job | {"spec": group["template"]["spec"]}


def main() -> None:
    """Print a line per job; ValidationError for the first that is wrong."""
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        for job in jobs(yaml.safe_load(path.read_text("utf-8"))):
            kubernetes_validate.validate(job, VERSION, strict=True)
            print(f"{path.name}: job {job['metadata']['name']} fits Kubernetes {VERSION}")


if __name__ == "__main__":
    sys.exit(main())
