"""Archives: the file of a stored function: a zip of JSON, arrays and libraries, each with its hash.

`manifest.json` has format, versions and the SHA-256 of every other member; the archive's comment
has the manifest's own. Nothing is unpickled. A file that is damaged, of another format, or written
for another MLX is refused with the reason.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from zmlx.errors import StoredError

FORMAT = 1
WHAT = "zmlx stored function"
MANIFEST, FUNCTION, ARRAYS = "manifest.json", "function.json", "arrays.safetensors"
# What a damaged zip makes Python's module raise.
_DAMAGE = (
    zipfile.BadZipFile, KeyError, EOFError, zlib.error, NotImplementedError, RuntimeError,
    ValueError, OverflowError, OSError, struct.error, lzma.LZMAError,
)  # fmt: skip
_DATE = (1980, 1, 1, 0, 0, 0)  # the same function is the same file


@dataclass(frozen=True)
class Archive:
    """What a file holds."""

    function: dict[str, Any]
    arrays: dict[str, mx.array]
    machine: dict[str, Any]  # what the libraries need, and which kernels they hold
    libraries: dict[str, bytes]


def write(path: Path, archive: Archive) -> None:
    """The file, whole or not at all."""
    members = {FUNCTION: _json(archive.function), **archive.libraries}
    if archive.arrays:
        buffer = io.BytesIO()
        mx.save_safetensors(buffer, archive.arrays)
        members[ARRAYS] = buffer.getvalue()
    manifest = _json(
        {
            "what": WHAT,
            "format": FORMAT,
            "mlx": mx.__version__,
            "machine": archive.machine,
            "members": {name: _sha256(content) for name, content in members.items()},
        }
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in {MANIFEST: manifest, **members}.items():
                file.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
            file.comment = _sha256(manifest).encode()
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path) -> Archive:
    """What the file holds; StoredError where it is none, is damaged, or is for another MLX."""
    with open(path, "rb") as raw:
        try:
            with zipfile.ZipFile(raw) as file:
                manifest = _manifest(file, path)
                members = {name: file.read(name) for name in manifest["members"]}
        except _DAMAGE as error:
            raise StoredError(
                f"[zmlx.load] {path} is no stored function, or is damaged: {error}. Export it "
                "again."
            ) from None
    for name, content in members.items():
        if _sha256(content) != manifest["members"][name]:
            raise StoredError(f"[zmlx.load] {path} is damaged: {name} is not what was written.")
    libraries = {n: c for n, c in members.items() if n not in (FUNCTION, ARRAYS)}
    arrays = _arrays(members[ARRAYS]) if ARRAYS in members else {}
    return Archive(json.loads(members[FUNCTION]), arrays, manifest["machine"], libraries)


def _manifest(file: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    text = file.read(MANIFEST)
    if file.comment.decode("ascii", "replace") != _sha256(text):
        raise StoredError(f"[zmlx.load] {path} is damaged: {MANIFEST} is not what was written.")
    manifest: dict[str, Any] = json.loads(text)
    if manifest.get("what") != WHAT or manifest.get("format") != FORMAT:
        raise StoredError(
            f"[zmlx.load] {path} has format {manifest.get('format')}, and this ZMLX reads format "
            f"{FORMAT}. Export it again with the ZMLX that loads it."
        )
    if manifest["mlx"] != mx.__version__:
        raise StoredError(
            f"[zmlx.load] {path} was written for MLX {manifest['mlx']}, and this is MLX "
            f"{mx.__version__}, whose functions may differ. Export it again here, or install "
            f"mlx=={manifest['mlx']}."
        )
    return manifest


def _arrays(content: bytes) -> dict[str, mx.array]:
    loaded = mx.load(io.BytesIO(content), format="safetensors")
    assert isinstance(loaded, Mapping)
    arrays = dict(loaded)
    mx.eval(list(arrays.values()))  # the buffer goes
    return arrays


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
