// What all figures are drawn with. Drawings have the size of their place on the screen, so that text keeps its own.

const SPACE = document.querySelector("svg").namespaceURI;

function add(parent, name, attributes = {}, text = null) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  parent.append(element);
  return element;
}

function sheet(svg, height) {
  // Before the page is laid out there is no place yet.
  const width = Math.max(280, Math.floor(svg.getBoundingClientRect().width));
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  return { svg, width, height };
}

// A scale maps values to places; of log scales the values are powers of ten, given by their exponents.
function scale(low, high, start, end, logarithmic = false) {
  const at = (v) => start + ((v - low) / (high - low)) * (end - start);
  return { low, high, start, end, logarithmic, at: logarithmic ? (v) => at(Math.log10(v)) : at };
}

function ticks(axis, room) {
  const count = Math.max(2, Math.floor(Math.abs(axis.end - axis.start) / room));
  if (!axis.logarithmic) {
    const step = niceStep((axis.high - axis.low) / count);
    return multiples(axis, step).map((v) => ({ at: v, label: digits(Math.abs(v) < step / 1e6 ? 0 : v) }));
  }
  const span = axis.high - axis.low;
  if (span > 1.2) {
    const step = Math.max(1, Math.ceil(span / count));
    return multiples(axis, step).map((v) => ({ at: 10 ** v, label: powerLabel(v) }));
  }
  const found = [];
  for (let k = Math.floor(axis.low); k <= axis.high; k++) {
    for (const m of [1, 2, 5]) {
      const exponent = k + Math.log10(m);
      if (exponent >= axis.low && exponent <= axis.high) found.push({ at: 10 ** exponent, label: raised(digits(m * 10 ** k)) });
    }
  }
  return found;
}

function powerLabel(exponent) {
  return raised(`10^{${String(exponent).replace("-", MINUS)}}`);
}

function multiples(axis, step) {
  const found = [];
  for (let k = Math.ceil(axis.low / step - 1e-9); k * step <= axis.high + 1e-9 * step; k++) found.push(k * step);
  return found;
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5].find((m) => m * power >= rough) ?? 10);
}

// Axes with grid and labels. The label of the vertical axis stands above it, where it can be read.
function axes(page, x, y, xLabel, yLabel) {
  for (const tick of ticks(x, 76)) {
    const place = x.at(tick.at);
    add(page.svg, "line", { class: "grid", x1: place, x2: place, y1: y.start, y2: y.end });
    const half = 4 * tick.label.length;
    add(page.svg, "text", { class: "tick", x: Math.min(place, page.width - half), y: y.start + 20, "text-anchor": "middle" }, tick.label);
  }
  for (const tick of ticks(y, 44)) {
    const place = y.at(tick.at);
    add(page.svg, "line", { class: "grid", x1: x.start, x2: x.end, y1: place, y2: place });
    add(page.svg, "text", { class: "tick", x: x.start - 7, y: Math.min(place + 4.5, y.start), "text-anchor": "end" }, tick.label);
  }
  add(page.svg, "rect", { class: "frame", x: x.start, y: y.end, width: x.end - x.start, height: y.start - y.end });
  add(page.svg, "text", { x: (x.start + x.end) / 2, y: y.start + 40, "text-anchor": "middle" }, xLabel);
  add(page.svg, "text", { x: 2, y: 13 }, yLabel);
  const clip = add(page.svg, "clipPath", { id: `inside-${page.svg.parentNode.id}` });
  add(clip, "rect", { x: x.start, y: y.end, width: x.end - x.start, height: y.start - y.end });
  return add(page.svg, "g", { "clip-path": `url(#inside-${page.svg.parentNode.id})` });
}

// A curve through points [x, y] on the screen; null is a gap, and a point between gaps a dot.
function curve(parent, points, kind) {
  let path = "";
  points.forEach((point, k) => {
    if (point === null) return;
    const joined = k > 0 && points[k - 1] !== null;
    path += `${joined ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    if (!joined && (k + 1 === points.length || points[k + 1] === null)) {
      add(parent, "circle", { class: `mark ${kind}`, cx: point[0], cy: point[1], r: 2.5 });
    }
  });
  add(parent, "path", { class: `curve ${kind}`, d: path });
}

const SHAPES = {
  l2: (r) => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
  l1: (r) => `M0 ${-1.25 * r}L${1.2 * r} ${0.95 * r}H${-1.2 * r}Z`,
  Q_mu: (r) => `M0 ${-1.4 * r}L${1.4 * r} 0L0 ${1.4 * r}L${-1.4 * r} 0Z`,
  irreversible: (r) => {
    const a = 0.34 * r, b = 1.4 * r;
    return `M${-a} ${-b}H${a}V${-a}H${b}V${a}H${a}V${b}H${-a}V${a}H${-b}V${-a}H${-a}Z`;
  },
  flow: (r) => `M${-r} 0A${r} ${r} 0 1 0 ${r} 0A${r} ${r} 0 1 0 ${-r} 0Z`,
};

function mark(parent, kind, x, y, size = 6) {
  add(parent, "path", { class: `mark ${kind}`, d: SHAPES[kind](size), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` });
}

const NAMES = { l2: "\u2113_{2} max margin", Q_mu: "Q_{\u03bc} max margin", irreversible: "irreversible path",
  l1: "\u2113_{1} max margin", flow: "the flow" };

function legend(list, kinds, withCurve) {
  for (const kind of kinds) {
    const item = document.createElement("li");
    const key = document.createElementNS(SPACE, "svg");
    key.setAttribute("viewBox", "0 0 36 16");
    key.setAttribute("aria-hidden", "true");
    if (withCurve(kind)) curve(key, [[1, 8], [35, 8]], kind);
    mark(key, kind, 18, 8, 5);
    const name = document.createElement("span");
    show(name, NAMES[kind]);
    item.append(key, name);
    list.append(item);
  }
}
