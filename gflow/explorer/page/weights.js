// Bars: how much each sample weighs in the gradient.

function drawWeights(figure, data, at) {
  const count = data.samples.length;
  const rows = data.samples.map((n, k) => ({
    name: `sample ${n}, y = ${data.labels[k] > 0 ? "+1" : `${MINUS}1`}`,
    weight: data.weights[at.index * count + k],
    kind: "bar",
  }));
  if (data.others > 0) {
    rows.push({ name: `${data.others} others`, weight: data.other_weights[at.index], kind: "bar other" });
  }
  const step = rows.length <= 6 ? 44 : rows.length <= 10 ? 32 : 24;
  const page = sheet(figure.querySelector("figcaption ~ svg"), rows.length * step + 4);
  const [left, right] = [132, page.width - 66];
  rows.forEach(({ name, weight, kind }, k) => {
    const y = 2 + k * step;
    add(page.svg, "text", { x: left - 8, y: y + step / 2 + 4, "text-anchor": "end" }, name);
    add(page.svg, "rect", { class: "track", x: left, y: y + 4, width: right - left, height: step - 8, rx: 2 });
    if (weight !== null) {
      add(page.svg, "rect", { class: kind, x: left, y: y + 4, width: Math.max(0, weight) * (right - left), height: step - 8, rx: 2 });
    }
    const label = weight === null ? digits(null) : weight < 1e-4 ? (weight > 0 ? "< 0.01\u2009%" : "0\u2009%") : percent(weight, weight < 0.01 ? 2 : 3);
    add(page.svg, "text", { x: page.width - 2, y: y + step / 2 + 4, "text-anchor": "end" }, label);
  });
  show(figure.querySelector(".note"), rows.some((row) => row.weight === null)
    ? "The weights are not known here: the flow did not come to this accuracy, or its margins are not known well enough."
    : "Share of each sample in the gradient; samples are numbered from 0, in the order of the data.");
}
