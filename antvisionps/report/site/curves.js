// The overview's training curves.
"use strict";

function curvesCard(overview, state) {
  const names = [...new Set(overview.curves.map(({ name }) => name))].sort(
    (one, other) => (other === "loss") - (one === "loss") || one.localeCompare(other),
  );
  return redrawn((set) => {
    const name = names.includes(state.curve) ? state.curve : names[0];
    const curves = overview.curves.filter((curve) => curve.name === name);
    return fullCard(
      "Training curves",
      "Each point is the mean of some iterations; of monitor/…, an evaluation on photos that are not trained on.",
      el(
        "div.filters",
        choice("Curve", name, names, (curve) => set({ curve }), "curve"),
        el("span.legend", curves.map((curve, index) => el("span", el("i.swatch", numberedStyle(index)), networkName(curve)))),
      ),
      linePlot(
        `${name} over iterations`,
        curves.map((curve) => ({ ...curve, name: networkName(curve) })),
      ),
    );
  });
}

// A curve of fewer points shows each of them.
const MARKED = 20;

const networkName = ({ end, member }) => `${end} ${member}`;

// Curves are {name, steps, values}; the axis goes up to `high` at least.
function linePlot(label, curves, { high: least = 0 } = {}) {
  const [width, height, left, bottom, top] = [760, 240, 52, 28, 8];
  const [, lastStep] = extent(curves.flatMap(({ steps }) => steps));
  const [low, high] = extent(curves.flatMap(({ values }) => values).concat(0, least));
  const x = (step) => left + ((width - left - 8) * step) / (lastStep || 1);
  const y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low || 1);
  const lasts = curves.map((curve) => `${curve.name} ends at ${curve.values[curve.values.length - 1]}`);
  const points = ({ steps, values }) =>
    steps.map((step, place) => `${x(step).toFixed(1)},${y(values[place]).toFixed(1)}`).join(" ");
  return svg(
    "svg.plot",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label}: ${lasts.join(", ")}` },
    ticks(low, high).map((value) => [
      svg("line.rule", { x1: left, x2: width - 8, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)),
    ]),
    ticks(0, lastStep).map((step) => svg("text", { x: x(step), y: height - 8, "text-anchor": "middle" }, grouped(step))),
    curves.map((curve, index) =>
      svg("polyline", { ...numberedStyle(index), points: points(curve) }, svg("title", curve.name)),
    ),
    curves.map(({ steps, values }, index) =>
      steps.length < MARKED && steps.map((step, place) =>
        svg("circle", { ...numberedStyle(index), cx: x(step).toFixed(1), cy: y(values[place]).toFixed(1), r: 3 }),
      ),
    ),
  );
}

// Some five round numbers from one to the other.
function ticks(from, to) {
  const raw = (to - from) / 4;
  const power = 10 ** Math.floor(Math.log10(raw || 1));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((round) => round >= raw);
  const list = [];
  for (let v = Math.ceil(from / step) * step; v <= to + step * 1e-6; v += step) list.push(Number(v.toPrecision(6)));
  return list;
}
