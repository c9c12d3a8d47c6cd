"""OpenMetrics texts of several nodes as one: each sample says which node's it is. Pure."""

import re

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?( .*)")
_END = "# EOF"


def merged_metrics(texts: dict[str, str]) -> str:
    """Return one text: a family's samples of all nodes stand together, below what describes it once."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for node, text in texts.items():
        family = ""
        for line in text.splitlines():
            if line == _END:
                break
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                described, _ = families.setdefault(family, ([], []))
                if line not in described and not any(_same(line, each) for each in described):
                    described.append(line)
            elif line:
                families.setdefault(family, ([], []))[1].append(_labelled(line, node))
    lines = [line for described, samples in families.values() for line in (*described, *samples)]
    return "\n".join([*lines, _END, ""])


def _same(line: str, other: str) -> bool:
    """Tell whether two lines say the same thing of a family, whatever the words."""
    return line.split(" ", 3)[:3] == other.split(" ", 3)[:3]


def _labelled(sample: str, node: str) -> str:
    match = _SAMPLE.fullmatch(sample)
    if match is None:
        return sample
    name, labels, rest = match.groups()
    return f'{name}{{node="{node}"{"," + labels if labels else ""}}}{rest}'
