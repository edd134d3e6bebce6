// The sliders, and everything that follows them.

const data = JSON.parse(document.getElementById("data").textContent);
const sliders = ["scale", "depth", "decades"].map((name) => document.getElementById(name));
const figures = { plane: drawPlane, distances: drawDistances, weights: drawWeights, time: drawTime };
data.frame = planeFrame(data);
data.distanceFrame = distanceFrame(data);
data.timeFrame = timeFrame(data);

// The point chosen, by its place on each grid, and what is known there.
function chosen() {
  const [scaleAt, depthAt, decadesAt] = sliders.map((slider) => Number(slider.value));
  const flow = depthAt * data.scale.length + scaleAt;
  const index = flow * data.decades.length + decadesAt;
  return { scale: scaleAt, depth: depthAt, decades: decadesAt, flow, index, of: (name) => data.fields[name][index] };
}

function values(at) {
  const logTime = at.of("log_time");
  return [
    ["loss L", powerOfTen(-data.decades[at.decades])],
    ["\u03b3 = \u2212log L", digits(data.decades[at.decades] * Math.LN10, 4)],
    ["time of the flow t", powerOfTen(logTime === null ? null : logTime / Math.LN10)],
    ["log_{10} t", digits(logTime === null ? null : logTime / Math.LN10, 6)],
    ["\u03bc = \u03b1^{D}/\u03b3", digits(at.of("mu"))],
    ["excess \u2113_{1} norm", percent(at.of("excess_l1"))],
    ["excess \u2113_{2} norm", percent(at.of("excess_l2"))],
    ...DISTANCE_KINDS.map((kind) => [`distance to ${NAMES[kind]}`, percent(at.of(`distance_${kind}`))]),
    ["off the plane", percent(at.of("off_plane"))],
  ];
}

function sentence(at) {
  const apart = DISTANCE_KINDS.map((kind) => [at.of(`distance_${kind}`), NAMES[kind]]).filter(([v]) => v !== null);
  if (apart.length === 0) return "The flow did not come to this accuracy.";
  const [least, name] = apart.reduce((a, b) => (b[0] < a[0] ? b : a));
  const logTime = at.of("log_time") / Math.LN10;
  return `At a loss of ${powerOfTen(-data.decades[at.decades])}, reached at t = ${powerOfTen(logTime)}, \u03b2/\u03b3 is nearest to the ${name}: ${percent(least)} away.`;
}

function update() {
  const at = chosen();
  const shown = [
    `\u03b1 = ${digits(data.scale[at.scale])}`,
    `D = ${data.depth[at.depth]}`,
    `L = ${powerOfTen(-data.decades[at.decades])}`,
  ];
  sliders.forEach((slider, k) => {
    slider.setAttribute("aria-valuetext", spoken(shown[k]));
    show(document.getElementById(`${slider.id}-value`), shown[k]);
  });
  show(document.getElementById("sentence"), sentence(at));
  const failure = document.getElementById("failure");
  const status = data.status[at.flow];
  failure.hidden = status === data.success;
  failure.textContent = failure.hidden ? "" : `This flow ended early. ${data.sentences[status]}`;
  document.querySelector("table tbody").replaceChildren(...values(at).map(([name, value]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    show(head, name);
    const cell = document.createElement("td");
    show(cell, value);
    row.append(head, cell);
    return row;
  }));
  for (const [name, draw] of Object.entries(figures)) {
    const figure = document.getElementById(name);
    draw(figure, data, at);
    const told = [figure.querySelector("h2").textContent, figure.querySelector(".note").textContent];
    figure.querySelector("figcaption ~ svg").setAttribute("aria-label", told.join(". "));
  }
}

function note(text) {
  const item = document.createElement("li");
  item.textContent = text;
  document.getElementById("notes").append(item);
}

sliders.forEach((slider) => {
  const count = data[slider.id].length;
  slider.min = 0;
  slider.max = count - 1;
  slider.disabled = count === 1;
  // A path to its end, at a scale in the middle.
  slider.value = slider.id === "decades" ? count - 1 : slider.id === "scale" ? Math.floor((count - 1) / 2) : 0;
  slider.addEventListener("input", update);
});
legend(document.querySelector("#plane .legend"), PLANE_KINDS, (kind) => kind !== "l2" && kind !== "l1");
legend(document.querySelector("#distances .legend"), DISTANCE_KINDS, () => true);
const failed = data.status.filter((status) => status !== data.success).length;
if (failed > 0) note(`${failed} of ${data.status.length} flows ended before the last accuracy; their curves end there.`);
data.notes.forEach(note);
new ResizeObserver(update).observe(document.querySelector(".figures"));
