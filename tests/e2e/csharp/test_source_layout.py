"""Where a newcomer finds a type: in the file that is called so."""

import re
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[3] / "csharp_host" / "src"
TYPE = re.compile(
    r"^(?:(?:public|internal|abstract|sealed|static|readonly|ref|unsafe|partial) )*"
    r"(?:record struct|record|class|struct|interface|enum) (\w+)(<)?",
    re.MULTILINE,
)


def test_one_type_a_file() -> None:
    """A handwritten file declares one type and has its name; of a generic one, with ``OfT``."""
    files = [file for file in SOURCES.rglob("*.cs") if not file.name.endswith(".g.cs")]
    assert len(files) > 50
    for file in files:
        if {"bin", "obj"} & {*file.relative_to(SOURCES).parts}:
            continue
        [(name, generic)] = TYPE.findall(file.read_text(encoding="utf-8"))
        expected = {name, f"{name}OfT"} if generic else {name}
        assert file.name.partition(".")[0] in expected, file
