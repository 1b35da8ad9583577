// The explorer of layers: a map of all of them by one measure, and one layer with its histograms.
//
// State: `data` (all that is shown, words included), `metric` and `tensor` (what is chosen). Colours
// are those of cividis: alike for all eyes, and ordered in grey. Nothing is loaded from elsewhere.

const SVG = "http://www.w3.org/2000/svg";
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const NONE = "#e4e4e4";
const CELL = { width: 62, height: 20 };
const LEFT = 96, TOP = 8, BOTTOM = 74;

const STYLE = `
.tl-explorer{font-size:14px;line-height:1.45;color:inherit}
.tl-explorer h2{font-size:1.25em;margin:0 0 .5em;line-height:1.3}
.tl-explorer .tl-row{display:flex;flex-wrap:wrap;gap:1.6em;align-items:flex-start}
.tl-explorer .tl-map{flex:1 1 22em;min-width:0}.tl-explorer .tl-one{flex:1 1 20em;min-width:0}
.tl-explorer svg{display:block;width:100%;height:auto;max-width:42em}
.tl-explorer text{fill:currentColor;font:12px system-ui,"DejaVu Sans",sans-serif}
.tl-explorer rect[role=button]{cursor:pointer}
.tl-explorer rect[role=button]:focus-visible{outline:3px solid #e6862a;outline-offset:-3px}
.tl-explorer .tl-chosen{stroke:#e6862a;stroke-width:3;fill:none;pointer-events:none}
.tl-explorer h3{font-size:1.05em;margin:0 0 .4em;overflow-wrap:anywhere}
.tl-explorer table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}
.tl-explorer td{padding:.1em .4em;border-bottom:1px solid #8884;vertical-align:top;text-align:left}
.tl-explorer td+td{text-align:right;overflow-wrap:anywhere}
.tl-explorer select{font:inherit;max-width:100%}
.tl-explorer figure{margin:.8em 0 0}.tl-explorer figcaption,.tl-explorer .tl-notes{font-size:.9em;opacity:.8}
.tl-explorer .tl-bars{display:grid;grid-template-columns:repeat(auto-fit,minmax(11em,1fr));gap:.4em 1em}
`;

function html(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function number(x, digits = 3) {
  if (x === null || x === undefined) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e6 || size < 1e-4 ? x.toExponential(digits - 1) : String(Number(x.toPrecision(digits)));
}

/** Where a value is between the least and the greatest, by logarithms where all are above 0. */
function scale(values) {
  const known = values.filter((x) => x !== null);
  const logarithmic = known.length > 0 && known.every((x) => x >= 0) && known.some((x) => x > 0);
  const used = logarithmic ? known.filter((x) => x > 0) : known;
  const low = Math.min(...used), high = Math.max(...used);
  const of = logarithmic ? Math.log : (x) => x;
  return {
    low, high, logarithmic,
    place: (x) => (high > low ? Math.min(Math.max((of(Math.max(x, low)) - of(low)) / (of(high) - of(low)), 0), 1) : 0.5),
  };
}

function colour(t) {
  const at = t * (CIVIDIS.length - 1), i = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const mixed = CIVIDIS[i].map((c, k) => Math.round(c + (at - i) * (CIVIDIS[i + 1][k] - c)));
  return `rgb(${mixed.join(",")})`;
}

function drawMap(data, metric, chosen, choose) {
  const { kinds, rows, tensors } = data;
  const width = LEFT + kinds.length * CELL.width + 4, height = TOP + rows.length * CELL.height + BOTTOM;
  const values = scale(tensors.map((t) => t.values[metric.key]));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Layers by ${metric.label}` });
  const every = Math.max(1, Math.ceil(rows.length / 24));
  rows.forEach((row, i) => {
    if (i % every === 0 || !/^\d+$/.test(row)) {
      const y = TOP + (i + 0.5) * CELL.height + 4;
      picture.append(svg("text", { x: LEFT - 6, y, "text-anchor": "end" }, row));
    }
  });
  const under = TOP + rows.length * CELL.height + 10;
  kinds.forEach((kind, i) => {
    const x = LEFT + (i + 0.5) * CELL.width;
    picture.append(svg("text", { x, y: under, "text-anchor": "end", transform: `rotate(-32 ${x} ${under})` }, kind));
  });
  let mark = null;
  tensors.forEach((tensor) => {
    const [row, column] = tensor.place, value = tensor.values[metric.key];
    const place = { x: LEFT + column * CELL.width, y: TOP + row * CELL.height, width: CELL.width - 1, height: CELL.height - 1 };
    const words = `${tensor.name}: ${number(value)} ${value === null ? "" : metric.unit}`.trim();
    const cell = svg("rect", {
      ...place, fill: value === null ? NONE : colour(values.place(value)), role: "button",
      tabindex: tensor.name === chosen ? 0 : -1, "data-tensor": tensor.name, "aria-label": words,
      "aria-pressed": tensor.name === chosen,
    }, svg("title", {}, words));
    cell.addEventListener("click", () => choose(tensor.name));
    cell.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = tensors.find((t) => t.place[0] === row + step[0] && t.place[1] === column + step[1]);
      if (next) choose(next.name, true);
    });
    picture.append(cell);
    if (tensor.name === chosen) mark = svg("rect", { ...place, class: "tl-chosen" });
  });
  if (mark) picture.append(mark);
  return [picture, legend(values, metric)];
}

function legend(values, metric) {
  const steps = Array.from({ length: 24 }, (_, i) => svg("rect", {
    x: 60 + i * 7, y: 4, width: 7.2, height: 12, fill: colour(i / 23),
  }));
  const says = `from ${number(values.low)} to ${number(values.high)} ${metric.unit}`;
  return svg("svg", { viewBox: "0 0 400 20", role: "img", "aria-label": `Colours ${says}` },
    svg("text", { x: 54, y: 14, "text-anchor": "end" }, number(values.low)), ...steps,
    svg("text", { x: 234, y: 14 }, `${number(values.high)} ${metric.unit}${values.logarithmic ? " (logarithmic)" : ""}`));
}

function drawHistogram({ label, counts, edges, values }) {
  const width = 240, height = 110, base = 90, most = Math.max(...counts, 1);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram of ${label}` });
  // Counts are logarithmic: a tail is as much as the middle. One is seen, none is not.
  const high = (n) => (n === 0 ? 0 : 80 * (0.3 + Math.log(n)) / (0.3 + Math.log(most)));
  const first = edges ? edges[0] : values[0] - 0.5, last = edges ? edges[edges.length - 1] : values[values.length - 1] + 0.5;
  const x = (v) => 4 + (v - first) / (last - first || 1) * (width - 8);
  counts.forEach((n, i) => {
    const [from, to] = edges ? [edges[i], edges[i + 1]] : [values[i] - 0.42, values[i] + 0.42];
    const words = edges ? `${number(from)} to ${number(to)}: ${n}` : `${values[i]}: ${n}`;
    picture.append(svg("rect", {
      x: x(from), y: base - high(n), width: Math.max(x(to) - x(from), 0.5), height: high(n), fill: "#2c7fb8", "data-count": n,
    }, svg("title", {}, words)));
  });
  const ends = edges ? [first, last] : [values[0], values[values.length - 1]];
  picture.append(
    svg("line", { x1: 4, x2: width - 4, y1: base, y2: base, stroke: "currentColor" }),
    svg("text", { x: 4, y: base + 15 }, number(ends[0])),
    svg("text", { x: width - 4, y: base + 15, "text-anchor": "end" }, number(ends[1])));
  return html("figure", {}, html("figcaption", {}, `${label} (log counts, most ${most.toLocaleString("en")})`), picture);
}

function drawOne(tensor) {
  const facts = tensor.facts.map(([name, text]) => html("tr", {}, html("td", {}, name), html("td", {}, text)));
  return [
    html("h3", {}, tensor.name),
    html("table", {}, html("tbody", {}, ...facts)),
    html("div", { class: "tl-bars" }, ...tensor.histograms.map(drawHistogram)),
  ];
}

export function render({ model, el }) {
  const data = model.get("data");
  const map = html("div", { class: "tl-map" }), one = html("div", { class: "tl-one", "aria-live": "polite" });
  const select = html("select", {}, ...data.metrics.map((m) => html("option", { value: m.key }, m.unit ? `${m.label}, ${m.unit}` : m.label)));
  let focus = false;
  const choose = (name, keyboard = false) => {
    focus = keyboard;
    model.set("tensor", name);
    model.save_changes();
  };
  const draw = () => {
    const metric = data.metrics.find((m) => m.key === model.get("metric"));
    const tensor = data.tensors.find((t) => t.name === model.get("tensor"));
    select.value = metric.key;
    map.replaceChildren(...drawMap(data, metric, tensor.name, choose));
    one.replaceChildren(...drawOne(tensor));
    if (focus) map.querySelector("[aria-pressed=true]").focus();
  };
  select.addEventListener("change", () => {
    model.set("metric", select.value);
    model.save_changes();
  });
  const root = html("div", { class: "tl-explorer" },
    html("style", {}, STYLE), html("h2", {}, data.title),
    html("p", {}, html("label", {}, "Colour: ", select)),
    html("div", { class: "tl-row" }, map, one),
    ...data.notes.map((note) => html("p", { class: "tl-notes" }, note)));
  el.append(root);
  model.on("change:metric", draw);
  model.on("change:tensor", draw);
  draw();
  return () => {
    model.off("change:metric", draw);
    model.off("change:tensor", draw);
    root.remove();
  };
}

/** The same in a page without a notebook: the state lives here. */
export function standalone(el, state) {
  const heard = {};
  const model = {
    get: (key) => state[key],
    set: (key, value) => {
      if (state[key] === value) return;
      state[key] = value;
      (heard[`change:${key}`] ?? []).forEach((call) => call());
    },
    save_changes: () => {},
    on: (what, call) => (heard[what] ??= []).push(call),
    off: (what, call) => { heard[what] = (heard[what] ?? []).filter((other) => other !== call); },
  };
  render({ model, el });
  return model;
}

export default { render };
