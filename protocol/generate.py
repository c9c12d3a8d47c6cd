"""Write everything that is generated from the contract: ``python -m protocol.generate [--check]``.

JSON Schemas, the digest of those that cross the wire, docs/protocol.md and the twins in each language of
``protocol.generators``. ``--check`` writes nothing and exits with 1 if a file differs from what would be written,
is missing, or is left over. Either way it exits with 1 where the contract breaks what was promised (``growth``).
"""

import argparse
import difflib
import hashlib
import json
import sys
from pathlib import Path

from protocol import growth
from protocol.contract import contract_types, json_schema
from protocol.generators import languages
from protocol.generators.model import shape
from protocol.model_config import models_schema
from protocol.reference import reference_page

ROOT = Path(__file__).resolve().parent.parent


def owned() -> list[str]:
    """Return where only generated files may lie: any other there is left over."""
    return ["schemas/*.json", *(pattern for language in languages() for pattern in language.OWNED)]


def generated_files() -> dict[str, str]:
    """Return every generated file's text by its path from the project's root."""
    schemas = {
        f"schemas/{name}.json": json.dumps(json_schema(name), indent=2, ensure_ascii=False) + "\n"
        for name in contract_types()
    }
    digest = hashlib.sha256("".join(schemas[path] for path in sorted(schemas)).encode()).hexdigest()
    constant = '"""Generated: the digest of all schemas, which ``worker.hello`` answers."""\n\n'
    return {
        **schemas,
        "schemas/models.json": json.dumps(models_schema(), indent=2, ensure_ascii=False) + "\n",
        "protocol/schema_digest.py": f'{constant}SCHEMA_SHA256 = "{digest}"\n',
        "docs/protocol.md": reference_page(),
        **{path: text for language in languages() for path, text in language.generate().items()},
    }


def main() -> int:
    """Write, or check. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m protocol.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if anything differs")
    parser.add_argument(
        "--baseline", action="store_true", help="after a release: add the types that are new to the baseline"
    )
    told = parser.parse_args()
    check = told.check
    if told.baseline:
        growth.BASELINE.write_text(growth.with_additions(shape()), encoding="utf-8")
        growth.baseline.cache_clear()
    files = generated_files()
    left_over = {str(path.relative_to(ROOT)) for pattern in owned() for path in ROOT.glob(pattern)} - {*files}
    stale = 0
    for name, text in files.items():
        path = ROOT / name
        present = path.read_text(encoding="utf-8") if path.is_file() else ""
        if present == text:
            continue
        stale += 1
        if check:
            sys.stdout.writelines(
                difflib.unified_diff(
                    present.splitlines(keepends=True), text.splitlines(keepends=True), name, "generated", n=1
                )
            )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            print(f"wrote {name}")
    for name in sorted(left_over):
        print(f"left over: {name}")
        if not check:
            (ROOT / name).unlink()
    broken = growth.broken_promises(shape())
    for promise in broken:
        print(f"broken promise: {promise}")
    return 1 if broken or (check and (stale or left_over)) else 0


if __name__ == "__main__":
    sys.exit(main())
