"""What kind of file is given as a checkpoint: by its first bytes, as names lie."""

import re
import stat
from pathlib import Path
from typing import Literal

from diffbir_jax.conversion.stored import CheckpointError

Kind = Literal["torch", "safetensors"]
TORCH_SUFFIXES = (".ckpt", ".pth", ".pt", ".bin")
# What browsers and download tools call a file before it is complete.
UNFINISHED = (".crdownload", ".part", ".partial", ".download", ".opdownload", ".aria2", ".tmp")
HEAD = 4096
IRREGULAR = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
OTHERS = {
    b"\x89HDF": "an HDF5 file (Keras)",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a file of NumPy",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
PACKED = {
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "RAR",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
}


def check_file(path: Path) -> None:
    """Raise CheckpointError if a path is no regular file, before it is opened: a pipe would wait for its writer.

    An OSError says that there is no such path.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return
    what = next((what for is_it, what in IRREGULAR.items() if is_it(mode)), "a device")
    raise CheckpointError(f"{path} is {what}, not a file: give the file with the weights")


def kind_of(path: Path) -> Kind:
    """How to read a file.

    Raises:
        CheckpointError: it is something else; the message says what, and what to do.
        OSError: the file cannot be read.
    """
    check_file(path)
    with path.open("rb") as file:
        head = file.read(HEAD)
    if path.suffix.lower() in UNFINISHED:
        raise CheckpointError(
            f"{path} is an unfinished download by name: let it finish or fetch it again (if it is complete, rename it)"
        )
    kind = _by_content(head, path.stat().st_size)
    if kind is None and (found := _foreign(head)):
        raise CheckpointError(f"{path} is {found}")
    return kind or _by_name(path, head)


def _by_content(head: bytes, size: int) -> Kind | None:
    # First, as the length of a header may begin like a pickle; a pickle read as a length is beyond any file.
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= header <= size - 8:
        return "safetensors"
    # PyTorch: a zip archive, or a pickle of protocol 2 or later.
    if head.startswith(b"PK") or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and len(head) > 1):
        return "torch"
    return None


def _by_name(path: Path, head: bytes) -> Kind:
    if path.suffix.lower() == ".safetensors":
        return "safetensors"
    if path.suffix.lower() not in TORCH_SUFFIXES:
        known = ", ".join((".safetensors", *TORCH_SUFFIXES))
        raise CheckpointError(
            f"{path}: unknown kind of file; give a {known} file, a diffusers folder or ncnn's .param"
        )
    if not head:
        raise CheckpointError(f"{path} is empty: fetch it again")
    return "torch"


def _foreign(head: bytes) -> str | None:
    """What is no checkpoint, in words; None if the bytes say nothing."""
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"\nsize (\d{1,19})\n", head)
        more = f" to {int(size[1]):,} bytes" if size else ""
        return (
            f"a Git LFS pointer{more}, not the file itself: run git lfs pull, or download the file by itself"
        )
    if re.match(rb"\s*(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|\?xml|script)", head, re.IGNORECASE):
        return "a web page, not the file: the server sent it in place of the weights; open the address in a browser"
    if len(head) > 16 and not head.strip(b"\0"):
        return "full of zeros at its start: the download did not finish; fetch it again"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it, and give the file inside"
    other = next((name for start, name in OTHERS.items() if head.startswith(start)), None)
    if other:
        return f"{other}: give the weights as PyTorch or safetensors"
    packed = next((name for start, name in PACKED.items() if head.startswith(start)), None)
    if packed:
        return f"a {packed} archive: unpack it, and give the file inside"
    return _json(head) or _text(head)


def _json(head: bytes) -> str | None:
    """Descriptions that lie beside weights; messages of servers are JSON, too."""
    if not re.match(rb"\s*\{", head):
        return None
    if re.search(rb'"(_class_name|architectures|model_type|_name_or_path)"\s*:', head):
        return "a description of a model (JSON), not its weights: give the file with the weights"
    return None


def _text(head: bytes) -> str | None:
    # A pickle of protocol 0 is text, too; it has a full stop at its end and no sentence in front.
    words = re.match(rb"\s*[\w\"'{\[(][\x20-\x7e\s]{8,}", head)
    if not words or words.end() < min(len(head), 200) or re.match(rb"\s*(\(|c[\w.]+\n|I\d|\])", head):
        return None
    start = " ".join(head[:60].decode("ascii", "replace").split())
    return f"text, not weights ({start!r}): the server sent a message in their place; fetch the file again"
