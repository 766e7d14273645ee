"""Flags without effect are told."""

import pytest

from diffbir_jax.batch.flags import parse
from diffbir_jax.batch.idle import idle_flags
from diffbir_jax.batch.settings import settings_from


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("--guidance-scale 1", "--guidance-scale has no effect at --upscale 1: the result is stage 1's;"),
        ("--steps 1 --guidance-scale 1 --seed 4", "--guidance-scale, --steps have no effect at --upscale 1:"),
        ("--upscale 2 --detail 0 --pos-prompt a", "--pos-prompt has no effect at --upscale 2:"),
        (
            "--upscale 4 --texture 0.5",
            "--texture has no effect at --upscale 4: all detail comes from stage 2;",
        ),
        ("--version tiny --texture 0.5 --upscale 2", "--texture has no effect at --upscale 2:"),
        ("--guidance-scale 1 --detail 0.5", ""),
        ("--guidance-scale 1 --upscale 2", ""),
        ("--texture 0.5 --seed 3", ""),
        ("--texture 0 --upscale 4", ""),
        ("--version tiny --guidance-scale 1", ""),
        ("--stage1-only --texture 0.5 --upscale 4", ""),
        (
            "--task face",
            "--task face has no effect: one-step has no networks of its own for this task; for the faces of",
        ),
        (
            "--task denoise --version tiny",
            "--task denoise has no effect: tiny has no networks of its own for this task",
        ),
        ("--task face --version v2", ""),
        ("--task denoise", "--task denoise has no effect: one-step has no networks of its own for this task"),
        ("--task denoise --version v2.1", "--task denoise has no effect: v2.1 has no networks of its own"),
        ("--task sr", ""),
        ("--task faces --version tiny --texture 0.5", ""),
    ],
)
def test_what_changes_nothing_is_named(flags: str, expected: str) -> None:
    args = parse(["a.png", "-o", "out", *(flags if "--upscale" in flags else f"{flags} --upscale 1").split()])
    told = idle_flags(args.given, settings_from(args, None).recipe)
    assert told.startswith(expected) and bool(told) == bool(expected)
