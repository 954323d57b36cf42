// Below the panels: what the colours mean, the segments with their faults first, and the rejected candidates.
"use strict";

const OUTCOME_RANK = [...Object.keys(LOSSES), "ignored", "matched"];
const STATES = { tp: "TP", fp: "FP", fn: "FN", ignored: "–" };

function legend(data, layers, state) {
  const listed = Object.values(data.systems).flatMap(({ segments }) => segments);
  const present = new Set([...data.segments, ...listed].map((segment) => segment.class));
  const errors = Object.values(ERRORS).map((error) => {
    const [first, second] = stripesOf(error).map(cssRgb);
    return el("li", el("i.swatch.striped", { "--first": first, "--second": second }), error.text);
  });
  const categories = [...present]
    .sort((one, other) => one - other)
    .map((index) => el("li", isolateButton(index, layers, state)));
  return el(
    "div.legends",
    el("ul.legend", { "aria-label": "Colours of errors" }, errors),
    el("ul.legend", { "aria-label": "Colours of categories" }, categories),
  );
}

function isolateButton(index, layers, { only }) {
  const isOnly = only === String(index);
  const attributes = {
    type: "button",
    id: `only-${index}`,
    "aria-pressed": String(isOnly),
    title: isOnly ? "Show all categories" : `Show only ${layers.names[index]}`,
    onclick: () => app.go({ only: isOnly ? "" : String(index) }),
  };
  return el("button.class", attributes, el("i.swatch", { "--system": cssRgb(layers.colors[index]) }), layers.names[index]);
}

function lists(data, layers, state) {
  if (!(state.system in data.systems)) return el("p.quiet", `The maps of ${state.system} are not at hand.`);
  return el("div.lists", segmentList(data, layers, state), rejectedList(data, layers, state));
}

// Attributes of a row that outlines `mask()` in every panel while it is pointed at.
const pointing = (mask) => ({
  tabindex: 0,
  onpointerenter: () => drawOutline(mask()),
  onfocus: () => drawOutline(mask()),
  onpointerleave: () => drawOutline(null),
  onblur: () => drawOutline(null),
});

function segmentList(data, layers, state) {
  const system = data.systems[state.system];
  const rows = [
    ...system.segments.map((segment, place) => ({ ...segment, place, side: 1 })),
    ...data.segments
      .map((segment, place) => ({ ...segment, ...system.gt_outcomes[place], place, side: 0 }))
      .filter((row) => row.outcome !== "matched"),
  ].sort(
    (one, other) => OUTCOME_RANK.indexOf(one.outcome) - OUTCOME_RANK.indexOf(other.outcome) || one.iou - other.iou,
  );
  const stateOf = ({ outcome, side }) => ({ matched: "tp", ignored: "ignored" })[outcome] ?? (side ? "fp" : "fn");
  const outline = (row) => layers.outline(row.side ? "system" : "truth", row.place + 1);
  const columns = [
    { head: "is", cell: (row) => el(`span.state.${stateOf(row)}`, STATES[stateOf(row)]) },
    { head: "category", cell: (row) => layers.names[row.class] },
    { head: "why", kind: "td.why", cell: (row) => layers.outcomeText(row.side, row) },
    numbers("score", (row) => row.side === 1 && row.score !== null && row.score.toFixed(2)),
    { head: "from", cell: (row) => row.end ?? "truth" },
    numbers("px", (row) => grouped(row.area)),
  ];
  return el(
    "article.panel",
    { id: "segments" },
    el("h2", `Segments of ${state.system}`),
    el("p.quiet", "Faults first; a row draws its segment's outline."),
    table("Segments", columns, rows, {
      rowOf: (row) => el("tr", { ...pointing(() => outline(row)), "data-outcome": row.outcome }),
    }),
  );
}

function rejectedList(data, layers, state) {
  const { rejected } = data.systems[state.system];
  const instanceOf = ({ end, instance }) => (instance === null ? null : data.ends[end]?.instances[instance]);
  const wasRight = (candidate) => Boolean(instanceOf(candidate)) && layers.wouldMatch(instanceOf(candidate));
  const rows = [...rejected].sort(
    (one, other) => wasRight(other) - wasRight(one) || (other.score ?? -1) - (one.score ?? -1),
  );
  const reason = (candidate) => [
    REJECTED[candidate.reason] ?? candidate.reason,
    wasRight(candidate) && el("b", ", but it fits a missed one"),
  ];
  const columns = [
    { head: "category", cell: (candidate) => layers.names[candidate.class] },
    numbers("score", ({ score }) => score !== null && score.toFixed(2)),
    { head: "reason", kind: "td.why", cell: reason },
    { head: "from", cell: ({ end }) => end },
    numbers("IoU", (candidate) => instanceOf(candidate)?.iou.toFixed(2), {
      title: "with the nearest true one of its category",
    }),
    numbers("px", ({ area }) => grouped(area)),
    numbers("free", ({ free }) => free !== null && grouped(free), { title: "pixels that nobody had taken" }),
  ];
  return el(
    "article.panel",
    { id: "rejected" },
    el("h2", `${count(rejected.length, "candidate")} rejected`),
    el("p.quiet", `Not in the map of ${state.system}, and why.`),
    table("Rejected candidates", columns, rows, {
      rowOf: (candidate) => el(wasRight(candidate) ? "tr.right" : "tr", pointing(() => layers.candidateMask(candidate))),
    }),
  );
}
