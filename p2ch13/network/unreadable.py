"""Say why a file cannot be read as a checkpoint, in words of our own.

PyTorch's message on a refused file advises to load it without `weights_only`, which would run any code in it.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from p2ch13.util.contents import HEAD_BYTES, describe_content
from p2ch13.util.errors import one_line

ZIP_HEAD = b"PK\x03\x04"
BLOCK_BYTES = 2**20
PICKLE_NAME = "data.pkl"  # of a .state file's values, below a folder of any name
SAVE_ANEW = "save it anew as torch.save({'model_state': model.state_dict()}, path)"
# Types of tensors and plain values, which PyTorch reads from any file.
PLAIN_TYPES = re.compile(
    r"torch\.[\w]+|torch\._utils\.\w+|torch\.storage\.\w+|torch\._tensor\._rebuild\w+|torch\.nn\.parameter\.Parameter"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode|copy_?reg\._reconstructor"
)


def explain_unreadable(path: Path, error: Exception) -> str:
    """Say what a file is that PyTorch does not read as a checkpoint, and what helps. Args: error: PyTorch's."""
    try:
        return explain_content(path) or "it is corrupt, or no checkpoint: copy or download it again"
    except OSError as failure:
        return one_line(failure if not isinstance(error, OSError) else error)


def explain_content(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    described = describe_content(head)
    if described is not None:
        return f"it is {described}"
    if is_onnx(head):
        return f"it is an ONNX model, and only weights of PyTorch are read; {SAVE_ANEW}"
    if is_safetensors(head):
        return f"it is a safetensors file; {SAVE_ANEW}"
    if head.startswith(ZIP_HEAD):
        return explain_archive(path)
    with path.open("rb") as file:
        return explain_types(file)


def explain_archive(path: Path) -> str | None:
    """Say why a zip archive is no checkpoint: it is cut short, of another program, or holds other types."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            values = next((name for name in names if name.rpartition("/")[2] == PICKLE_NAME), None)
            if values is None:
                first = names[0] if names else "nothing"
                return f"it is a zip archive of {first}, not a checkpoint; unpack it, or name another file"
            if any("/code/" in name for name in names):
                return f"it is a TorchScript archive, which is code; {SAVE_ANEW}"
            with archive.open(values) as file:
                return explain_types(file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
        return "it is cut short or damaged; copy or download it again"


def find_damaged_member(path: Path) -> str | None:
    """Name the first member of a .state file, a zip archive, whose checksum is wrong; None if there is none.

    PyTorch can be told to write no checksums: then all are wrong, and tell nothing.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.file_size]
            damaged = [member.filename for member in members if not is_intact(archive, member)]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
        return None  # PyTorch has read it, in its own way
    return damaged[0] if damaged and len(damaged) < len(members) else None


def is_intact(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(member) as file:
            while file.read(BLOCK_BYTES):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def explain_types(file: IO[bytes]) -> str | None:
    """Name the first type of a pickle that is more than data; None if there is no such type, or no pickle."""
    other = next((name for name in list_types(file) if PLAIN_TYPES.fullmatch(name) is None), None)
    if other is None:
        return None
    return (
        f"it holds a {other}, and only tensors, numbers and texts are read, since other types can run code; {SAVE_ANEW}"
    )


def list_types(file: IO[bytes]) -> Iterator[str]:
    """Yield the types and functions that pickles, one behind the other, name, without running anything."""
    memo: list[object] = []  # of protocol 4 and later, which name a type by two texts before it
    last_two: list[object] = []
    try:
        while True:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(map(str, last_two))
                if opcode.name == "MEMOIZE":
                    memo.append(last_two[-1])
                elif opcode.name in ("BINGET", "LONG_BINGET") and isinstance(argument, int) and argument < len(memo):
                    last_two = [*last_two[-1:], memo[argument]]
                else:
                    last_two = [*last_two[-1:], argument]
    except Exception:  # what is damaged, or no pickle: genops raises errors of many types
        return


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as a safetensors file does: the length of a JSON text, and that text."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def is_onnx(head: bytes) -> bool:
    """Whether a file begins as an ONNX model does: its version, and the name of the program that made it."""
    return len(head) > 4 and head[0] == 0x08 and head[2] == 0x12 and head[4 : 4 + head[3]].isalnum()
