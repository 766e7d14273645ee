"""A network in the ONNX format, written byte by byte: the package onnx is not needed for three layers."""

from pathlib import Path


def _varint(value: int) -> bytes:
    head, rest = value & 127, value >> 7
    return bytes([head | 128]) + _varint(rest) if rest else bytes([head])


def _field(number: int, value: int | str | bytes) -> bytes:
    """A field of a protocol buffer: a number, a text or a message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, *shape: int) -> bytes:
    dimensions = b"".join(_field(1, _field(1, side)) for side in shape)
    kind = _field(1, _field(1, 1) + _field(2, dimensions))  # 1: float32
    return _field(1, name) + _field(2, kind)


def _node(kind: str, source: str, target: str) -> bytes:
    return _field(1, source) + _field(2, target) + _field(3, target) + _field(4, kind)


def write_mean_network(path: Path, side: int) -> None:
    """Write a network whose output, (1, 3), is the mean over pixels of its input, (1, 3, side, side)."""
    nodes = _field(1, _node("GlobalAveragePool", "x", "mean")) + _field(1, _node("Flatten", "mean", "y"))
    shapes = _field(11, _tensor("x", 1, 3, side, side)) + _field(12, _tensor("y", 1, 3))
    graph = nodes + _field(2, "mean") + shapes
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))
