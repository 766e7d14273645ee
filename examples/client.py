"""A client of `diffbir serve`: python examples/client.py PHOTO RESULT [--upscale 2 ...]; shows how far it is."""

import argparse
import json
from pathlib import Path

import requests


def restore(service: str, photo: Path, options: dict) -> tuple[bytes, dict]:
    """Restore a photo; returns the file of the result and its sidecar, or raises requests.HTTPError."""
    form = {"image": (photo.name, photo.read_bytes()), "options": (None, json.dumps(options))}
    job = f"{service}/jobs/{checked(requests.post(f'{service}/restore?job=1', files=form)).json()['id']}"
    with requests.get(f"{job}/events", stream=True) as events:
        for line in events.iter_lines(decode_unicode=True):
            if line.startswith("data: "):
                state = json.loads(line.removeprefix("data: "))
                print(f"{state['state']} {state.get('stage', '')} {100 * state.get('share', 0):.0f}%")
    return checked(requests.get(f"{job}/result")).content, checked(requests.get(f"{job}/sidecar")).json()


def checked(answer: requests.Response) -> requests.Response:
    """Return an answer; the service says in one line why it refuses."""
    if not answer.ok:
        raise requests.HTTPError(f"{answer.status_code}: {answer.json()['detail']}")
    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("photo", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--service", default="http://127.0.0.1:8000")
    parser.add_argument("--upscale", type=float, default=4.0)
    args = parser.parse_args()
    picture, sidecar = restore(args.service, args.photo, {"upscale": args.upscale})
    args.result.write_bytes(picture)
    args.result.with_suffix(".json").write_text(json.dumps(sidecar, indent=1))
