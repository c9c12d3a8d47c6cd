"""Models as they are declared, and what becomes of opening them."""

import codecs
import gzip
from pathlib import Path

import pytest

from worker.core.cancellation import CancelToken
from worker.core.errors import ModelLoadFailedError
from worker.core.models import AUTO_LOADER, ModelSpec
from worker.loaders.placing import place
from worker.loaders.registry import loader_of
from worker.loaders.tensors import as_tensors

NO_MODELS = {
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "Git LFS pointer"),
    "a page": (b"\n<!DOCTYPE html><html>", "web page (HTML)"),
    "an error": (b"<?xml version='1.0'?><Error>", "XML text"),
    "nothing": (b"", "it is empty"),
    "reserved": (bytes(5000), "was reserved, and not downloaded yet"),
    "gzip": (gzip.compress(b"x" * 100), "a gzip archive; unpack it"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file"),
    "an older ggml": (b"lmgg" + bytes(600), "a model in a format before GGUF"),
    "an older llama": (b"tjgg\3\0\0\0" + bytes(600), "a model in a format before GGUF"),
    "half a zip": (b"PK\3\4" + b"x" * 600, "it is cut short"),
    "an annexed file": (b"/annex/objects/SHA256E-s9--ab.safetensors\n", "a pointer of git-annex"),
    "a link's text": (
        b"../.git/annex/objects/aa/bb/SHA256E-s9--ab/SHA256E-s9--ab\n",
        "a pointer of git-annex",
    ),
    "a xet file": (b"# xet version 0\nfilesize = 9\nhash = 'ab'\n", "a Xet pointer"),
    "a marked page": (codecs.BOM_UTF8 + b"<html><body>", "web page (HTML)"),
    "a wide page": ("<!DOCTYPE html><html>".encode("utf-16"), "web page (HTML)"),
    "a marked pointer": (
        codecs.BOM_UTF8 + b"version https://git-lfs.github.com/spec/v1\n",
        "Git LFS pointer",
    ),
    "French": ("Accès refusé, et le texte est long. ".encode() * 300, "begins 'Accès refusé, et"),
    "Japanese": ("アクセスが拒否されました".encode() * 200, "begins 'アクセス"),
}


def spec(path: Path, loader: str = AUTO_LOADER, **more) -> ModelSpec:
    return ModelSpec("m", loader, path, more.pop("root", path.parent), **more)


def refused(wanted: ModelSpec) -> str:
    with pytest.raises(ModelLoadFailedError) as caught:
        loader_of(wanted).open(wanted)
    return caught.value.details["cause"]


def loaded(wanted: ModelSpec) -> dict:
    file = loader_of(wanted).open(wanted)
    block = bytearray(file.total_bytes)
    place(file, memoryview(block), CancelToken(lambda: 0))
    file.close()
    assert loader_of(wanted).estimate(wanted) == file.total_bytes
    return as_tensors(memoryview(block), file.tensors)
