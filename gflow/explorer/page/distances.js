// The distance of the flow to each solution against accuracy, both on log axes.

const DISTANCE_KINDS = ["l2", "Q_mu", "irreversible", "l1"];

function distanceFrame(data) {
  const all = DISTANCE_KINDS.flatMap((kind) => data.fields[`distance_${kind}`]).filter((v) => v > 0).map(Math.log10);
  if (all.length === 0) return [-1, 0];
  const [low, high] = [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
  const margin = Math.max(0.04 * (high - low), 0.05);
  return [low - margin, high + margin];
}

const ACCURACY = "accuracy \u2212log\u2081\u2080 L";

function accuracyAxis(data, page) {
  const logs = data.decades.map(Math.log10);
  const margin = Math.max(0.02 * (logs.at(-1) - logs[0]), 0.02);
  return scale(logs[0] - margin, logs.at(-1) + margin, 52, page.width - 12, true);
}

function drawDistances(figure, data, at) {
  const page = sheet(figure.querySelector("figcaption ~ svg"), 380);
  const x = accuracyAxis(data, page);
  const y = scale(...data.distanceFrame, page.height - 46, 26, true);
  const inside = axes(page, x, y, ACCURACY, "distance / norm of the solution");
  const now = x.at(data.decades[at.decades]);
  add(inside, "line", { class: "now", x1: now, x2: now, y1: y.start, y2: y.end });
  const first = at.index - at.decades;
  for (const kind of DISTANCE_KINDS) {
    const values = data.fields[`distance_${kind}`].slice(first, first + data.decades.length);
    curve(inside, values.map((v, k) => (v > 0 ? [x.at(data.decades[k]), y.at(v)] : null)), kind);
  }
  for (const kind of DISTANCE_KINDS) {
    const value = at.of(`distance_${kind}`);
    if (value > 0) mark(inside, kind, now, y.at(value));
  }
  const missing = DISTANCE_KINDS.filter((kind) => at.of(`distance_${kind}`) === null).map((kind) => NAMES[kind]);
  show(figure.querySelector(".note"), missing.length === 0 ? "The dotted line is the accuracy chosen above."
    : `No value at this accuracy: ${missing.join(", ")}.`);
}
