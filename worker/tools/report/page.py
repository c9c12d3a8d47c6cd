"""One HTML page that needs nothing else: the data, the tables as text, and the script that draws."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

from worker.tools.report.nodes import OWNERS_MOST, drawn_devices, in_order, is_fleet, nodes_section
from worker.tools.report.recording import ModelLane, Recording
from worker.tools.report.samples import FIGURES, OTHERS, RANK, DeviceSamples
from worker.tools.report.words import UNKNOWN, mebibytes

_FOLDER = Path(__file__).parent
_OWNERS_DRAWN = 8
"""As many colours as can be told apart; the others are one layer."""
_NO_OWNER = "(no owner)"


def render(recording: Recording, name: str) -> str:
    """Write the page of a record; ``name`` is the file's."""
    data = json.dumps(page_data(recording), separators=(",", ":")).replace("<", "\\u003c")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(name)} · memory report</title>
<style>{_read("page.css")}</style>
</head>
<body>
<header>
<div><h1>Memory report</h1><p class="sub">{escape(_about(recording, name))}</p></div>
<div class="tools"><button id="reset" type="button" disabled>Whole time</button>
<button id="theme" type="button" aria-label="Switch between dark and light">Dark / light</button></div>
</header>
<main>
{_summary(recording)}
<p class="hint">Drag across a chart to look closer; with the keyboard: Tab to a chart, ← → move, + &minus; look closer or
back.</p>
<noscript><p class="notice">The charts are drawn by a script, which is turned off here. The tables below hold
without it.</p></noscript>
{_not_drawn(recording)}<div id="charts"></div>
<section><h2>Decisions and events</h2>
<div class="filters" id="filters"></div>
{_happenings(recording)}</section>
<section><h2>Owners</h2>{_owners(recording)}</section>
{_models(recording)}
{_actions(recording)}
</main>
<footer>{escape(_footnote(recording))}</footer>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="data">{data}</script>
<script>{_read("page.js")}</script>
</body>
</html>
"""


def page_data(recording: Recording) -> dict[str, Any]:
    """Return what the script draws from: times in ms since the first line, sizes in bytes, null for unknown."""
    first = recording.first_ms or 0
    peaks: dict[str | None, int] = {}
    for device in recording.devices.values():
        for owner, size in device.owner_peaks.items():
            peaks[owner] = peaks.get(owner, 0) + size
    drawn = sorted((owner for owner in peaks if owner != OTHERS), key=lambda owner: -peaks[owner])[
        :_OWNERS_DRAWN
    ]
    return {
        "start": _epoch_ms(recording),
        "span": max(1, recording.last_ms - first),
        "owners": [owner or _NO_OWNER for owner in drawn],
        "devices": [
            _device(name, recording.devices[name], first, drawn) for name in drawn_devices(recording.devices)
        ],
        "models": [_lane(name, each, first) for name, each in sorted(recording.models.items())],
        "happenings": [
            [row.t_ms - first, row.kind, row.device_id, row.title, row.reason, row.severity, row.count]
            for row in recording.happenings.told()
        ],
    }


def _device(device_id: str, device: DeviceSamples, first_ms: int, drawn: list[str | None]) -> dict[str, Any]:
    layers: dict[str, list[int]] = {owner or _NO_OWNER: [] for owner in drawn if owner in device.owner_peaks}
    rest: list[int] = []
    for sample in device.samples:
        owners = sample["owners"]
        for owner in drawn:
            if owner in device.owner_peaks:
                layers[owner or _NO_OWNER].append(owners.get(owner, 0))
        rest.append(sum(size for owner, size in owners.items() if owner not in drawn))
    if any(rest):
        layers["(other owners)"] = rest
    return {
        "id": device_id,
        "t": [sample["t_ms"] - first_ms for sample in device.samples],
        "owners": [[name, sizes] for name, sizes in layers.items()],
        "levels": [[at - first_ms, level] for at, level in device.levels],
        "trend": [sample["trend"] for sample in device.samples],
        "signals": [sample["signals"] for sample in device.samples],
        "forecasts": [
            [
                at - first_ms,
                data["seconds_to_exhaustion"],
                data.get("low_seconds"),
                data.get("high_seconds"),
                data.get("available_bytes"),
            ]
            for at, data in device.forecasts
        ],
    } | {name: [sample[name] for sample in device.samples] for name in FIGURES}


def _lane(model_id: str, lane: ModelLane, first_ms: int) -> dict[str, Any]:
    spans = [
        [
            max(0, span.load_start_ms - first_ms),
            span.start_ms - first_ms,
            None if span.end_ms is None else span.end_ms - first_ms,
            span.device_id,
            span.size_bytes,
            span.reason,
        ]
        for span in lane.spans
    ]
    return {"id": model_id, "spans": spans, "uses": [at - first_ms for at in lane.uses_ms]}


# ---- as text, for those who read no charts ----


def _summary(recording: Recording) -> str:
    cards = []
    fleet = is_fleet(recording.devices)
    for device_id, device in () if fleet else recording.devices.items():
        last = device.samples[-1]
        peak = max((sample["peak_bytes"] or 0 for sample in device.samples), default=0)
        held = max((sample["model_bytes"] or 0 for sample in device.samples), default=0)
        used = max(
            (sample["used_bytes"] for sample in device.samples if sample["used_bytes"] is not None),
            default=None,
        )
        worst = max((level for _, level in device.levels), key=RANK.index)
        facts = [
            ("budget", _size(last["budget_bytes"])),
            ("in use at most, by all processes", _size(used)),
            ("allocated here at most", _size(peak)),
            ("models here at most", _size(held)),
            ("worst level", f'<span class="level {worst}">{worst}</span>'),
        ]
        rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
        cards.append(f'<section class="card"><h2>{escape(device_id)}</h2><dl>{rows}</dl></section>')
    evictions = sum(row.kind == "evict" for row in recording.happenings.told())
    automatic = sum(row.kind == "automatic" for row in recording.happenings.told())
    failed = sum(row.count for row in recording.happenings.told() if row.kind == "refused")
    facts = [
        ("models loaded", f"{sum(lane.load_count for lane in recording.models.values()):,}"),
        ("models went", f"{evictions:,}"),
        ("requests failed", f"{failed:,}"),
        ("freed memory by itself", f"{automatic:,}"),
        ("uses of models", f"{sum(lane.use_count for lane in recording.models.values()):,}"),
    ]
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    cards.append(f'<section class="card"><h2>What happened</h2><dl>{rows}</dl></section>')
    return f'<div class="cards">{"".join(cards)}</div>{nodes_section(recording.devices) if fleet else ""}'


def _not_drawn(recording: Recording) -> str:
    drawn, there = len(drawn_devices(recording.devices)), len(recording.devices)
    return (
        ""
        if drawn == there
        else f'<p class="hint">Charts are of the {drawn} tightest of {there:,} devices.</p>'
    )


def _happenings(recording: Recording) -> str:
    rows = recording.happenings.told()
    if not rows:
        return "<p>Nothing was decided, refused or told of.</p>"
    first = recording.first_ms or 0
    body = "".join(
        f'<tr id="h{index}" data-kind="{escape(row.kind)}" data-t="{row.t_ms - first}" class="s{row.severity}">'
        f'<td class="time">{escape(_clock(recording, row.t_ms))}</td><td>{escape(row.kind)}</td>'
        f"<td>{escape(row.device_id)}</td><td>{escape(row.title)}"
        f"{f' <b>×{row.count}</b>' if row.count > 1 else ''}</td><td>{escape(row.reason)}</td></tr>"  # noqa: RUF001 - the sign for times
        for index, row in enumerate(rows)
    )
    note = ""
    if recording.happenings.left_out:
        note = f"<p>{recording.happenings.left_out:,} of the mildest are left out.</p>"
    heads = ("time", "kind", "device", "what", "why")
    return f'<div class="scroll">{_table(heads, body, "happenings")}</div>{note}'


def _owners(recording: Recording) -> str:
    rows = []
    for device_id in in_order(recording.devices):
        device = recording.devices[device_id]
        for row in device.last.get("owners", ()):
            freed = row["made_bytes"] - row["allocated_bytes"]
            owner = f"{row['others']} others" if "others" in row else row["owner"] or _NO_OWNER
            peak = device.owner_peaks.get(OTHERS if "others" in row else row["owner"], 0)
            figures = (row["allocated_bytes"], peak, row["made_bytes"], freed)
            cells = "".join(f"<td class=n>{_size(figure)}</td>" for figure in figures)
            counts = f"<td class=n>{row['allocation_count']:,} of {row['made_count']:,}</td>"
            rows.append(f"<tr><td>{escape(device_id)}</td><td>{escape(str(owner))}</td>{cells}{counts}</tr>")
    if not rows:
        return "<p>No owner allocated anything.</p>"
    left_out = len(rows) - OWNERS_MOST
    note = f"<p>{left_out:,} more are left out.</p>" if left_out > 0 else ""
    heads = (
        "device",
        "owner",
        "at the end",
        "most in a sample",
        "ever allocated",
        "freed",
        "live allocations",
    )
    return _table(heads, "".join(rows[:OWNERS_MOST])) + note


def _models(recording: Recording) -> str:
    if not recording.models:
        return ""
    rows = []
    for model_id, lane in sorted(recording.models.items()):
        loaded = lane.spans
        resident = sum((span.end_ms or recording.last_ms) - span.start_ms for span in loaded)
        loading = sum(span.start_ms - span.load_start_ms for span in loaded)
        size = max((span.size_bytes for span in loaded), default=None)
        rows.append(
            f"<tr><td>{escape(model_id)}</td><td>{escape(str(lane.state.get('state') or ''))}</td>"
            f"<td class=n>{_size(size)}</td><td class=n>{lane.load_count:,}</td><td class=n>{lane.use_count:,}</td>"
            f"<td class=n>{loading / 1000:,.1f} s</td><td class=n>{_span(resident)}</td></tr>"
        )
    heads = ("model", "at the end", "size", "loads", "uses", "spent loading", "resident for")
    return f"<section><h2>Models</h2>{_table(heads, ''.join(rows))}</section>"


def _actions(recording: Recording) -> str:
    if not recording.actions:
        return ""
    rows = []
    for row in recording.actions:
        times = "".join(
            f"<td class=n>{_microseconds(row.get(key))}</td>" for key in ("p50_us", "p95_us", "p99_us")
        )
        grown = f"<td class=n>{_size(row.get('peak_bytes'))}</td>"
        rows.append(
            f"<tr><td>{escape(str(row['action']))}</td><td class=n>{row['count']:,}</td>"
            f"<td class=n>{row['errors']:,}</td>{times}{grown}</tr>"
        )
    heads = ("action", "count", "errors", "p50", "p95", "p99", "peak growth")
    return f"<section><h2>Actions</h2>{_table(heads, ''.join(rows))}</section>"


def _table(heads: Iterable[str], body: str, name: str = "") -> str:
    row = "".join(f'<th scope="col">{head}</th>' for head in heads)
    identity = f' id="{name}"' if name else ""
    return f"<table{identity}><thead><tr>{row}</tr></thead><tbody>{body}</tbody></table>"


def _about(recording: Recording, name: str) -> str:
    span = _span(recording.last_ms - (recording.first_ms or 0))
    began = (recording.started or "an unknown time").replace("T", " ").removesuffix("Z") + " UTC"
    who = (
        f"worker {recording.worker_version}, process {recording.pid}"
        if recording.worker_version
        else "worker"
    )
    end = "ended in order" if recording.ended else "its end is not in the record"
    return f"{name} · {who} · {span} from {began} · {end}"


def _footnote(recording: Recording) -> str:
    notes = [f"{recording.lines:,} lines read"]
    if recording.unreadable:
        notes.append(f"{recording.unreadable:,} could not be read")
    if recording.dropped:
        notes.append(f"{recording.dropped:,} notes were dropped while the disk was too slow")
    return "; ".join(notes) + ". Sizes are binary units; times are UTC."


def _epoch_ms(recording: Recording) -> int:
    """Return the time of the first line since the epoch; 0 where the record does not say."""
    if recording.started is None:
        return 0
    began = datetime.fromisoformat(recording.started)
    return round(began.timestamp() * 1000) + (recording.first_ms or 0) - recording.started_ms


def _clock(recording: Recording, t_ms: int) -> str:
    if recording.started is None:
        return f"{(t_ms - (recording.first_ms or 0)) / 1000:,.1f} s"
    at = datetime.fromisoformat(recording.started) + timedelta(milliseconds=t_ms - recording.started_ms)
    return at.strftime("%H:%M:%S.") + f"{at.microsecond // 100_000}"


def _size(value: int | None) -> str:
    return UNKNOWN if value is None else mebibytes(value)


def _microseconds(value: int | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:,} µs" if value < 10_000 else f"{value / 1000:,.1f} ms"  # noqa: PLR2004 - ten milliseconds


def _span(milliseconds: int) -> str:
    text = str(timedelta(seconds=milliseconds // 1000))
    return f"{milliseconds / 1000:.1f} s" if milliseconds < 60_000 else text  # noqa: PLR2004 - a minute


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
