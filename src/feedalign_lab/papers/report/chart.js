"use strict";
// Curves: hover or arrow keys read values, dragging looks closer, either axis can be logarithmic.
const curves = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 260, MARGIN = { left: 58, right: 14, top: 24, bottom: 40 };
  const HINT = "Point at the curves, or use the arrow keys, to read values; drag to look closer.";
  const COLORS = ["--better", "--worse", "--reproduced", "--incomplete", "--ink", "--not-run"];
  const DASHES = ["", "6 3", "2 3"];

  function make(tag, parent, attributes = {}, text = null) {
    const isDrawn = parent instanceof SVGElement || tag === "svg";
    const element = isDrawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== null) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }
  const known = (value) => typeof value === "number";
  const brief = (value) => known(value) ? String(Number(value.toPrecision(5))) : "–";

  function chooser(parent, panels, seconds) {
    const controls = make("div", parent, { class: "controls" });
    const what = make("select", make("label", controls, {}, "Curve "));
    panels.forEach((panel, place) => make("option", what, { value: place }, panel.title));
    const over = make("select", make("label", controls, {}, "over "));
    for (const name of ["epochs", "seconds"]) make("option", over, { value: name }, name);
    const room = make("div", parent);
    const draw = () => {
      const panel = panels[Number(what.value)];
      // What was not measured after every epoch has epochs of its own.
      const useSeconds = over.value === "seconds", place = (trial, epoch) => useSeconds ? seconds[trial][epoch - 1] : epoch;
      const series = panel.series.map((one, trial) => {
        const epochs = one.x ?? one.y.map((_, i) => i + 1);
        return { ...one, x: epochs.map((epoch) => place(trial, epoch)) };
      });
      room.replaceChildren();
      chart(room, { ...panel, x: useSeconds ? "seconds of training" : "epoch", series, isOfTrials: true });
    };
    [what, over].forEach((control) => control.addEventListener("change", draw));
    draw();
  }

  function pointsOf(panel) {
    return panel.series.map((one) => one.y
      .map((y, i) => ({ x: one.x[i], y, std: one.std?.[i] }))
      .filter((point) => known(point.x) && known(point.y)));
  }

  function ticks(low, high, isLog) {
    if (isLog && high / low >= 10) {
      const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
      const by = Math.max(1, Math.ceil((last - first) / 6)), factors = last - first < 3 ? [1, 2, 5] : [1];
      const powers = Array.from({ length: Math.floor((last - first) / by) + 2 }, (_, i) => 10 ** (first + (i - 1) * by));
      return powers.flatMap((power) => factors.map((factor) => factor * power)).filter((tick) => tick >= low && tick <= high);
    }
    const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const places = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i += 1) places.push(i * step);
    return places;
  }

  function range(values, isLog) {
    let low = Math.min(...values), high = Math.max(...values);
    if (low === high) { low -= isLog ? low / 2 : Math.abs(low) / 10 || 1; high += Math.abs(high) / 10 || 1; }
    return [low, high];
  }

  function chart(parent, panel) {
    const state = { xLog: Boolean(panel.xLog), yLog: Boolean(panel.yLog), zoom: null, at: null, drag: null };
    const all = pointsOf(panel), root = make("div", parent, { class: "chart" });
    const controls = make("div", root, { class: "controls" });
    const toggles = ["x", "y"].map((axis) => {
      const label = make("label", controls), box = make("input", label, { type: "checkbox" });
      label.append(` log ${axis} axis`);
      box.checked = state[`${axis}Log`];
      box.addEventListener("change", () => { state[`${axis}Log`] = box.checked; render(); });
      return box;
    });
    const back = make("button", controls, { type: "button", hidden: "" }, "Whole range");
    back.addEventListener("click", () => { state.zoom = null; render(); });
    const svg = make("svg", root, {
      height: HEIGHT, tabindex: 0, role: "img",
      "aria-label": `${panel.title}. Arrow keys read values, Escape shows the whole range; drag to look closer.`,
    });
    const readout = make("p", root, { class: "readout", "aria-live": "polite" });
    if (!panel.isOfTrials) legend(root, panel);
    const positive = (name) => all.flat().some((point) => point[name] > 0);
    toggles[0].disabled = !positive("x");
    toggles[1].disabled = !positive("y");
    let map = null;

    function render() {
      svg.replaceChildren();
      back.hidden = !state.zoom;
      const width = Math.max(280, svg.clientWidth || 600), isShown = (point) =>
        (!state.xLog || point.x > 0) && (!state.yLog || point.y > 0) &&
        (!state.zoom || (point.x >= state.zoom[0] && point.x <= state.zoom[1]));
      const shown = all.map((points) => points.filter(isShown)), flat = shown.flat();
      svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      if (!flat.length) { make("text", svg, { x: 20, y: 40 }, "No values to draw."); map = null; return; }
      const printed = [panel.published, panel.guide].filter((value) => known(value) && (!state.yLog || value > 0));
      const [x0, x1] = state.zoom ?? range(flat.map((point) => point.x), state.xLog);
      const [y0, y1] = range([...flat.map((point) => point.y), ...printed], state.yLog);
      const pad = (y1 - y0) * 0.05, factor = (y1 / y0) ** 0.05;
      const [bottom, top] = state.yLog ? [y0 / factor, y1 * factor] : [y0 - pad, y1 + pad];
      const axis = (low, high, from, to, isLog) => {
        const f = isLog ? Math.log10 : (value) => value, g = isLog ? (value) => 10 ** value : (value) => value;
        const slope = (to - from) / (f(high) - f(low));
        return { to: (value) => from + (f(value) - f(low)) * slope, back: (place) => g(f(low) + (place - from) / slope), low, high, isLog };
      };
      map = {
        x: axis(x0, x1, MARGIN.left, width - MARGIN.right, state.xLog),
        y: axis(bottom, top, HEIGHT - MARGIN.bottom, MARGIN.top, state.yLog), shown, width,
      };
      frame(width);
      if (known(panel.published) && printed.includes(panel.published)) published(width);
      if (known(panel.guide) && printed.includes(panel.guide)) horizontal(panel.guide, width, "printed");
      shown.forEach((points, number) => line(points, number));
      cross();
    }

    function horizontal(value, width, name) {
      const y = map.y.to(value);
      make("line", svg, { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y, class: name });
    }

    function published(width) {
      const inside = (value) => Math.min(HEIGHT - MARGIN.bottom, Math.max(MARGIN.top, value));
      if (known(panel.slack)) {
        const low = panel.published - panel.slack, top = inside(map.y.to(panel.published + panel.slack));
        const bottom = state.yLog && low <= 0 ? HEIGHT - MARGIN.bottom : inside(map.y.to(low));
        make("rect", svg, { x: MARGIN.left, width: width - MARGIN.left - MARGIN.right, y: top, height: Math.max(0, bottom - top), class: "band" });
      }
      horizontal(panel.published, width, "printed");
      const text = `published ${brief(panel.published)}${known(panel.slack) ? ` ± slack ${brief(panel.slack)}` : ""}`;
      const y = map.y.to(panel.published);
      make("text", svg, { x: width - MARGIN.right - 4, y: y < 40 ? y + 15 : y - 5, "text-anchor": "end" }, text);
    }

    function frame(width) {
      const bottom = HEIGHT - MARGIN.bottom;
      for (const value of ticks(map.y.low, map.y.high, map.y.isLog)) {
        horizontal(value, width, "grid");
        make("text", svg, { x: MARGIN.left - 6, y: map.y.to(value) + 4, "text-anchor": "end" }, brief(value));
      }
      for (const value of ticks(map.x.low, map.x.high, map.x.isLog)) {
        const x = map.x.to(value);
        make("line", svg, { x1: x, x2: x, y1: bottom, y2: bottom + 4, class: "axis" });
        make("text", svg, { x, y: bottom + 17, "text-anchor": "middle" }, brief(value));
      }
      make("line", svg, { x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom, class: "axis" });
      make("text", svg, { x: (MARGIN.left + width - MARGIN.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, panel.x);
      if (panel.y !== panel.title || panel.isOfTrials) make("text", svg, { x: 8, y: 15 }, panel.y);
    }

    function line(points, number) {
      const style = styleOf(panel, number), place = (point) => `${map.x.to(point.x).toFixed(1)},${map.y.to(point.y).toFixed(1)}`;
      if (panel.series[number].dots || points.length === 1) {
        for (const point of points) make("circle", svg, { cx: map.x.to(point.x), cy: map.y.to(point.y), r: 3, style: `fill:${style.color};fill-opacity:.7` });
        return;
      }
      make("polyline", svg, {
        points: points.map(place).join(" "), fill: "none", "stroke-dasharray": style.dash,
        style: `stroke:${style.color};stroke-width:${panel.isOfTrials ? 1.3 : 2};stroke-opacity:${style.opacity}`,
      });
    }

    function cross() {
      svg.querySelectorAll(".cross").forEach((old) => old.remove());
      if (!map || state.at === null) { readout.textContent = HINT; return; }
      const x = map.x.to(state.at);
      make("line", svg, { x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, class: "cross" });
      const values = map.shown.map((points, number) => [panel.series[number].name, nearest(points)]).filter(([, point]) => point);
      for (const [, point] of values) make("circle", svg, { cx: map.x.to(point.x), cy: map.y.to(point.y), r: 3.5, class: "cross", style: "fill:var(--ink)" });
      const mean = values.reduce((sum, [, point]) => sum + point.y, 0) / values.length;
      const each = values.map(([name, point]) => `${name}: ${brief(point.y)}${known(point.std) ? ` ± ${brief(point.std)}` : ""}`);
      const first = panel.isOfTrials && values.length > 1 ? `mean ${brief(mean)} · ` : "";
      readout.textContent = `${panel.x} ${brief(state.at)}: ${first}${each.join(" · ")}`;
    }

    function nearest(points) {
      let best = null;
      for (const point of points) if (!best || Math.abs(point.x - state.at) < Math.abs(best.x - state.at)) best = point;
      return best;
    }
    const valueAt = (event) => map.x.back(Math.min(map.width - MARGIN.right,
      Math.max(MARGIN.left, (event.clientX - svg.getBoundingClientRect().left) * map.width / svg.getBoundingClientRect().width)));
    const snapped = (value) => {
      const all = map.shown.flat().map((point) => point.x);
      return all.reduce((best, x) => Math.abs(map.x.to(x) - map.x.to(value)) < Math.abs(map.x.to(best) - map.x.to(value)) ? x : best, all[0]);
    };
    svg.addEventListener("pointerdown", (event) => { if (map) state.drag = valueAt(event); });
    svg.addEventListener("pointermove", (event) => {
      if (!map) return;
      state.at = snapped(valueAt(event));
      cross();
      svg.querySelector(".chosen")?.remove();
      if (state.drag === null || !event.buttons) return;
      const [from, to] = [map.x.to(state.drag), map.x.to(valueAt(event))];
      make("rect", svg, { x: Math.min(from, to), width: Math.abs(to - from), y: MARGIN.top, height: HEIGHT - MARGIN.top - MARGIN.bottom, class: "chosen" });
    });
    svg.addEventListener("pointerup", (event) => {
      if (!map || state.drag === null) return;
      const [low, high] = [state.drag, valueAt(event)].sort((a, b) => a - b);
      const isWide = map.x.to(high) - map.x.to(low) > 12 && map.shown.flat().some((point) => point.x > low && point.x < high);
      state.drag = null;
      if (isWide) state.zoom = [low, high];
      render();
    });
    svg.addEventListener("pointerleave", () => { state.at = null; state.drag = null; svg.querySelector(".chosen")?.remove(); cross(); });
    svg.addEventListener("keydown", (event) => {
      if (!map) return;
      if (event.key === "Escape") { state.zoom = null; state.at = null; render(); return; }
      const places = [...new Set(map.shown.flat().map((point) => point.x))].sort((a, b) => a - b);
      const now = state.at === null ? -1 : places.findIndex((x) => x >= state.at);
      const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: places.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      state.at = places[Math.min(places.length - 1, Math.max(0, next))];
      cross();
    });
    new ResizeObserver(render).observe(root);
    render();
  }

  function styleOf(panel, number) {
    if (panel.isOfTrials) return { color: "var(--first)", dash: "", opacity: panel.series.length > 3 ? 0.6 : 0.85 };
    const dash = DASHES[Math.floor(number / COLORS.length) % DASHES.length];
    return { color: `var(${COLORS[number % COLORS.length]})`, dash, opacity: 1 };
  }

  function legend(parent, panel) {
    const list = make("ul", parent, { class: "legend" });
    panel.series.forEach((series, number) => {
      const style = styleOf(panel, number), item = make("li", list);
      const mark = make("svg", item, { width: 26, height: 8, "aria-hidden": "true", style: "display:inline;border:0;width:26px" });
      if (series.dots) make("circle", mark, { cx: 13, cy: 4, r: 3, style: `fill:${style.color}` });
      else make("line", mark, { x1: 0, x2: 26, y1: 4, y2: 4, "stroke-dasharray": style.dash, style: `stroke:${style.color};stroke-width:2` });
      item.append(` ${series.name}`);
    });
  }

  return { make, known, brief, chart, chooser };
})();
