"""Write everything that is generated from the contract: ``python -m protocol.generate [--check]``.

JSON Schemas, the digest of those that cross the wire, docs/protocol.md and the C# twins. ``--check`` writes
nothing and exits with 1 if a file differs from what would be written, is missing, or is left over.
"""

import argparse
import difflib
import hashlib
import json
import sys
from pathlib import Path

from protocol.contract import contract_types, json_schema
from protocol.csharp import generate as generate_csharp
from protocol.generators.python import generate as generate_python
from protocol.model_config import models_schema
from protocol.reference import reference_page

ROOT = Path(__file__).resolve().parent.parent

_OWNED = ("schemas/*.json", "csharp_host/src/MemoryWorker.Client/Generated/*.g.cs")
"""Where only generated files may lie: any other there is left over."""


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
        **generate_csharp(),
        **generate_python(),
    }


def main() -> int:
    """Write, or check. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m protocol.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if anything differs")
    check = parser.parse_args().check
    files = generated_files()
    left_over = {str(path.relative_to(ROOT)) for pattern in _OWNED for path in ROOT.glob(pattern)} - set(
        files
    )
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
    return 1 if check and (stale or left_over) else 0


if __name__ == "__main__":
    sys.exit(main())
