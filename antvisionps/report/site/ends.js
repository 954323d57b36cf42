// The overview's cards of the ends before the fusion: AP, precision by recall, and how far confidences can be relied on.
"use strict";

const RECALLS = 101;
const BINS = 15; // of a reliability diagram

function endsCard(overview, state) {
  const { metrics, categories, routing } = overview;
  const ends = Object.keys(metrics.ends);
  const rows = [null, ...categories.keys()].filter((index) => index === null || categories[index].thing);
  const ofVal = new Map(metrics.per_class_ap.map((row) => [`${row.category}/${row.end}`, row]));
  const heldout = new Map(routing.categories.map((row) => [row.class, row.ap]));
  const measured = (index, end) => (index === null ? metrics.ends[end] : ofVal.get(`${categories[index].name}/${end}`));
  const link = (index) => (index === null ? "all" : el("a", { href: addressOfCategory(index) }, categories[index].name));
  const columnsOf = (end) => [
    strong(`AP ${end}`, (index) => percent(measured(index, end)?.AP ?? null)),
    numbers("AP50", (index) => percent(measured(index, end)?.AP50 ?? null), { title: `AP50 of ${end}` }),
    numbers("held out", (index) => percent(inPercent(index === null ? routing.mean_ap[end] : heldout.get(index)?.[end])), {
      title: `AP of ${end} on held-out images, which routes`,
    }),
  ];
  return redrawn((set) => {
    const options = [["", "all"], ...rows.slice(1).map((index) => [index, categories[index].name])];
    const lines = ends.map((end) => ({ name: end, steps: recalls(), values: precisionOf(metrics.curves, end, state.precision) }));
    return fullCard(
      "Ends before the fusion",
      "Mask AP of the instances of each end on these images, and on held-out ones. The curve is precision by recall at IoU 0.5.",
      el(
        "div.filters",
        choice("Precision of", state.precision, options, (precision) => set({ precision }), "precision"),
        el("span.legend", ends.map((end, index) => el("span", el("i.swatch", numberedStyle(index)), end))),
      ),
      linePlot("Precision by recall", lines.filter(({ values }) => values.length), { high: 1 }),
      table("AP of every end", [{ head: "category", kind: "th", cell: link }, ...ends.flatMap(columnsOf)], rows),
    );
  });
}

const recalls = () => Array.from({ length: RECALLS }, (_, place) => place / (RECALLS - 1));

// Of a class index, or the mean over all; empty where there is none.
function precisionOf(curves, end, category) {
  const chosen = curves.filter((curve) => curve.end === end && (category === "" || curve.class === Number(category)));
  if (!chosen.length) return [];
  return recalls().map((_, place) => chosen.reduce((sum, { precision }) => sum + precision[place], 0) / chosen.length / 1000);
}

function reliabilityCard({ metrics }) {
  const counted = metrics.calibration_error.filter(({ count: number }) => number > 0);
  const diagram = (one) =>
    el(
      "li",
      el("h3", `${one.name} ${one.of}`),
      el("p.quiet", `ECE ${percent(one.ECE)} % of ${grouped(one.count)}`),
      el("div.diagram", metrics.reliability.filter(({ name, of }) => name === one.name && of === one.of).map(reliabilityBar)),
    );
  return fullCard(
    "Reliability",
    "A bar says how often what was said with its confidence is right; below the diagonal it was too sure. A bar leads to the images where most of it is wrong. ECE is the expected calibration error.",
    el("ul.diagrams", counted.map(diagram)),
  );
}

function reliabilityBar({ name, of, low, high, count: number, confidence, right }) {
  const wrong = Math.round(number * (1 - right));
  const text =
    `${name} ${of}, ${low.toFixed(2)} to ${high.toFixed(2)}: ${percent(100 * right)} % of ${grouped(number)} are right, ` +
    `${percent(100 * confidence)} % by their confidence`;
  const style = { "--low": low, "--right": right, title: text };
  if (!wrong) return el("span", style);
  const bin = `${name}/${of}/${Math.round(low * BINS)}`;
  return el("a", { ...style, href: imagesOf({ bin }), "aria-label": text });
}
