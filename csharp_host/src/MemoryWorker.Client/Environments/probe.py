"""What a host asks of an interpreter before it starts the worker in it; answers with one JSON object on stdout.

It is handed over with ``-c`` and must be understood by Python 3.6.
"""

import sys

if sys.path and sys.path[0] == "":
    del sys.path[0]  # nothing of the current folder is to be taken for a library

import base64
import hashlib
import importlib.util
import json
import re


def _numbers(version):
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3]]


def _missing(distribution):
    """Return what it needs, without extras, and is not there in a version that is new enough."""
    from importlib import metadata

    missing = []
    for needed in distribution.requires or []:
        if ";" in needed:
            continue
        found = re.match(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?", needed)
        try:
            version = metadata.version(found.group(1))
        except metadata.PackageNotFoundError:
            missing.append(needed)
            continue
        if found.group(2) and _numbers(version) < _numbers(found.group(2)):
            missing.append(needed + " (there is " + version + ")")
    return missing


def _overwritten(distribution):
    """Return the files of ours that another package has put its own in the place of."""
    wrong = []
    for file in distribution.files or []:
        if (
            str(file) in ("worker/__init__.py", "protocol/__init__.py", "memory_worker/__init__.py")
            and file.hash
        ):
            place = str(file.locate())
            digest = hashlib.new(file.hash.mode)
            try:
                with open(place, "rb") as opened:
                    digest.update(opened.read())
            except OSError:
                wrong.append(place)
                continue
            if base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode() != file.hash.value:
                wrong.append(place)
    return wrong


def main():
    told = {"python": "%d.%d.%d" % sys.version_info[:3], "executable": sys.executable}
    told.update({"version": None, "missing": [], "overwritten": [], "entry": None})
    if sys.version_info >= (3, 11):
        from importlib import metadata

        try:
            distribution = metadata.distribution("memory-worker")
        except metadata.PackageNotFoundError:
            distribution = None
        spec = importlib.util.find_spec("memory_worker")
        told["entry"] = spec.origin if spec else None
        if distribution is not None:
            told["version"] = distribution.version
            told["missing"] = _missing(distribution)
            told["overwritten"] = _overwritten(distribution)
    sys.stdout.write(json.dumps(told))


main()
