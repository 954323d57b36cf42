// The numbers of the whole split: tables, bars, confusion and curves.
"use strict";

const GROUPS = ["All", "Things", "Stuff"];
const MEASURES = ["PQ", "SQ", "RQ"];
const MOST_CELLS = 30; // categories up to which the confusion is shown as a matrix
const REASONS = { better_ap: "better AP", tie: "tie", too_few_instances: "too few instances", only_end: "only end" };

// What the reader chose here; it outlives a visit to the images.
const overviewChoice = { measure: "PQ", sort: "order", confusion: null, curve: "loss" };

function showOverview(section, overview, state) {
  const { metrics } = overview;
  const shownCurves = curveNames(overview);
  section.replaceChildren(
    ...[
      summaryCard(overview),
      perClassCard(overview),
      metrics.intervals.some((row) => row.minus) && differencesCard(metrics),
      budgetCard(metrics),
      routingCard(overview),
      sizeCard(overview),
      shownCurves.length && curvesCard(overview, shownCurves),
      confusionCard(overview, state),
    ].filter(Boolean),
  );
}

function card(title, note, ...content) {
  return el("article.panel", {}, el("h2", {}, title), note && el("p.quiet", {}, note), ...content);
}

function fullCard(...content) {
  const made = card(...content);
  made.classList.add("full");
  return made;
}

const redraw = (old, make) => {
  const made = make();
  old.replaceWith(made);
  return made;
};
const systemStyle = (overview, name) => ({ "--system": `var(--system-${overview.systems.indexOf(name) % 6})` });
const swatch = (overview, name) => el("i.swatch", systemStyle(overview, name));

function table(head, rows, attributes = {}) {
  return el(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": attributes["aria-label"] },
    el("table", attributes, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)),
  );
}

const th = (text, attributes = {}) => el("th", { scope: "col", ...attributes }, text);
const number = (value, digits = 1) => el("td.number", {}, percent(value, digits));

function summaryCard(overview) {
  const { summary, intervals } = overview.metrics;
  const limits = extent(
    intervals.filter((row) => row.group === "All" && !row.minus).flatMap((row) => [row.low, row.high, row.PQ]),
  );
  const rows = overview.systems.map((system) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, swatch(overview, system), system),
      GROUPS.flatMap((group) =>
        MEASURES.map((measure) =>
          el(measure === "PQ" ? "td.number.strong" : "td.number", {}, percent(summary[system][group][measure])),
        ),
      ),
      el(
        "td.wide",
        {},
        intervalPlot(
          overview,
          system,
          intervals.find((row) => row.group === "All" && row.system === system && !row.minus),
          limits,
        ),
      ),
    ),
  );
  const head = [
    th("system"),
    GROUPS.flatMap((group) =>
      MEASURES.map((measure) =>
        th(measure + { All: "", Things: "ᵀʰ", Stuff: "ˢᵗ" }[group], {
          class: "number",
          title: `${measure} of ${group.toLowerCase()}`,
        }),
      ),
    ),
    th("PQ, 95 % interval"),
  ];
  return fullCard(
    "Panoptic quality",
    `Percent on ${count(overview.images.length, "image")}. Intervals are over images.`,
    table(head, rows, { "aria-label": "Panoptic quality of every system" }),
  );
}

function extent(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
}

function intervalPlot(overview, system, row, [low, high], signedValues = false) {
  if (!row || row.PQ === null) return "–";
  const span = high - low || 1;
  const x = (value) => `${(4 + (92 * (value - low)) / span).toFixed(2)}%`;
  const show = signedValues ? signed : percent;
  const text = `${show(row.PQ)}, from ${show(row.low)} to ${show(row.high)}`;
  return el(
    "span.interval",
    {},
    svg(
      "svg.whisker",
      { role: "img", "aria-label": text, ...(overview ? systemStyle(overview, system) : {}) },
      svg("title", {}, text),
      signedValues && low < 0 && high > 0 && svg("line.zero", { x1: x(0), x2: x(0), y1: 0, y2: "100%" }),
      svg("line", { x1: x(row.low ?? row.PQ), x2: x(row.high ?? row.PQ), y1: "50%", y2: "50%" }),
      svg("circle", { cx: x(row.PQ), cy: "50%", r: 4.5 }),
    ),
    el("span.quiet", {}, row.low === null ? "" : `${show(row.low)} … ${show(row.high)}`),
  );
}

function differencesCard(metrics) {
  const rows = metrics.intervals.filter((row) => row.minus);
  const limits = extent(rows.flatMap((row) => [row.low, row.high, 0]));
  return card(
    "Differences of PQ",
    "Both systems on the same resampled images. Where the interval leaves 0 out, the images at hand do not explain it.",
    table(
      [th("group"), th("system − system"), th("PQ", { class: "number" }), th("95 % interval")],
      rows.map((row) =>
        el(
          "tr",
          {},
          el("td", {}, row.group),
          el("td", {}, `${row.system} − ${row.minus}`),
          el("td.number.strong", {}, signed(row.PQ)),
          el("td.wide", {}, intervalPlot(null, null, row, limits, true)),
        ),
      ),
      { "aria-label": "Differences of PQ between systems" },
    ),
  );
}

function perClassCard(overview) {
  const { systems, categories } = overview;
  const rowOf = new Map();
  for (const row of overview.metrics.per_class) {
    if (!rowOf.has(row.category)) rowOf.set(row.category, {});
    rowOf.get(row.category)[row.system] = row;
  }
  const make = () => {
    const { measure, sort } = overviewChoice;
    const value = (name, system) => rowOf.get(name)?.[system]?.[measure] ?? NaN;
    const shown = categories.map((category, index) => ({ ...category, index })).filter(({ name }) => rowOf.has(name));
    const [kind, first, second] = sort.split("|");
    const key = {
      name: null,
      order: ({ index }) => index,
      system: ({ name }) => -value(name, first),
      worst: ({ name }) => value(name, first),
      gain: ({ name }) => -(value(name, second) - value(name, first)),
    }[kind];
    const nanLast = (number) => (Number.isNaN(number) ? Infinity : number);
    shown.sort(
      (one, other) =>
        (key ? nanLast(key(one)) - nanLast(key(other)) : one.name.localeCompare(other.name)) || one.index - other.index,
    );
    const last = systems[systems.length - 1];
    const sorts = [
      ["order", "data set's order"],
      ["name", "name"],
      ...systems.flatMap((system) => [
        [`system|${system}`, `best of ${system}`],
        [`worst|${system}`, `worst of ${system}`],
      ]),
      ...systems.filter((system) => system !== last).map((system) => [`gain|${system}|${last}`, `${last} − ${system}`]),
    ];
    const set = (name) => (chosen) => {
      overviewChoice[name] = chosen;
      node = redraw(node, make);
    };
    return fullCard(
      "By category",
      "A category leads to its images, worst first.",
      el(
        "div.filters",
        {},
        choice(
          "Measure",
          measure,
          MEASURES.map((name) => [name, name]),
          set("measure"),
        ),
        choice("Order", sort, sorts, set("sort")),
        el(
          "span.legend",
          {},
          systems.map((system) => el("span", {}, swatch(overview, system), system)),
        ),
      ),
      el(
        "ul.bars",
        { "aria-label": `${measure} of every category and system` },
        shown.map(({ name, thing, index }) =>
          el(
            "li",
            {},
            el(
              "a",
              {
                href: app.address({
                  view: "images",
                  category: String(index),
                  size: "",
                  error: "",
                  change: "",
                  sort: "worst",
                }),
              },
              name,
              " ",
              el("small.quiet", {}, thing ? "thing" : "stuff"),
            ),
            el(
              "div",
              {},
              systems.map((system) => {
                const row = rowOf.get(name)[system];
                const text = row
                  ? `${system}: ${measure} ${percent(row[measure])}, ${row.tp} matched, ${row.fp} wrong, ${row.fn} missed`
                  : `${system}: no segment`;
                return el(
                  "div.bar",
                  { title: text, ...systemStyle(overview, system), "--value": `${row?.[measure] ?? 0}%` },
                  el("span", { role: "img", "aria-label": text }),
                  el("output", {}, percent(row?.[measure] ?? null)),
                );
              }),
            ),
          ),
        ),
      ),
    );
  };
  let node = make();
  return node;
}

function routingCard(overview) {
  const { routing, ends, categories } = overview;
  if (!routing.categories.length)
    return card("Routing", "The data set has no things: there are no instances to route.");
  const gaps = extent(
    routing.categories
      .flatMap(({ lead }) => (lead ? [lead.AP, lead.low, lead.high, 0] : [0]))
      .map((value) => value && 100 * value),
  );
  const scaled = ({ AP, low, high }) => ({
    PQ: AP === null ? null : 100 * AP,
    low: low === null ? null : 100 * low,
    high: high === null ? null : 100 * high,
  });
  return fullCard(
    "Routing",
    "Whose instances the fusion takes, by mask AP on held-out images. The gap is that of the chosen end to the best other one.",
    table(
      [
        th("category"),
        th("end"),
        th("why"),
        ends.map((end) => th(`AP ${end}`, { class: "number" })),
        th("true", { class: "number", title: "true instances on held-out images" }),
        th("gap", { class: "number" }),
        th("95 % interval"),
      ],
      routing.categories.map((row) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, categories[row.class].name),
          el("td", {}, row.end),
          el("td.quiet", {}, REASONS[row.reason] ?? row.reason),
          ends.map((end) =>
            el(
              end === row.end ? "td.number.strong" : "td.number",
              {},
              percent(row.ap[end] === null || row.ap[end] === undefined ? null : 100 * row.ap[end]),
            ),
          ),
          el("td.number", {}, String(row.n_gt)),
          el("td.number", {}, row.lead ? signed(row.lead.AP === null ? null : 100 * row.lead.AP) : "–"),
          el("td.wide", {}, row.lead ? intervalPlot(null, null, scaled(row.lead), gaps, true) : "–"),
        ),
      ),
      { "aria-label": "Routing table" },
    ),
  );
}

function budgetCard(metrics) {
  const [asFused, ...others] = metrics.error_budget;
  const gain = (row, key) => (row[key] === null || asFused[key] === null ? null : row[key] - asFused[key]);
  return card(
    asFused.perfect === "as fused" ? "Error budget of the fusion" : `Error budget of the fusion, ${asFused.perfect}`,
    `PQ is ${percent(asFused.PQ)}. What it would gain if one part were perfect:`,
    table(
      [
        th("part"),
        th("PQ", { class: "number" }),
        th("gain", { class: "number" }),
        th("things", { class: "number" }),
        th("stuff", { class: "number" }),
        th(""),
      ],
      others.map((row) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, row.perfect),
          number(row.PQ),
          el("td.number.strong", {}, signed(gain(row, "PQ"))),
          el("td.number", {}, signed(gain(row, "PQ_things"))),
          el("td.number", {}, signed(gain(row, "PQ_stuff"))),
          el(
            "td.wide",
            {},
            el(
              "div.bar",
              { "--value": `${Math.max(0, (100 * (gain(row, "PQ") ?? 0)) / Math.max(1, 100 - asFused.PQ))}%` },
              el("span"),
            ),
          ),
        ),
      ),
      { "aria-label": "Error budget" },
    ),
  );
}

function sizeCard({ metrics, sizes }) {
  return card(
    "Things by size",
    `Sizes are COCO's: ${sizes.map(([name, low]) => (low ? `${name} from ${low.toLocaleString("en")} px` : name)).join(", ")}.`,
    table(
      [
        th("system"),
        th("size"),
        MEASURES.map((measure) => th(measure, { class: "number" })),
        ["matched", "wrong", "missed"].map((text) => th(text, { class: "number" })),
      ],
      metrics.per_size.map((row) =>
        el(
          "tr",
          {},
          el("td", {}, row.system),
          el("td", {}, row.size),
          MEASURES.map((measure) => number(row[measure])),
          ["tp", "fp", "fn"].map((key) => el("td.number", {}, row[key].toLocaleString("en"))),
        ),
      ),
      { "aria-label": "Quality of things by size" },
    ),
  );
}

function confusionCard(overview, state) {
  const names = [...overview.categories.map(({ name }) => name), "void"];
  const make = () => {
    const system = overviewChoice.confusion ?? state.system;
    const triples = overview.confusion[system];
    const ofTruth = new Map();
    for (const [truth, , pixels] of triples) ofTruth.set(truth, (ofTruth.get(truth) ?? 0) + pixels);
    const share = ([truth, , pixels]) => (100 * pixels) / ofTruth.get(truth);
    return fullCard(
      "Confusion of categories",
      "Share of each true category's pixels (row), crowds included, that the system gives to each category (column).",
      el(
        "div.filters",
        {},
        choice(
          "System",
          system,
          overview.systems.map((name) => [name, name]),
          (chosen) => {
            overviewChoice.confusion = chosen;
            node = redraw(node, make);
          },
        ),
      ),
      names.length <= MOST_CELLS + 1 ? confusionMatrix(names, triples, share, ofTruth) : null,
      el(
        "details",
        { open: names.length > MOST_CELLS + 1 },
        el("summary", {}, "Largest confusions"),
        confusionList(names, triples, share),
      ),
    );
  };
  let node = make();
  return node;
}

function confusionMatrix(names, triples, share, ofTruth) {
  const cells = new Map(triples.map((triple) => [`${triple[0]},${triple[1]}`, share(triple)]));
  const columns = names.map((_, index) => index);
  return table(
    [
      th("truth ↓ prediction →"),
      columns.map((index) => th(el("span", {}, names[index]), { class: "tilted", title: names[index] })),
    ],
    columns
      .filter((truth) => ofTruth.has(truth))
      .map((truth) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, names[truth]),
          columns.map((predicted) => {
            const value = cells.get(`${truth},${predicted}`) ?? 0;
            return el(
              truth === predicted ? "td.cell.right" : "td.cell",
              {
                "--share": (value / 100).toFixed(4),
                title: `${percent(value)} % of ${names[truth]} is called ${names[predicted]}`,
              },
              el("span", { class: value >= 55 ? "on-dark" : null }, value >= 0.5 ? value.toFixed(0) : ""),
            );
          }),
        ),
      ),
    { class: "confusion", "aria-label": "Confusion of categories in percent of true pixels" },
  );
}

function confusionList(names, triples, share) {
  const wrong = triples.filter(([truth, predicted]) => truth !== predicted && truth !== names.length - 1);
  wrong.sort((one, other) => other[2] - one[2]);
  return table(
    [th("truth"), th("called"), th("pixels", { class: "number" }), th("share of the truth, %", { class: "number" })],
    wrong
      .slice(0, 25)
      .map((triple) =>
        el(
          "tr",
          {},
          el("td", {}, names[triple[0]]),
          el("td", {}, names[triple[1]]),
          el("td.number", {}, triple[2].toLocaleString("en")),
          number(share(triple)),
        ),
      ),
    { "aria-label": "Largest confusions" },
  );
}

const curveNames = (overview) =>
  [...new Set(overview.curves.map(({ name }) => name))].sort(
    (one, other) => (other === "loss") - (one === "loss") || one.localeCompare(other),
  );

function curvesCard(overview, names) {
  const make = () => {
    const name = names.includes(overviewChoice.curve) ? overviewChoice.curve : names[0];
    const curves = overview.curves.filter((curve) => curve.name === name);
    return card(
      "Training curves",
      "Each point is the mean of some iterations.",
      el(
        "div.filters",
        {},
        choice(
          "Curve",
          name,
          names.map((text) => [text, text]),
          (chosen) => {
            overviewChoice.curve = chosen;
            node = redraw(node, make);
          },
        ),
        el(
          "span.legend",
          {},
          curves.map((curve, index) =>
            el(
              "span",
              {},
              el("i.swatch", { "--system": `var(--system-${index % 6})` }),
              `${curve.end} ${curve.member}`,
            ),
          ),
        ),
      ),
      linePlot(name, curves),
    );
  };
  let node = make();
  return node;
}

function linePlot(name, curves) {
  const [width, height, left, bottom, top] = [760, 240, 52, 28, 8];
  const [, lastStep] = extent(curves.flatMap(({ steps }) => steps));
  const [low, high] = extent(curves.flatMap(({ values }) => values).concat(0));
  const x = (step) => left + ((width - left - 8) * step) / (lastStep || 1);
  const y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low || 1);
  const ticks = (from, to) => {
    const step = niceStep((to - from) / 4);
    const list = [];
    for (let v = Math.ceil(from / step) * step; v <= to + step * 1e-6; v += step) list.push(Number(v.toPrecision(6)));
    return list;
  };
  return svg(
    "svg.plot",
    {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `${name} over iterations: ${curves.map((curve) => `${curve.end} ${curve.member} ends at ${curve.values[curve.values.length - 1]}`).join(", ")}`,
    },
    ticks(low, high)
      .map((value) => [
        svg("line.rule", { x1: left, x2: width - 8, y1: y(value), y2: y(value) }),
        svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)),
      ])
      .flat(),
    ticks(0, lastStep).map((step) =>
      svg("text", { x: x(step), y: height - 8, "text-anchor": "middle" }, step.toLocaleString("en")),
    ),
    curves.map((curve, index) =>
      svg(
        "polyline",
        {
          "--system": `var(--system-${index % 6})`,
          points: curve.steps
            .map((step, place) => `${x(step).toFixed(1)},${y(curve.values[place]).toFixed(1)}`)
            .join(" "),
        },
        svg("title", {}, `${curve.end} ${curve.member}`),
      ),
    ),
  );
}

function niceStep(raw) {
  const power = 10 ** Math.floor(Math.log10(raw || 1));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= raw);
}
