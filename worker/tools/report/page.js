"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const LEFT = 112, RIGHT = 14;
  const SEVERITY = ["var(--soft)", "var(--moderate)", "var(--high)", "var(--critical)"];
  const view = { from: 0, to: data.span };
  const charts = [];
  const tip = document.getElementById("tip");

  // ---- words ----
  const size = (n) => {
    if (n === null || n === undefined) return "unknown";
    for (const [unit, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
      if (Math.abs(n) >= unit) return (n / unit).toFixed(n / unit < 100 ? 1 : 0) + " " + name;
    return n + " B";
  };
  const pad = (n, width = 2) => String(n).padStart(width, "0");
  const clock = (t, fine) => {
    if (!data.start) return (t / 1000).toFixed(fine ? 1 : 0) + " s";
    const d = new Date(data.start + t);
    const text = `${pad(d.getUTCHours())}:${pad(d.getUTCMinutes())}:${pad(d.getUTCSeconds())}`;
    return fine ? `${text}.${pad(d.getUTCMilliseconds(), 3)}` : text;
  };
  const el = (name, attributes = {}, text) => {
    const node = document.createElementNS(NS, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const html = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    node.append(...children);
    return node;
  };

  // ---- scales ----
  const scaleX = (width) => (t) => LEFT + ((t - view.from) / (view.to - view.from)) * (width - LEFT - RIGHT);
  const timeAt = (x, width) => view.from + ((x - LEFT) / (width - LEFT - RIGHT)) * (view.to - view.from);
  const clampTime = (t) => Math.min(view.to, Math.max(view.from, t));
  const timeTicks = (width) => {
    const wanted = (view.to - view.from) / Math.max(2, (width - LEFT) / 130);
    const steps = [100, 200, 500, 1e3, 2e3, 5e3, 1e4, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5, 144e5, 432e5, 864e5];
    const step = steps.find((each) => each >= wanted) || 864e5;
    const ticks = [];
    for (let t = Math.ceil((data.start + view.from) / step) * step - data.start; t <= view.to; t += step) ticks.push(t);
    return [ticks, step < 1000];
  };
  const sizeTicks = (most) => {
    const unit = 2 ** Math.floor(Math.log2(Math.max(1, most / 4)));
    const step = most / unit > 6 ? unit * 2 : unit;
    const ticks = [];
    for (let n = 0; n <= most; n += step) ticks.push(n);
    return ticks;
  };
  const indexAt = (times, t) => {
    let low = 0, high = times.length - 1;
    while (low < high) { const middle = (low + high + 1) >> 1; if (times[middle] <= t) low = middle; else high = middle - 1; }
    return low;
  };
  const drawTimeAxis = (svg, width, top, bottom) => {
    const x = scaleX(width), [ticks, fine] = timeTicks(width);
    for (const t of ticks) {
      svg.append(el("line", { class: "grid", x1: x(t), x2: x(t), y1: top, y2: bottom }));
      svg.append(el("text", { x: x(t), y: bottom + 15, "text-anchor": x(t) > width - 40 ? "end" : "middle" }, clock(t, fine)));
    }
  };

  // ---- what each device's chart is made of ----
  // The same owner has the same colour everywhere.
  const colorOf = (owner) => {
    const index = data.owners.indexOf(owner);
    return index < 0 ? "var(--crest)" : `var(--c${index % 8})`;
  };
  const layersOf = (device) => {
    const layers = [];
    const has = (values) => values.some((value) => value);
    device.owners.forEach(([name, values]) => layers.push({ name, values, color: colorOf(name) }));
    if (has(device.model_bytes)) layers.push({ name: "models", values: device.model_bytes, color: "var(--cmodel)" });
    if (has(device.cached_bytes)) layers.push({ name: "kept for reuse", values: device.cached_bytes, color: "var(--ccache)" });
    return layers;
  };

  // A point lasts until the next: memory moves in steps.
  const stepPath = (times, values, x, y, last) => {
    let path = "", open = false;
    for (let i = 0; i < times.length; i++) {
      if (values[i] === null) { open = false; continue; }
      const end = i + 1 < times.length ? times[i + 1] : last;
      if (end < view.from || times[i] > view.to) { open = false; continue; }
      const from = x(clampTime(times[i])).toFixed(1), to = x(clampTime(end)).toFixed(1), at = y(values[i]).toFixed(1);
      path += `${open ? "L" : "M"}${from} ${at}L${to} ${at}`;
      open = true;
    }
    return path;
  };
  const areaPath = (times, bottoms, tops, x, y, last) => {
    const there = [], back = [];
    for (let i = 0; i < times.length; i++) {
      const end = i + 1 < times.length ? times[i + 1] : last;
      if (end < view.from || times[i] > view.to) continue;
      const from = x(clampTime(times[i])).toFixed(1), to = x(clampTime(end)).toFixed(1);
      there.push(`${from} ${y(tops[i]).toFixed(1)}L${to} ${y(tops[i]).toFixed(1)}`);
      back.push(`${to} ${y(bottoms[i]).toFixed(1)}L${from} ${y(bottoms[i]).toFixed(1)}`);
    }
    return there.length ? `M${there.join("L")}L${back.reverse().join("L")}Z` : "";
  };

  const deviceChart = (device) => {
    const layers = layersOf(device), height = 292, top = 26, bottom = height - 34;
    const totals = device.t.map((_, i) => layers.reduce((sum, layer) => sum + (layer.values[i] || 0), 0));
    const box = html("div", { class: "chart" });
    const whole = html("input", { type: "checkbox" });
    const legend = html("div", { class: "legend" });
    const entry = (name, style, dash) => legend.append(html("span", {}, html("i", { style, class: dash ? "dash" : "" }), name));
    layers.forEach((layer) => entry(layer.name, `background:${layer.color}`));
    entry("most in between", "border-color:var(--ink)", true);
    entry("budget", "border-color:var(--budget)", true);
    if (device.limit_bytes.some((n) => n !== null)) entry("limit", "border-color:var(--limit)", true);
    if (device.forecasts.length) entry("foretold", "border-color:var(--high)", true);
    if (data.happenings.some((row) => row[1] === "automatic" && row[2] === device.id))
      legend.append(html("span", {}, html("i", { class: "diamond" }), "freed memory by itself"));
    box.append(html("div", { class: "head" }, html("h2", {}, device.id), legend, html("label", {}, whole, " up to the budget")));
    const svg = el("svg", { height, tabindex: "0", role: "img",
      "aria-label": `Memory of ${device.id} over time by owner, with its budget and pressure levels` });
    box.append(svg);
    const most = () => {
      let found = 1;
      for (let i = 0; i < device.t.length; i++) {
        const end = i + 1 < device.t.length ? device.t[i + 1] : data.span;
        if (end < view.from || device.t[i] > view.to) continue;
        const above = Math.max(0, (device.peak_bytes[i] || 0) - (device.allocated_bytes[i] || 0));
        found = Math.max(found, totals[i] + above);
      }
      const budget = Math.max(0, ...device.budget_bytes.map((n) => n || 0), ...device.limit_bytes.map((n) => n || 0));
      return whole.checked || budget < found * 2.2 ? Math.max(found, budget) * 1.04 : found * 1.15;
    };
    const draw = () => {
      const width = box.clientWidth - 28, x = scaleX(width), highest = most();
      const y = (n) => bottom - (n / highest) * (bottom - top);
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.replaceChildren();
      drawTimeAxis(svg, width, top, bottom + 10);
      for (const n of sizeTicks(highest)) {
        svg.append(el("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(n), y2: y(n) }));
        svg.append(el("text", { x: LEFT - 6, y: y(n) + 4, "text-anchor": "end" }, size(n)));
      }
      let below = device.t.map(() => 0);
      for (const layer of layers) {
        const above = below.map((n, i) => n + (layer.values[i] || 0));
        svg.append(el("path", { d: areaPath(device.t, below, above, x, y, data.span), fill: layer.color, "fill-opacity": .88, class: "layer" }));
        below = above;
      }
      // What was only there between two samples sits on top of everything.
      const peaks = totals.map((n, i) => {
        const over = (device.peak_bytes[i] || 0) - (device.allocated_bytes[i] || 0);
        return over > 0 ? n + over : null;
      });
      svg.append(el("path", { d: stepPath(device.t, peaks, x, y, data.span), fill: "none", stroke: "var(--ink)", "stroke-dasharray": "2 3", "stroke-width": 1.2 }));
      const line = (values, color, name, dash) => {
        const shown = values.map((n) => (n !== null && n <= highest ? n : null));
        const known = values.filter((n) => n !== null);
        if (!known.length) return 0;
        if (shown.some((n) => n !== null))
          svg.append(el("path", { d: stepPath(device.t, shown, x, y, data.span), fill: "none", stroke: color, "stroke-width": 1.6, "stroke-dasharray": dash }));
        else {
          // A line that lies above the chart still says that it moved.
          const moves = known.filter((n, i) => i === 0 || Math.abs(n - known[i - 1]) > 0.01 * known[i - 1]);
          return `${name} ${moves.slice(-4).map(size).join(" → ")} is above`;
        }
        return 0;
      };
      const off = [line(device.budget_bytes, "var(--budget)", "budget", "7 4"), line(device.limit_bytes, "var(--limit)", "limit", "3 3")];
      off.filter(Boolean).forEach((text, index) =>
        svg.append(el("text", { x: width - RIGHT - 4, y: top + 12 + 14 * index, "text-anchor": "end" }, "↑ " + text)));
      drawForecasts(svg, device, totals, x, y, highest);
      drawLevels(svg, device, x, bottom + 2, 8);
      drawMarks(svg, device.id, x, top);
      svg.append(el("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: bottom, y2: bottom }));
    };
    const tell = (t) => {
      const i = indexAt(device.t, t), rows = [];
      layers.filter((layer) => layer.values[i]).forEach((layer) => rows.push([layer.name, size(layer.values[i]), layer.color]));
      if ((device.peak_bytes[i] || 0) > (device.allocated_bytes[i] || 0)) rows.push(["most in between", size(device.peak_bytes[i])]);
      rows.push(["available", size(device.available_bytes[i])], ["this process", size(device.process_used_bytes[i])],
        ...(device.child_process_bytes[i] ? [["its child processes", size(device.child_process_bytes[i])]] : []),
        ...(device.process_demoted_bytes[i] ? [["demoted", size(device.process_demoted_bytes[i])]] : []),
        ["all processes", size(device.used_bytes[i])], ["budget", size(device.budget_bytes[i])],
        ["level", levelAt(device, t)]);
      device.signals[i].forEach((text) => rows.push(["because of", text]));
      const [rate, seconds, low, high] = device.trend[i] || [];
      if (seconds !== undefined && seconds !== null)
        rows.push(["full in", `${seconds.toFixed(0)} s` + (low === null ? "" : ` (${low.toFixed(0)} to ${high.toFixed(0)} s)`)]);
      if (rate) rows.push(["trend", `${rate > 0 ? "+" : "−"}${size(Math.abs(Math.round(rate)))}/s`]);
      return [`${device.id} at ${clock(t, true)}`, rows, nearby(device.id, t)];
    };
    whole.addEventListener("change", draw);
    return { box, svg, draw, tell, top, bottom: bottom + 10 };
  };

  const levelAt = (device, t) => {
    let found = "unknown";
    for (const [at, level] of device.levels) if (at <= t) found = level;
    return found;
  };
  const drawLevels = (svg, device, x, top, height) => {
    device.levels.forEach(([at, level], i) => {
      const end = i + 1 < device.levels.length ? device.levels[i + 1][0] : data.span;
      if (end < view.from || at > view.to) return;
      const from = x(clampTime(at)), to = x(clampTime(end));
      const band = el("rect", { x: from, y: top, width: Math.max(1, to - from), height, fill: `var(--${level})`, class: "band" });
      band.append(el("title", {}, `${level} from ${clock(at, true)} to ${clock(end, true)}`));
      svg.append(band);
      // Not by colour alone: the name stands in the band where it fits.
      if (to - from > 60) svg.append(el("text", { x: from + 4, y: top + height - 1, style: "font-size:9px;fill:var(--card);font-weight:600" }, level));
    });
  };
  // Where it was said to be full: from the use of then up to the room of then, with the interval at the end.
  const drawForecasts = (svg, device, totals, x, y, highest) => {
    device.forecasts.forEach(([t, seconds, low, high, room], n) => {
      if (t < view.from || t > view.to || room === null) return;
      const next = n + 1 < device.forecasts.length ? device.forecasts[n + 1][0] : Infinity;
      const used = totals[indexAt(device.t, t)], full = used + room, end = t + seconds * 1000;
      // Up to the edge of the chart, or to where it was said anew.
      const share = Math.min(1, (Math.min(view.to, next) - t) / (end - t), room ? Math.max(0, (highest - used) / room) : 1);
      const line = el("path", { d: `M${x(t)} ${y(used)}L${x(t + share * (end - t))} ${y(used + share * room)}`, class: "forecast" });
      line.append(el("title", {}, `said at ${clock(t, true)}: full at ${clock(end, true)}`));
      svg.append(line);
      if (share === 1 && low !== null && high !== null)
        svg.append(el("path", { d: `M${x(clampTime(t + low * 1000))} ${y(full) - 4}v8m0-4H${x(clampTime(t + high * 1000))}m0-4v8`, class: "interval" }));
    });
  };
  const nearby = (where, t) => {
    const reach = (view.to - view.from) / 160;
    return data.happenings.filter((row) => Math.abs(row[0] - t) <= reach && (row[2] === where || row[2] === "" || where === null)).slice(0, 4);
  };
  const drawMarks = (svg, where, x, top) => {
    let lastX = -99, lastSeverity = -1;
    data.happenings.forEach(([t, kind, device, title, reason, severity, count], index) => {
      if ((device !== where && device !== "") || t < view.from || t > view.to) return;
      // The others are in the lanes, the band and the table; there are too many of them to mark here.
      if (kind === "load" || kind === "expired" || kind === "level") return;
      const at = x(t);
      if (at - lastX < 4 && severity <= lastSeverity && kind !== "automatic") return;
      lastX = at; lastSeverity = severity;
      const automatic = kind === "automatic";
      const shape = automatic ? `M${at} ${top - 16}l6 6l-6 6l-6-6z` : `M${at - 4} ${top - 12}h8l-4 8z`;
      const mark = el("path", { d: shape, fill: automatic ? "var(--accent)" : SEVERITY[severity], class: automatic ? "mark automatic" : "mark", style: "cursor:pointer" });
      mark.append(el("title", {}, `${clock(t, true)} ${title}${count > 1 ? " ×" + count : ""}${reason ? "\n" + reason : ""}`));
      mark.addEventListener("click", () => show(index));
      svg.append(mark);
      if (severity >= 2 || automatic || kind === "budget") svg.append(el("line", { x1: at, x2: at, y1: top - 4, y2: svg.viewBox.baseVal.height - 34, stroke: automatic ? "var(--accent)" : SEVERITY[severity], "stroke-opacity": .35 }));
    });
  };

  const modelChart = () => {
    const row = 26, top = 8, bottom = top + data.models.length * row, height = bottom + 24;
    const box = html("div", { class: "chart" });
    const legend = html("div", { class: "legend" });
    const colors = {};
    data.devices.forEach((device, index) => { colors[device.id] = `var(--d${index % 4})`; });
    for (const id in colors) legend.append(html("span", {}, html("i", { style: `background:${colors[id]}` }), `on ${id}`));
    legend.append(html("span", {}, html("i", { style: "background:var(--ccache)" }), "loading"), html("span", {}, "│ a use"), html("span", {}, "✕ went"));
    box.append(html("div", { class: "head" }, html("h2", {}, "Models"), legend));
    const svg = el("svg", { height, tabindex: "0", role: "img", "aria-label": "When each model was loading, loaded and used" });
    box.append(svg);
    const draw = () => {
      const width = box.clientWidth - 28, x = scaleX(width);
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.replaceChildren();
      drawTimeAxis(svg, width, top, bottom);
      data.models.forEach((model, index) => {
        const y = top + index * row;
        svg.append(el("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y + row, y2: y + row }));
        for (const [begin, from, end, device, bytes, reason] of model.spans) {
          const last = end === null ? data.span : end;
          if (last < view.from || begin > view.to) continue;
          const start = x(clampTime(begin)), ready = x(clampTime(from)), to = x(clampTime(last));
          if (ready > start) svg.append(el("rect", { x: start, y: y + 9, width: ready - start, height: row - 13, fill: "var(--ccache)" }));
          const bar = el("rect", { x: ready, y: y + 5, width: Math.max(1.5, to - ready), height: row - 9, rx: 2, fill: colors[device] || "var(--crest)", "fill-opacity": .8, class: "lane" });
          bar.append(el("title", {}, `${model.id} on ${device}, ${size(bytes)}\n${clock(from, true)} to ${end === null ? "the end" : clock(end, true)}\nloading took ${from - begin} ms${reason ? "\n" + reason : ""}`));
          svg.append(bar);
          if (end !== null && end >= view.from && end <= view.to && reason && !reason.includes("worker ends")) {
            const gone = el("text", { x: to, y: y + row / 2 + 5, "text-anchor": "middle", style: "fill:var(--critical);font-weight:700;font-size:12px" }, "✕");
            gone.append(el("title", {}, reason));
            svg.append(gone);
          }
        }
        let path = "", lastX = -9;
        for (const t of model.uses) {
          if (t < view.from || t > view.to) continue;
          const at = x(t);
          if (at - lastX < 1.5) continue;
          lastX = at; path += `M${at.toFixed(1)} ${y + 6}v${row - 11}`;
        }
        if (path) svg.append(el("path", { d: path, stroke: "var(--card)", "stroke-width": 1, fill: "none" }));
      });
      data.models.forEach((model, index) => {
        const short = model.id.length > 17 ? model.id.slice(0, 16) + "…" : model.id;
        const label = el("text", { class: "name", x: LEFT - 8, y: top + index * row + 18, "text-anchor": "end" }, short);
        label.append(el("title", {}, model.id));
        svg.append(label);
      });
    };
    const tell = (t, _x, py) => {
      const model = data.models[Math.floor((py - top) / row)];
      if (!model) return null;
      const span = model.spans.find(([begin, , end]) => begin <= t && (end === null ? data.span : end) >= t);
      const rows = [["state", span ? (t < span[1] ? "loading" : "loaded") : "not loaded"]];
      if (span) { rows.push(["device", span[3]], ["size", size(span[4])]); if (span[5]) rows.push(["went because", span[5]]); }
      return [`${model.id} at ${clock(t, true)}`, rows, []];
    };
    return { box, svg, draw, tell, top, bottom };
  };

  // ---- pointing, looking closer ----
  const zoom = (from, to) => {
    const least = Math.min(200, data.span);
    const span = Math.min(data.span, Math.max(least, to - from));
    view.from = Math.max(0, Math.min(from, data.span - span));
    view.to = view.from + span;
    document.getElementById("reset").disabled = span >= data.span;
    hide();
    charts.forEach((chart) => chart.draw());
  };
  const hide = () => { tip.hidden = true; document.querySelectorAll(".cross").forEach((node) => node.remove()); };
  const crosshair = (t) => {
    document.querySelectorAll(".cross").forEach((node) => node.remove());
    for (const chart of charts) {
      const at = scaleX(chart.svg.viewBox.baseVal.width)(t);
      chart.svg.append(el("line", { class: "cross", x1: at, x2: at, y1: chart.top, y2: chart.bottom, stroke: "var(--ink)", "stroke-opacity": .5, "pointer-events": "none" }));
    }
  };
  const tellAt = (chart, t, clientX, clientY, py) => {
    const told = chart.tell(t, 0, py);
    crosshair(t);
    if (!told) { tip.hidden = true; return; }
    const [title, rows, happened] = told;
    const table = html("table");
    for (const [name, value, color] of rows) {
      const first = html("td");
      if (color) first.append(html("i", { style: `display:inline-block;width:9px;height:9px;margin-right:5px;background:${color}` }));
      first.append(name);
      table.append(html("tr", {}, first, html("td", {}, String(value))));
    }
    tip.replaceChildren(html("b", {}, title), table);
    for (const row of happened) tip.append(html("div", { style: `color:${SEVERITY[row[5]]};margin-top:4px` }, `${clock(row[0], true)} ${row[3]}`), html("div", {}, row[4]));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, clientX + 16 + box.width > innerWidth ? clientX - box.width - 12 : clientX + 16) + "px";
    tip.style.top = Math.max(4, Math.min(clientY + 12, innerHeight - box.height - 6)) + "px";
  };
  const listen = (chart) => {
    const { svg } = chart;
    let from = null, cursor = null, brush = null;
    const where = (event) => {
      const box = svg.getBoundingClientRect(), width = svg.viewBox.baseVal.width;
      return [clampTime(timeAt(((event.clientX - box.left) / box.width) * width, width)), ((event.clientY - box.top) / box.height) * svg.viewBox.baseVal.height];
    };
    svg.addEventListener("pointermove", (event) => {
      const [t, py] = where(event), x = scaleX(svg.viewBox.baseVal.width);
      if (from !== null) {
        if (!brush) { brush = el("rect", { y: chart.top, height: chart.bottom - chart.top, fill: "var(--accent)", "fill-opacity": .2 }); svg.append(brush); }
        brush.setAttribute("x", Math.min(x(from), x(t))); brush.setAttribute("width", Math.abs(x(t) - x(from)));
      }
      tellAt(chart, t, event.clientX, event.clientY, py);
    });
    svg.addEventListener("pointerleave", () => { if (from === null) hide(); });
    svg.addEventListener("pointerdown", (event) => { if (event.button === 0 && !event.target.closest(".mark")) { from = where(event)[0]; svg.setPointerCapture(event.pointerId); } });
    const end = (event) => {
      if (from === null) return;
      const [to] = where(event), begun = from, width = svg.viewBox.baseVal.width;
      from = null; brush?.remove(); brush = null;
      if (event.type === "pointerup" && Math.abs(scaleX(width)(to) - scaleX(width)(begun)) > 6) zoom(Math.min(begun, to), Math.max(begun, to));
    };
    svg.addEventListener("pointerup", end);
    svg.addEventListener("pointercancel", end);
    svg.addEventListener("keydown", (event) => {
      const span = view.to - view.from, center = cursor === null ? (view.from + view.to) / 2 : cursor;
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        cursor = Math.min(data.span, Math.max(0, center + (event.key === "ArrowLeft" ? -1 : 1) * span / 60));
        if (cursor < view.from || cursor > view.to) zoom(cursor - span / 2, cursor + span / 2);
        const box = svg.getBoundingClientRect(), width = svg.viewBox.baseVal.width;
        tellAt(chart, cursor, box.left + (scaleX(width)(cursor) / width) * box.width, box.top + 30, chart.top + 4);
      } else if (event.key === "+" || event.key === "=") zoom(center - span / 4, center + span / 4);
      else if (event.key === "-") zoom(center - span, center + span);
      else if (event.key === "Escape") { zoom(0, data.span); }
      else return;
      event.preventDefault();
    });
    svg.addEventListener("blur", hide);
  };

  // ---- the table ----
  const rows = [...document.querySelectorAll("#happenings tbody tr")];
  const show = (index) => {
    rows.forEach((row) => row.classList.remove("here"));
    const row = rows[index];
    row.hidden = false;
    row.classList.add("here");
    row.scrollIntoView({ block: "center" });
  };
  const filters = () => {
    const place = document.getElementById("filters"), kinds = [...new Set(rows.map((row) => row.dataset.kind))];
    const hidden = new Set(kinds.length > 2 ? kinds.filter((kind) => kind === "expired") : []);
    const search = html("input", { type: "search", placeholder: "search", "aria-label": "Search decisions and events" });
    const apply = () => {
      const words = search.value.toLowerCase();
      rows.forEach((row) => { row.hidden = hidden.has(row.dataset.kind) || (words && !row.textContent.toLowerCase().includes(words)); });
    };
    place.append(search);
    for (const kind of kinds) {
      const box = html("input", { type: "checkbox" });
      box.checked = !hidden.has(kind);
      box.addEventListener("change", () => { if (box.checked) hidden.delete(kind); else hidden.add(kind); apply(); });
      place.append(html("label", {}, box, ` ${kind} (${rows.filter((row) => row.dataset.kind === kind).length})`));
    }
    search.addEventListener("input", apply);
    addEventListener("afterprint", apply);
    rows.forEach((row) => {
      row.addEventListener("mouseenter", () => crosshair(clampTime(Number(row.dataset.t))));
      row.addEventListener("mouseleave", hide);
    });
    apply();
  };

  // ---- begin ----
  const place = document.getElementById("charts");
  data.devices.forEach((device) => charts.push(deviceChart(device)));
  if (data.models.length) charts.push(modelChart());
  charts.forEach((chart) => { place.append(chart.box); listen(chart); });
  if (rows.length) filters();
  document.getElementById("reset").addEventListener("click", () => zoom(0, data.span));
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  let waiting = 0;
  const redraw = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => charts.forEach((chart) => chart.draw())); };
  addEventListener("resize", redraw);
  let theme;
  addEventListener("beforeprint", () => {
    theme = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    rows.forEach((row) => { row.hidden = false; });
    charts.forEach((chart) => chart.draw());
  });
  addEventListener("afterprint", () => {
    if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
  });
  charts.forEach((chart) => chart.draw());
  document.documentElement.dataset.drawn = String(charts.length);
})();
