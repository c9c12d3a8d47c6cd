"""Draws a snapshot into as many columns and lines as there are; at 80 by 24 everything has its place."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from protocol.vocabulary import NODE_SEPARATOR
from worker.tools.nodes import node_of
from worker.tools.report.words import duration, mebibytes, rate
from worker.tools.top.nodes import Line, arranged, is_fleet
from worker.tools.top.snapshot import DeviceRow, ModelRow, OwnerRow, Snapshot

_LEVEL_STYLES = {"low": "green", "moderate": "yellow", "high": "bold orange3", "critical": "bold red"}
_SEVERITY_STYLES = ("", "yellow", "bold orange3", "bold red")
_STATE_STYLES = {
    "loaded": "green",
    "loading": "cyan",
    "unloading": "cyan",
    "offloaded": "blue",
    "failed": "bold red",
}
_CURVE = "▁▂▃▄▅▆▇█"
_PLAIN_CURVE = "_.-=oO#@"
_CURVE_WIDTH = 16
_FRAME = 6
"""Lines that are there whatever is shown: the title, three heads, a blank one, the keys."""
_LEAST_BELOW = 6
"""Lines that a fleet's devices leave to owners, models and the story."""
_STEADY_SHARE = 0.01
"""A device whose use moves by less of its budget a minute stands still."""
_WIDE = 100
"""From so many columns on the curves fit."""


class View:
    """One screen."""

    def __init__(self, snapshot: Snapshot, *, paused: bool = False) -> None:
        self._snapshot = snapshot
        self._paused = paused

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Divide the lines: devices first, then owners and models side by side, and the rest is the story."""
        width, height = options.max_width, options.height or console.height
        shown = self._snapshot
        plain = not (console.encoding or "").lower().startswith("utf")
        if is_fleet(shown.devices):
            there = height - _FRAME - 1
            all_fit = len(shown.devices) <= there - _LEAST_BELOW
            found = arranged(shown.devices, len(shown.devices) if all_fit else max(1, there // 2))
            left = there - len(found.lines)
            devices: list[RenderableType] = [
                _line(found.summary, width),
                _devices(found.lines, width, _nodes_left_out(found.hidden_nodes), plain=plain, of_nodes=True),
            ]
        else:
            lines = min(len(shown.devices), max(1, (height - _FRAME) // 3))
            left = height - _FRAME - lines
            hidden = len(shown.devices) - lines
            each = [Line(row, row.device_id, begins_node=True) for row in shown.devices[:lines]]
            devices = [_devices(each, width, f" +{hidden}" if hidden else "", plain=plain)]
        rows = max(len(shown.owners), len(shown.models), 1)
        middle = max(min(1, left), min(rows, left // 2))
        story = max(0, left - middle)
        yield self._title(width)
        yield from devices
        yield Text("")
        yield _side_by_side(shown.owners, shown.models, middle, width)
        yield self._story(story, width)
        yield self._keys(width)

    def _title(self, width: int) -> Text:
        shown = self._snapshot
        title = Text("memory worker", style="bold")
        title.append_text(words(f" {shown.worker}"))
        if shown.uptime_ms is not None:
            title.append(f" · up {duration(shown.uptime_ms)}")
        if shown.process_bytes is not None:
            title.append(f" · takes {mebibytes(shown.process_bytes)}")
        if shown.child_bytes:
            title.append(f", its processes {mebibytes(shown.child_bytes)}")
        title.append_text(words(f" · {shown.source}", "dim"))
        mark = "  ENDED" if shown.ended else "  PAUSED" if self._paused else ""
        title.truncate(width - len(mark), overflow="ellipsis")
        return title.append(mark, style="bold red" if shown.ended else "bold yellow")

    def _story(self, lines: int, width: int) -> RenderableType:
        table = _table(width)
        table.add_column("ago", width=7, justify="right", no_wrap=True)
        where = _place_width((row.device_id for row in self._snapshot.happenings[:lines]), width // 2)
        table.add_column("where", width=where, no_wrap=True, overflow="ellipsis")
        table.add_column("decisions and events", ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column("why", ratio=4, no_wrap=True, overflow="ellipsis")
        for row in self._snapshot.happenings[:lines]:
            title = f"{row.count}× {row.title}" if row.count > 1 else row.title  # noqa: RUF001 - the sign for times
            when = Text(duration(max(0, (self._snapshot.uptime_ms or 0) - row.t_ms)), style="dim")
            style = _SEVERITY_STYLES[row.severity]
            table.add_row(when, words(row.device_id), words(title, style), words(row.reason))
        blank = max(0, lines - len(self._snapshot.happenings))
        return Group(table, *[Text("")] * blank)

    def _keys(self, width: int) -> Text:
        text = Text("q quit · space pause", style="dim")
        text.truncate(width)
        return text


def _devices(lines: Iterable[Line], width: int, more: str, *, plain: bool, of_nodes: bool = False) -> Table:
    """Draw the devices. Ids of a fleet's are long: where there is little width, budgets and half of a bar make way."""
    lines = tuple(lines)
    narrow = of_nodes and width < _WIDE
    table = _table(width)
    head = f"device{more}"
    if of_nodes:
        longest = max(len(head), *(len(line.label) for line in lines))
        table.add_column(head, width=min(longest, width // 3), no_wrap=True, overflow="ellipsis")
    else:
        table.add_column(head, ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("level", width=8, no_wrap=True)
    bar = 5 if narrow else 11
    table.add_column("in use" if narrow else "budget in use", width=bar + 6, no_wrap=True)  # by all processes
    for name in ("ours", "free") if narrow else ("ours", "free", "budget"):
        table.add_column(name, width=9, justify="right", no_wrap=True)
    table.add_column("trend", ratio=2, no_wrap=True, overflow="ellipsis")
    for line in lines:
        row = line.row
        level = row.level if row.state == "available" else row.state
        style = _LEVEL_STYLES.get(level, "bold red" if row.state != "available" else "")
        trend = Text(trend_of(row, brief=width < _WIDE))
        if width >= _WIDE:
            trend.append(
                " " + curve(row.curve, _PLAIN_CURVE if plain else _CURVE, _CURVE_WIDTH), style="cyan"
            )
        sizes = (row.own_bytes, row.available_bytes, row.budget_bytes)
        table.add_row(
            words(line.label, "bold" if line.begins_node else ""),
            words(level, style),
            _bar(row.percentage, bar, style, plain=plain),
            *map(size, sizes[:2] if narrow else sizes),
            trend,
        )
    return table


def _nodes_left_out(count: int) -> str:
    return f" +{count:,} nodes" if count else ""


def _line(text: str, width: int) -> Text:
    line = Text(text)
    line.truncate(width, overflow="ellipsis")
    return line


def _place_width(device_ids: Iterable[str], width: int) -> int:
    """Return the width of a column of devices beside others: six characters, more where ids name nodes."""
    longest = max((len(each) for each in device_ids if node_of(each) is not None), default=0)
    return max(6, min(longest, width // 3))


def _side_by_side(
    owners: tuple[OwnerRow, ...], models: tuple[ModelRow, ...], lines: int, width: int
) -> Table:
    half = (width - 2) // 2
    left = _table(half)
    left.add_column(_head("owner", len(owners), lines), ratio=1, no_wrap=True, overflow="ellipsis")
    place = _place_width((owner.device_id for owner in owners[:lines]), half)
    left.add_column("device", width=place, no_wrap=True, overflow="ellipsis")
    left.add_column("n", width=5, justify="right", no_wrap=True)
    left.add_column("size", width=9, justify="right", no_wrap=True)
    for owner in owners[:lines]:
        left.add_row(
            words(owner.owner),
            words(owner.device_id),
            "" if owner.allocation_count is None else f"{owner.allocation_count}",
            size(owner.allocated_bytes),
        )
    for _ in range(lines - len(owners)):
        left.add_row("")
    right = _table(width - 2 - half)
    right.add_column(_head("model", len(models), lines), ratio=1, no_wrap=True, overflow="ellipsis")
    right.add_column("state", width=9, no_wrap=True)
    right.add_column("size", width=9, justify="right", no_wrap=True)
    right.add_column("goes", width=6, justify="right", no_wrap=True)
    for model in models[:lines]:
        state = words(model.state, _STATE_STYLES.get(model.state, "dim"))
        right.add_row(_named(model), state, size(model.size_bytes), _going(model))
    both = Table.grid(padding=(0, 2, 0, 0))
    both.add_row(left, right)
    return both


def _named(model: ModelRow) -> Text:
    """Name a model, in a fleet with its place: there may be several of one."""
    name = words(model.model_id)
    return (
        name.append_text(words(f" {model.device_id}", "dim")) if NODE_SEPARATOR in model.device_id else name
    )


def _head(name: str, count: int, lines: int) -> str:
    return name if count <= lines else f"{name} +{count - lines}"


def _going(model: ModelRow) -> Text:
    """Say when a model goes by itself, or why it does not."""
    if model.in_use:
        return Text(f"{model.in_use} use", style="green")
    if model.pinned:
        return Text("pinned")
    if model.state != "loaded" or model.expires_in_ms is None:
        return Text("")
    return Text(duration(model.expires_in_ms), style="dim")


def _bar(percentage: float | None, width: int, style: str, *, plain: bool) -> Text:
    if percentage is None:
        return Text("unknown", style="dim")
    full = round(min(100.0, percentage) / 100 * width)
    text = Text(("#" if plain else "█") * full, style=style)
    text.append(("." if plain else "░") * (width - full), style="dim")
    return text.append(f" {percentage:4.0f}%")


def words(text: str, style: str = "") -> Text:
    """Write what comes from outside: neither markup, nor anything that a terminal would obey."""
    return Text("".join(each if each.isprintable() else "�" for each in text), style=style)


def trend_of(row: DeviceRow, *, brief: bool = False) -> str:
    """Say where a device is heading; nothing where it is unknown. ``brief``: the end, or else the speed.

    What is demoted is slow now, which comes before all that.
    """
    if row.demoted_bytes:
        return f"{size(row.demoted_bytes)} demoted"
    if row.bytes_per_second is None:
        return ""
    if row.seconds_left is not None:
        text = f"full in {duration(int(row.seconds_left * 1000))}"
        return text if brief else f"{text}, {rate(row.bytes_per_second)}"
    if abs(row.bytes_per_second) * 60 < _STEADY_SHARE * (row.budget_bytes or 0):
        return "steady"
    return rate(row.bytes_per_second)


def curve(values: tuple[int, ...], marks: str, width: int = 20) -> str:
    """Draw the last values as one line of blocks, from nothing to the most there was."""
    last = values[-width:]
    most = max(last, default=0)
    return "".join(marks[min(7, value * 8 // (most + 1))] for value in last) if most else ""


def size(value: int | None) -> str:
    """Write a size in at most nine characters."""
    return "unknown" if value is None else mebibytes(value)


def _table(width: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, width=width, header_style="reverse")
    table.show_footer = False
    return table
