// The numbers of the whole split: a card each, of which some can be set.
"use strict";

const GROUPS = { All: "", Things: "ᵀʰ", Stuff: "ˢᵗ" };
const MEASURES = ["PQ", "SQ", "RQ"];

// The cards come one after the other, so that the first can be read while the others are made.
async function showOverview(section, overview, state) {
  const cards = overviewCards(overview, state);
  section.replaceChildren(cards[0]());
  const first = section.firstChild;
  for (const make of cards.slice(1)) {
    await new Promise((resolve) => setTimeout(resolve));
    if (section.firstChild !== first) return; // it is drawn anew
    section.append(make());
  }
}

function overviewCards(overview, state) {
  const { metrics } = overview;
  return [
    overview.compared && (() => comparedCard(overview)),
    () => summaryCard(overview),
    () => perClassCard(overview, state),
    metrics.intervals.some((row) => row.minus) && (() => differencesCard(overview)),
    metrics.error_budget?.length && (() => budgetCard(metrics)),
    overview.mapped.length && (() => errorKindsCard(overview, state)),
    metrics.lrp?.length && (() => lrpCard(overview, state)),
    metrics.slices?.length && (() => slicesCard(overview)),
    overview.choice && (() => choiceCard(overview.choice)),
    metrics.per_size?.length && (() => sizeCard(overview)),
    overview.routing && (() => routingCard(overview)),
    metrics.curves?.length && (() => endsCard(overview, state)),
    metrics.calibration_error?.length && (() => reliabilityCard(overview)),
    overview.curves?.length && (() => curvesCard(overview, state)),
    overview.mapped.length && (() => confusionCard(overview, state)),
    () => provenanceCard(overview),
  ].filter(Boolean);
}

const card = (title, note, ...content) => el("article.panel", el("h2", title), note && el("p.quiet", note), content);

function fullCard(...content) {
  const made = card(...content);
  made.classList.add("full");
  return made;
}

// What `make(set)` gives; `set({measure: "PQ"})` notes what the reader chose and puts another in its place.
function redrawn(make) {
  let node;
  const set = (chosen) => {
    const focused = document.activeElement.id;
    app.note(chosen);
    const old = node;
    node = make(set);
    old.replaceWith(node);
    document.getElementById(focused)?.focus();
  };
  node = make(set);
  return node;
}

const systemStyle = (overview, name) => numberedStyle(overview.systems.indexOf(name));
const numberedStyle = (index) => ({ "--system": `var(--system-${index % 6})` });
const swatch = (overview, name) => el("i.swatch", systemStyle(overview, name));

function summaryCard(overview) {
  const { systems } = overview;
  const { summary, intervals, boundary = {} } = overview.metrics;
  const ofAll = intervals.filter((row) => row.group === "All" && !row.minus);
  const limits = extent(ofAll.flatMap((row) => [row.low, row.high, row.PQ]));
  const measures = Object.entries(GROUPS).flatMap(([group, suffix]) =>
    MEASURES.map((measure) => ({
      ...(measure === "PQ" ? strong : numbers)(measure + suffix, (system) => percent(summary[system][group][measure])),
      title: `${measure} of ${group.toLowerCase()}`,
    })),
  );
  const interval = (system) =>
    intervalPlot(
      ofAll.find((row) => row.system === system),
      limits,
      { show: percent, style: systemStyle(overview, system) },
    );
  const columns = [
    { head: "system", kind: "th", cell: (system) => [swatch(overview, system), system] },
    ...measures,
    boundary[systems[0]] &&
      numbers("boundary PQ", (system) => percent(boundary[system].All.PQ), { title: "PQ where outlines count, too" }),
    { head: "PQ, 95 % interval", kind: "td.wide", cell: interval },
  ].filter(Boolean);
  return fullCard(
    "Panoptic quality",
    `Percent on ${count(overview.images.length, "image")}. Intervals are over images.`,
    overview.ignored && el("p", `Ignored: ${overview.ignored}`),
    table("Panoptic quality of every system", columns, systems),
  );
}

function extent(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
}

// The row's PQ and its interval, drawn between the limits; a dashed line where 0 lies between them.
function intervalPlot(row, [low, high], { show = signed, style = {} } = {}) {
  if (!row || row.PQ === null) return "–";
  const x = (value) => `${(4 + (92 * (value - low)) / (high - low || 1)).toFixed(2)}%`;
  const text = `${show(row.PQ)}, from ${show(row.low)} to ${show(row.high)}`;
  return el(
    "span.interval",
    svg(
      "svg.whisker",
      { role: "img", "aria-label": text, ...style },
      svg("title", text),
      low <= 0 && high >= 0 && svg("line.zero", { x1: x(0), x2: x(0), y1: 0, y2: "100%" }),
      svg("line", { x1: x(row.low ?? row.PQ), x2: x(row.high ?? row.PQ), y1: "50%", y2: "50%" }),
      svg("circle", { cx: x(row.PQ), cy: "50%", r: 4.5 }),
    ),
    el("span.quiet", row.low === null ? "" : `${show(row.low)} … ${show(row.high)}`),
  );
}

function differencesCard(overview) {
  const { metrics } = overview;
  const rows = metrics.intervals.filter((row) => row.minus);
  const limits = extent(rows.flatMap((row) => [row.low, row.high, 0]));
  const columns = [
    { head: "group", cell: (row) => row.group },
    { head: "system − system", cell: (row) => `${row.system} − ${row.minus}` },
    strong("PQ", (row) => signed(row.PQ)),
    { head: "95 % interval", kind: "td.wide", cell: (row) => intervalPlot(row, limits) },
  ];
  return (overview.compared ? fullCard : card)(
    "Differences of PQ",
    "Both systems on the same resampled images. Where the interval leaves 0 out, chance in the choice of images does not explain it.",
    table("Differences of PQ between systems", columns, rows),
  );
}

// The runs of a comparison: what each is, and what it changed against the first.
function comparedCard(overview) {
  const text = (said) => (Array.isArray(said) ? el("ul", said.map((line) => el("li", el("code", line)))) : said);
  const fact = ([label, said]) => el("div", el("dt", label), el("dd", text(said)));
  const run = ({ name, facts }) => el("li", el("h3", swatch(overview, name), name), el("dl.facts", facts.map(fact)));
  return fullCard(
    "Runs",
    "Params are those that differ from the first run's.",
    el("ul.compared", overview.compared.map(run)),
  );
}

// What the numbers come from.
function provenanceCard({ provenance: { dataset, weights, versions } }) {
  const entry = (label, text) => el("div", el("dt", label), el("dd", el("code", text)));
  const ofWeights = Object.entries(weights).map(([end, sha256]) => entry(`weights of ${end}`, sha256));
  const ofPackages = Object.entries(versions).map(([name, version]) => entry(name, version));
  const entries = [entry("data set's fingerprint", dataset), ofWeights, ofPackages];
  return fullCard("Provenance", "Checksums are SHA-256.", el("dl.facts", entries));
}

function budgetCard(metrics) {
  const [asFused, ...others] = metrics.error_budget;
  const gain = (row, key) => (row[key] === null || asFused[key] === null ? null : row[key] - asFused[key]);
  const share = (row) => `${Math.max(0, (100 * (gain(row, "PQ") ?? 0)) / Math.max(1, 100 - asFused.PQ))}%`;
  const columns = [
    { head: "part", kind: "th", cell: (row) => row.perfect },
    numbers("PQ", (row) => percent(row.PQ)),
    strong("gain", (row) => signed(gain(row, "PQ"))),
    numbers("things", (row) => signed(gain(row, "PQ_things"))),
    numbers("stuff", (row) => signed(gain(row, "PQ_stuff"))),
    { head: "of what is lost", kind: "td.wide", cell: (row) => el("div.bar", { "--value": share(row) }, el("span")) },
  ];
  return card(
    asFused.perfect === "as fused" ? "Error budget of the fusion" : `Error budget of the fusion, ${asFused.perfect}`,
    `PQ is ${percent(asFused.PQ)}. What it would gain if one part were perfect:`,
    table("Error budget", columns, others),
  );
}

// Which ends `fuse.method: auto` could have taken and how they could be pasted, and why it took those.
function choiceCard({ system, taken, paste_by, choices }) {
  const named = (ends) => ends.join(" + ");
  const isTaken = (row) => named(row.ends) === named(taken) && row.paste_by === paste_by;
  const columns = [
    { head: "ends", kind: "th", cell: ({ ends }) => named(ends) },
    { head: "pasted by", cell: (row) => row.paste_by.replace("_", " ") },
    strong("PQ", (row) => percent(inPercent(row.heldout_pq))),
    numbers("lead", (row) => signed(inPercent(row.lead)), { title: "over the first row" }),
    numbers("standard error", (row) => percent(inPercent(row.standard_error))),
    { head: "taken", cell: (row) => (isTaken(row) ? "yes" : "") },
  ];
  return card(
    "Choice of ends",
    `Whose segments ${system} takes, by cross-validated PQ on held-out images: all ends' unless fewer lead by more than one standard error, by the panoptic head unless the heuristic leads by as much.`,
    table("Choice of ends", columns, choices),
  );
}

function sizeCard({ metrics, sizes }) {
  const counts = { tp: "matched", fp: "wrong", fn: "missed" };
  const columns = [
    { head: "system", cell: (row) => row.system },
    { head: "size", cell: (row) => row.size },
    ...MEASURES.map((measure) => numbers(measure, (row) => percent(row[measure]))),
    metrics.boundary_per_size.length > 0 &&
      numbers("boundary PQ", ({ system, size }) =>
        percent(metrics.boundary_per_size.find((row) => row.system === system && row.size === size)?.PQ ?? null),
      ),
    ...Object.entries(counts).map(([key, text]) => numbers(text, (row) => grouped(row[key]))),
  ].filter(Boolean);
  const named = sizes.map(([name, low]) => (low ? `${name} from ${grouped(low)} px` : name)).join(", ");
  return card(
    "Things by size",
    `Sizes are COCO's: ${named}.`,
    table("Quality of things by size", columns, metrics.per_size),
  );
}
