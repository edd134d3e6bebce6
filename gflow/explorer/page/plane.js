// beta / gamma in the plane of the solutions: the path over gamma, and where it stands.

const PLANE_KINDS = ["l2", "Q_mu", "irreversible", "l1", "flow"];

// All depths and scales share a frame, so that what moves is the path. It holds the solutions, and those flows that are
// not far from all of them.
function planeFrame(data) {
  const pairs = (flat) => Array.from({ length: flat.length / 2 }, (_, k) => [flat[2 * k], flat[2 * k + 1]])
    .filter(([x]) => x !== null);
  const solutions = [data.l2, data.l1, ...pairs(data.curves.Q_mu_curve), ...pairs(data.curves.irreversible_curve)];
  const range = (points, axis) => points.reduce(([a, b], p) => [Math.min(a, p[axis]), Math.max(b, p[axis])], [Infinity, -Infinity]);
  const [x, y] = [range(solutions, 0), range(solutions, 1)];
  // One feature, or all solutions at one point: there is no size to go by.
  const size = Math.max(x[1] - x[0], y[1] - y[0]) || 1;
  const near = pairs(data.fields.place).filter(([a, b]) => a > x[0] - size / 2 && a < x[1] + size / 2
    && b > y[0] - size / 2 && b < y[1] + size / 2);
  return [0, 1].map((axis) => {
    const [low, high] = range([...solutions, ...near], axis);
    const margin = Math.max(0.08 * (high - low), 0.02 * size);
    return [low - margin, high + margin];
  });
}

function drawPlane(figure, data, at) {
  const page = sheet(figure.querySelector("figcaption ~ svg"), 380);
  const [[left, right], [low, high]] = data.frame;
  const x = scale(left, right, 52, page.width - 12);
  const y = scale(low, high, page.height - 46, 26);
  const inside = axes(page, x, y, "from \u2113\u2082 (0) to \u2113\u2081 (1)", "across that line, in the same unit");
  const point = (flat, k) => (flat[2 * k] === null ? null : [x.at(flat[2 * k]), y.at(flat[2 * k + 1])]);
  const along = (flat, first, count) => Array.from({ length: count }, (_, k) => point(flat, first + k));
  const perDepth = data.curves.Q_mu_curve.length / 2 / data.depth.length;
  curve(inside, along(data.curves.Q_mu_curve, at.depth * perDepth, perDepth), "Q_mu");
  curve(inside, along(data.curves.irreversible_curve, at.depth * perDepth, perDepth), "irreversible");
  const first = at.index - at.decades;
  curve(inside, along(data.fields.place, first, data.decades.length), "flow ahead");
  curve(inside, along(data.fields.place, first, at.decades + 1), "flow");
  mark(inside, "l2", ...point(data.l2, 0), 8);
  mark(inside, "l1", ...point(data.l1, 0), 8);
  // What lies on one another: the diamond is a ring, so that the others show.
  for (const [kind, flat] of [["Q_mu", data.fields.Q_mu_place], ["irreversible", data.fields.irreversible_place]]) {
    const place = point(flat, at.index);
    if (place) mark(inside, kind, ...place, 8);
  }
  const here = point(data.fields.place, at.index);
  if (here) mark(inside, "flow", ...here, 5);
  const outside = here && (here[0] < x.start || here[0] > x.end || here[1] > y.start || here[1] < y.end);
  const [a, b] = [data.fields.place[2 * at.index], data.fields.place[2 * at.index + 1]];
  show(figure.querySelector(".note"), here === null ? "The flow did not come to this accuracy."
    : outside ? `The flow is outside of the frame here, at (${digits(a)}, ${digits(b)}): \u03b2/\u03b3 is short of margin 1, or far from all solutions.`
      : `The flow is at (${digits(a)}, ${digits(b)}), ${percent(at.of("off_plane"))} of its norm off the plane.`);
}
