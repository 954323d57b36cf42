// Below the panels: what the colours mean, the segments with their faults first, and the rejected candidates.
"use strict";

function legend(overview, data, layers, state) {
  const present = new Set([...data.segments, ...data.systems[state.system].segments].map((segment) => segment.class));
  const stripes = ([first, second]) => ({ "--first": cssRgb(first), "--second": cssRgb(second) });
  return el(
    "div.legends",
    {},
    el(
      "ul.legend",
      { "aria-label": "Colours of errors" },
      Object.entries(ERROR_COLORS).map(([key, pair]) =>
        el("li", {}, el("i.swatch.striped", stripes(pair)), ERROR_TEXTS[key]),
      ),
    ),
    el(
      "ul.legend",
      { "aria-label": "Colours of categories" },
      [...present]
        .sort((one, other) => one - other)
        .map((index) =>
          el("li", {}, el("i.swatch", { "--system": cssRgb(layers.colors[index]) }), layers.names[index]),
        ),
    ),
  );
}

const OUTCOME_RANK = ["wrong_class", "poor_mask", "alone", "ignored", "matched"];

function lists(overview, data, layers, state) {
  const system = data.systems[state.system];
  const rows = [
    ...system.segments.map((segment, place) => ({ ...segment, place, side: 1 })),
    ...data.segments
      .map((segment, place) => ({ ...segment, ...system.gt_outcomes[place], place, side: 0 }))
      .filter((row) => row.outcome !== "matched"),
  ].sort(
    (one, other) => OUTCOME_RANK.indexOf(one.outcome) - OUTCOME_RANK.indexOf(other.outcome) || one.iou - other.iou,
  );
  const kind = ({ outcome, side }) =>
    outcome === "matched" ? "tp" : outcome === "ignored" ? "ignored" : side ? "fp" : "fn";
  const pointing = (mask) => ({
    tabindex: 0,
    onpointerenter: () => drawOutline(mask()),
    onfocus: () => drawOutline(mask()),
    onpointerleave: () => drawOutline(null),
    onblur: () => drawOutline(null),
  });
  const segments = rows.map((row) =>
    el(
      "tr",
      { ...pointing(() => layers.outline(row.side ? "system" : "truth", row.place + 1)), "data-outcome": row.outcome },
      el("td", {}, el(`span.state.${kind(row)}`, {}, { tp: "TP", fp: "FP", fn: "FN", ignored: "–" }[kind(row)])),
      el("td", {}, layers.names[row.class]),
      el("td.why", {}, layers.outcomeText(row.side, row)),
      el("td.number", {}, row.side && row.score !== null ? row.score.toFixed(2) : ""),
      el("td", {}, row.end ?? "truth"),
      el("td.number", {}, row.area.toLocaleString("en")),
    ),
  );
  const instanceOf = ({ end, instance }) => (instance === null ? null : data.ends[end].instances[instance]);
  const wasRight = (candidate) => candidate.instance !== null && layers.wouldMatch(instanceOf(candidate));
  const rejected = [...system.rejected]
    .sort((one, other) => wasRight(other) - wasRight(one) || (other.score ?? -1) - (one.score ?? -1))
    .map((candidate) =>
      el(
        wasRight(candidate) ? "tr.right" : "tr",
        pointing(() => layers.candidateMask(candidate)),
        el("td", {}, layers.names[candidate.class]),
        el("td.number", {}, candidate.score === null ? "" : candidate.score.toFixed(2)),
        el(
          "td.why",
          {},
          REJECTED[candidate.reason] ?? candidate.reason,
          wasRight(candidate) && el("b", {}, ", but it fits a missed one"),
        ),
        el("td", {}, candidate.end),
        el("td.number", {}, instanceOf(candidate)?.iou.toFixed(2) ?? ""),
        el("td.number", {}, candidate.area.toLocaleString("en")),
        el("td.number", {}, candidate.free === null ? "" : candidate.free.toLocaleString("en")),
      ),
    );
  return [
    el(
      "div.lists",
      {},
      el(
        "article.panel",
        { id: "segments" },
        el("h2", {}, `Segments of ${state.system}`),
        el("p.quiet", {}, "Faults first; a row draws its segment's outline."),
        table(
          [
            th(""),
            th("category"),
            th("why"),
            th("score", { class: "number" }),
            th("from"),
            th("px", { class: "number" }),
          ],
          segments,
          { "aria-label": "Segments" },
        ),
      ),
      el(
        "article.panel",
        { id: "rejected" },
        el("h2", {}, `${count(system.rejected.length, "candidate")} rejected`),
        el("p.quiet", {}, `Not in the map of ${state.system}, and why.`),
        table(
          [
            th("category"),
            th("score", { class: "number" }),
            th("reason"),
            th("from"),
            th("IoU", { class: "number", title: "with the nearest true one of its category" }),
            th("px", { class: "number" }),
            th("free", { class: "number", title: "pixels that nobody had taken" }),
          ],
          rejected,
          { "aria-label": "Rejected candidates" },
        ),
      ),
    ),
  ];
}
