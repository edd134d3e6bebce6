// Physical time, which is about 1 / L: what is left when that is taken out, against accuracy.

function timeFrame(data) {
  const known = data.fields.log_time_loss.filter((v) => v !== null);
  if (known.length === 0) return [-1, 1];
  const [low, high] = [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
  const margin = Math.max(0.06 * (high - low), 0.1);
  return [low - margin, high + margin];
}

function drawTime(figure, data, at) {
  const page = sheet(figure.querySelector("figcaption ~ svg"), 320);
  const x = accuracyAxis(data, page);
  const y = scale(...data.timeFrame, page.height - 46, 26);
  const inside = axes(page, x, y, ACCURACY, "log\u2081\u2080 (t L)");
  const now = x.at(data.decades[at.decades]);
  add(inside, "line", { class: "now", x1: now, x2: now, y1: y.start, y2: y.end });
  const first = at.index - at.decades;
  const values = data.fields.log_time_loss.slice(first, first + data.decades.length);
  curve(inside, values.map((v, k) => (v === null ? null : [x.at(data.decades[k]), y.at(v)])), "flow");
  const here = at.of("log_time_loss");
  if (here !== null) mark(inside, "flow", now, y.at(here), 5);
  const logTime = at.of("log_time");
  show(figure.querySelector(".note"), logTime === null ? "The flow did not come to this accuracy."
    : `log_{10} t = ${digits(logTime / Math.LN10, 6)}${here === null ? "" : `, and t L = ${powerOfTen(here)}`}.`);
}
