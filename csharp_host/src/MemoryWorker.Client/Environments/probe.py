"""What a host asks of an interpreter before it starts the worker in it; answers with one JSON object on stdout.

It is handed over with ``-c``, the extras after it, and must be understood by Python 2.7. What is imported at the start of
an interpreter may print, too: the answer is a line with a mark.
"""

import sys

if sys.path and sys.path[0] == "":
    del sys.path[0]  # nothing of the current folder is to be taken for a library

import json
import re

_MARK = "memory-worker-probe:"


def _normal(extra):
    return re.sub(r"[-_.]+", "-", extra).lower()


def _numbers(version):
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3]]


def _missing(distribution, extras):
    """Return what it needs, with these extras, and is not there in a version that is new enough."""
    from importlib import metadata

    missing = []
    for requirement in distribution.requires or []:
        needed, _, marker = requirement.partition(";")
        needed = needed.strip()
        extra = re.match(r"\s*extra\s*==\s*['\"]([^'\"]+)['\"]\s*$", marker)
        if marker and not (extra and _normal(extra.group(1)) in extras):
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
    import base64
    import hashlib

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
    told.update({"version": None, "missing": [], "overwritten": [], "extras": [], "entry": None})
    if sys.version_info >= (3, 11):
        import importlib.util
        from importlib import metadata

        try:
            distribution = metadata.distribution("memory-worker")
        except metadata.PackageNotFoundError:
            distribution = None
        spec = importlib.util.find_spec("memory_worker")
        told["entry"] = spec.origin if spec else None
        if distribution is not None:
            told["version"] = distribution.version
            told["missing"] = _missing(distribution, [_normal(extra) for extra in sys.argv[1:]])
            told["extras"] = distribution.metadata.get_all("Provides-Extra") or []
            told["overwritten"] = _overwritten(distribution)
    sys.stdout.write("\n" + _MARK + json.dumps(told) + "\n")


main()
