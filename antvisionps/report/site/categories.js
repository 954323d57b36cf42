// The overview's cards of categories: quality, routing and confusion.
"use strict";

const MOST_CELLS = 30; // categories up to which the confusion is shown as a matrix
const LONGEST_LIST = 25;
const REASONS = { better_ap: "better AP", tie: "tie", too_few_instances: "too few instances", only_end: "only end" };

function perClassCard(overview) {
  const { systems } = overview;
  const rowOf = new Map();
  for (const row of overview.metrics.per_class) {
    if (!rowOf.has(row.category)) rowOf.set(row.category, {});
    rowOf.get(row.category)[row.system] = row;
  }
  return redrawn((set) => {
    const { measure, sort } = overviewChoice;
    const shown = sortedCategories(overview, (name, system) => rowOf.get(name)?.[system]?.[measure] ?? NaN, sort);
    return fullCard(
      "By category",
      "A category leads to its images, worst first.",
      el(
        "div.filters",
        choice("Measure", measure, MEASURES, (chosen) => set({ measure: chosen })),
        choice("Order", sort, categoryOrders(systems), (chosen) => set({ sort: chosen })),
        el("span.legend", systems.map((system) => el("span", swatch(overview, system), system))),
      ),
      el(
        "ul.bars",
        { "aria-label": `${measure} of every category and system` },
        shown
          .filter(({ name }) => rowOf.has(name))
          .map(({ name, thing, index }) =>
            el(
              "li",
              el("a", { href: addressOfCategory(index) }, name, " ", el("small.quiet", thing ? "thing" : "stuff")),
              el("div", systems.map((system) => qualityBar(overview, system, rowOf.get(name)[system], measure))),
            ),
          ),
      ),
    );
  });
}

function categoryOrders(systems) {
  const last = systems[systems.length - 1];
  return [
    ["order", "data set's order"],
    ["name", "name"],
    ...systems.flatMap((system) => [
      [`system|${system}`, `best of ${system}`],
      [`worst|${system}`, `worst of ${system}`],
    ]),
    ...systems.filter((system) => system !== last).map((system) => [`gain|${system}|${last}`, `${last} − ${system}`]),
  ];
}

// All categories with their class index; `value(name, system)` is NaN where there is none, which comes last.
function sortedCategories({ categories }, value, sort) {
  const [kind, first, second] = sort.split("|");
  const key = {
    order: ({ index }) => index,
    system: ({ name }) => -value(name, first),
    worst: ({ name }) => value(name, first),
    gain: ({ name }) => value(name, first) - value(name, second),
  }[kind];
  const nanLast = (number) => (Number.isNaN(number) ? Infinity : number);
  const difference = (one, other) =>
    key ? nanLast(key(one)) - nanLast(key(other)) : one.name.localeCompare(other.name);
  return categories
    .map((category, index) => ({ ...category, index }))
    .sort((one, other) => difference(one, other) || one.index - other.index);
}

const addressOfCategory = (index) => app.address({ ...NO_FILTER, view: "images", category: String(index) });

function qualityBar(overview, system, row, measure) {
  const text = row
    ? `${system}: ${measure} ${percent(row[measure])}, ${row.tp} matched, ${row.fp} wrong, ${row.fn} missed`
    : `${system}: no segment`;
  return el(
    "div.bar",
    { title: text, ...systemStyle(overview, system), "--value": `${row?.[measure] ?? 0}%` },
    el("span", { role: "img", "aria-label": text }),
    el("output", percent(row?.[measure] ?? null)),
  );
}

function routingCard(overview) {
  const { routing, ends, categories } = overview;
  const rows = routing.categories;
  if (!rows.length) return card("Routing", "The data set has no things: there are no instances to route.");
  const inPercent = (value) => (value === null || value === undefined ? null : 100 * value);
  const leadOf = ({ lead }) =>
    lead && { PQ: inPercent(lead.AP), low: inPercent(lead.low), high: inPercent(lead.high) };
  const limits = extent([0, ...rows.flatMap((row) => Object.values(leadOf(row) ?? {}))]);
  const columns = [
    { head: "category", kind: "th", cell: (row) => categories[row.class].name },
    { head: "end", cell: (row) => row.end },
    { head: "why", kind: "td.quiet", cell: (row) => REASONS[row.reason] ?? row.reason },
    ...ends.map((end) => ({
      ...numbers(`AP ${end}`, (row) => percent(inPercent(row.ap[end]))),
      attributes: (row) => ({ class: end === row.end ? "strong" : null }),
    })),
    numbers("true", (row) => String(row.n_gt), { title: "true instances on held-out images" }),
    numbers("gap", (row) => signed(leadOf(row)?.PQ ?? null)),
    { head: "95 % interval", kind: "td.wide", cell: (row) => intervalPlot(leadOf(row), limits) },
  ];
  return fullCard(
    "Routing",
    "Whose instances the fusion takes, by mask AP on held-out images. The gap is that of the chosen end to the best other one.",
    table("Routing table", columns, rows),
  );
}

function confusionCard(overview, state) {
  const names = [...overview.categories.map(({ name }) => name), "void"];
  const isMatrix = names.length <= MOST_CELLS + 1;
  return redrawn((set) => {
    const system = overviewChoice.confusion ?? state.system;
    const triples = overview.confusion[system];
    const ofTruth = new Map();
    for (const [truth, , pixels] of triples) ofTruth.set(truth, (ofTruth.get(truth) ?? 0) + pixels);
    const share = ([truth, , pixels]) => (100 * pixels) / ofTruth.get(truth);
    return fullCard(
      "Confusion of categories",
      "Share of each true category's pixels (row), crowds included, that the system gives to each category (column).",
      el("div.filters", choice("System", system, overview.systems, (chosen) => set({ confusion: chosen }))),
      isMatrix && confusionMatrix(names, triples, share, ofTruth),
      el("details", { open: !isMatrix }, el("summary", "Largest confusions"), confusionList(names, triples, share)),
    );
  });
}

function confusionMatrix(names, triples, share, ofTruth) {
  const shares = new Map(triples.map((triple) => [`${triple[0]},${triple[1]}`, share(triple)]));
  const column = (name, predicted) => {
    const value = (truth) => shares.get(`${truth},${predicted}`) ?? 0;
    return {
      head: el("span", name),
      headKind: "th.tilted",
      title: name,
      kind: "td.cell",
      attributes: (truth) => ({
        class: truth === predicted ? "right" : null,
        "--share": (value(truth) / 100).toFixed(4),
        title: `${percent(value(truth))} % of ${names[truth]} is called ${name}`,
      }),
      cell: (truth) =>
        el("span", { class: value(truth) >= 55 ? "on-dark" : null }, value(truth) >= 0.5 && value(truth).toFixed(0)),
    };
  };
  return table(
    "Confusion of categories in percent of true pixels",
    [{ head: "truth ↓ prediction →", kind: "th", cell: (truth) => names[truth] }, ...names.map(column)],
    names.map((_, index) => index).filter((index) => ofTruth.has(index)),
    { kind: "table.confusion" },
  );
}

function confusionList(names, triples, share) {
  const wrong = triples.filter(([truth, predicted]) => truth !== predicted && truth !== names.length - 1);
  wrong.sort((one, other) => other[2] - one[2]);
  const columns = [
    { head: "truth", cell: ([truth]) => names[truth] },
    { head: "called", cell: ([, predicted]) => names[predicted] },
    numbers("pixels", ([, , pixels]) => grouped(pixels)),
    numbers("share of the truth, %", (triple) => percent(share(triple))),
  ];
  return table("Largest confusions", columns, wrong.slice(0, LONGEST_LIST));
}
