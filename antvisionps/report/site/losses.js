// The overview's cards of what PQ and LRP are lost to: each number leads to the images where most of it lies.
"use strict";

const imagesOf = (changes) => app.address({ ...NO_FILTER, view: "images", sort: "errors", ...changes });

function errorKindsCard(overview, state) {
  const { mapped, categories } = overview;
  const groups = { All: () => true, Things: ({ thing }) => thing, Stuff: ({ thing }) => !thing };
  return redrawn((set) => {
    const { lost } = state;
    const isOf = groups[lost] ?? ((category) => category === categories[Number(lost)]);
    const classes = [...categories.keys()].filter((index) => isOf(categories[index]));
    const category = lost in groups ? "" : lost;
    const cell = (kind, system) => {
      const lostTo = pqLost(lossesOf(overview, system), classes, kind);
      const value = percent(lostTo);
      if (!lostTo) return value;
      const name = `${value} PQ of ${system} lost to kind ${kind}`;
      return el("a", { href: imagesOf({ system, error: kind, category }), "aria-label": name }, value);
    };
    const columns = [
      { head: "kind", kind: "th", cell: (kind) => kind },
      ...mapped.map((system) => ({ ...strong(system, (kind) => cell(kind, system)), title: `PQ that ${system} loses` })),
      { head: "what it is", kind: "td.wide", cell: (kind) => el("span.quiet", LOSSES[kind]) },
    ];
    const options = [...Object.keys(groups).map((name) => [name, name.toLowerCase()]), ...categories.map(({ name }, index) => [index, name])];
    return (overview.compared ? fullCard : card)(
      "PQ lost, by kind of error",
      "Percent points. The kinds of a system add up to what its PQ lacks to 100. A number leads to its images.",
      el("div.filters", choice("Of", lost, options, (chosen) => set({ lost: chosen }), "lost")),
      table("PQ lost by kind of error", columns, Object.keys(LOSSES)),
    );
  });
}

// In percent: the mean over those of the classes that have segments.
function pqLost(losses, classes, kind) {
  const counted = classes.filter((index) => losses[index].weight);
  const sum = counted.reduce((total, index) => total + losses[index].lost[kind] / losses[index].weight, 0);
  return counted.length ? (100 * sum) / counted.length : NaN;
}

// The column of an LRP's part, and the errors that it counts.
const LRP_PARTS = { localisation: "outline", FP: "fp", FN: "fn" };

function lrpCard(overview, state) {
  const { systems, categories, metrics } = overview;
  const indexOf = new Map(categories.map(({ name }, index) => [name, index]));
  return redrawn((set) => {
    const system = systems.includes(state.lrp) ? state.lrp : systems[systems.length - 1];
    const ofSystem = (rows) => rows.filter((row) => row.system === system);
    const classes = ofSystem(metrics.lrp_per_class).sort((one, other) => other.LRP - one.LRP);
    const part = ([name, error]) =>
      numbers(name, (row) => {
        if (!row.category || !row[name]) return percent(row[name]);
        const label = `${name} ${percent(row[name])} of ${row.category}`;
        const href = imagesOf({ system, error, category: String(indexOf.get(row.category)) });
        return el("a", { href, "aria-label": label }, percent(row[name]));
      });
    const columns = [
      { head: "category", kind: "th", cell: (row) => row.category ?? row.group },
      strong("LRP", (row) => percent(row.LRP)),
      ...Object.entries(LRP_PARTS).map(part),
      numbers("optimal LRP", (row) => percent(row.optimal_LRP)),
      numbers("min_score", (row) => percent(row.min_score ?? null, 2), { title: "the threshold at which LRP is least" }),
    ];
    return card(
      "LRP, and the best score threshold",
      "An error in percent: 0 is perfect. Its parts are the outlines of matches, wrong and missed segments. Worst categories first.",
      el("div.filters", choice("System", system, systems, (lrp) => set({ lrp }), "lrp")),
      table("LRP of every category", columns, [...ofSystem(metrics.lrp), ...classes]),
    );
  });
}

function slicesCard({ metrics, systems }) {
  const [first, last] = [systems[0], systems[systems.length - 1]];
  const rows = metrics.slices.filter(({ group }) => group === "All");
  const sliceOf = ({ attribute, value }) => sliceName(attribute, value);
  const row = (slice, system, minus = "") =>
    rows.find((one) => sliceOf(one) === slice && one.system === system && one.minus === minus);
  const slices = [...new Map(rows.map((one) => [sliceOf(one), one])).entries()];
  const limits = (minus) => extent(rows.filter((one) => one.system === last && one.minus === minus).flatMap(({ low, high }) => [low, high]));
  const link = ([slice, { attribute, value }]) =>
    el("a", { href: imagesOf({ slice, system: last, sort: "worst" }) }, `${attribute} ${value}`);
  const columns = [
    { head: "images", kind: "th", cell: link },
    numbers("number", ([, { images }]) => grouped(images)),
    ...systems.map((system) => strong(system, ([slice]) => percent(row(slice, system)?.PQ ?? null))),
    { head: `${last}, 95 % interval`, kind: "td.wide", cell: ([slice]) => intervalPlot(row(slice, last), limits(""), { show: percent }) },
    systems.length > 1 && {
      head: `${last} − ${first}`, kind: "td.wide", cell: ([slice]) => intervalPlot(row(slice, last, first), limits(first)),
    },
  ].filter(Boolean);
  return fullCard("PQ of slices", "Of each attribute the worst first. A slice leads to its images.", table("PQ of slices", columns, slices));
}
