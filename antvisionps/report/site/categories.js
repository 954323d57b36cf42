// The overview's cards of categories: quality and routing.
"use strict";

const BOUNDARY = "boundary PQ";
const REASONS = { better_ap: "better AP", tie: "tie", too_few_instances: "too few instances", only_end: "only end" };

function perClassCard(overview, state) {
  const { systems, metrics } = overview;
  const measures = metrics.boundary_per_class?.length ? [...MEASURES, BOUNDARY] : MEASURES;
  return redrawn((set) => {
    const measure = measures.includes(state.measure) ? state.measure : "PQ";
    const rowOf = rowsByCategory(metrics, measure);
    const shown = sortedCategories(overview, (name, system) => rowOf.get(name)?.[system]?.value ?? NaN, state.bars);
    return fullCard(
      "By category",
      "A category, or the bar of a system, leads to its images.",
      el(
        "div.filters",
        choice("Measure", measure, measures, (chosen) => set({ measure: chosen }), "measure"),
        choice("Order", state.bars, categoryOrders(systems), (bars) => set({ bars }), "bars"),
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
              el("div", systems.map((system) => qualityBar(overview, system, rowOf.get(name)[system], measure, index))),
            ),
          ),
      ),
    );
  });
}

// Category → system → its row with the measure as `value`.
function rowsByCategory(metrics, measure) {
  const isBoundary = measure === BOUNDARY;
  const found = new Map();
  for (const row of isBoundary ? metrics.boundary_per_class : metrics.per_class) {
    if (!found.has(row.category)) found.set(row.category, {});
    found.get(row.category)[row.system] = { ...row, value: row[isBoundary ? "PQ" : measure] };
  }
  return found;
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
    ...systems
      .filter((system) => system !== last)
      .flatMap((system) => [
        [`gain|${system}|${last}`, `gain of ${last} over ${system}`],
        [`loss|${system}|${last}`, `loss of ${last} to ${system}`],
      ]),
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
    loss: ({ name }) => value(name, second) - value(name, first),
  }[kind];
  const nanLast = (number) => (Number.isNaN(number) ? Infinity : number);
  const difference = (one, other) =>
    key ? nanLast(key(one)) - nanLast(key(other)) : one.name.localeCompare(other.name);
  return categories
    .map((category, index) => ({ ...category, index }))
    .sort((one, other) => difference(one, other) || one.index - other.index);
}

const addressOfCategory = (index, more = {}) =>
  app.address({ ...NO_FILTER, view: "images", category: String(index), ...more });

function qualityBar(overview, system, row, measure, category) {
  const text = row
    ? `${system}: ${measure} ${percent(row.value)}, ${row.tp} matched, ${row.fp} wrong, ${row.fn} missed`
    : `${system}: no segment`;
  return el(
    "a.bar",
    {
      href: addressOfCategory(category, { system }),
      title: text,
      "aria-label": text,
      ...systemStyle(overview, system),
      "--value": `${row?.value ?? 0}%`,
    },
    el("span"),
    el("output", percent(row?.value ?? null)),
  );
}

function routingCard(overview) {
  const { routing, ends, categories } = overview;
  const rows = routing.categories;
  if (!rows.length) return card("Routing", "The data set has no things: there are no instances to route.");
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
    "Mask AP on held-out images, and the end that it chooses. The fusion takes that end's instances where fuse.instance_ensemble is best_of_class and fuse.method is not auto. The gap is that to the best other end.",
    table("Routing table", columns, rows),
  );
}
