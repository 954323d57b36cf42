// The overview's card of what is taken for what: pixels or segments, each cell a link to its images.
"use strict";

const MOST_CELLS = 30; // categories up to which the confusion is shown as a matrix
const LONGEST_LIST = 25;
const COUNTED = {
  pixels: {
    nothing: "void",
    note: "Share of each true category's pixels (row), crowds included, that the system gives to each category (column).",
  },
  segments: {
    nothing: "nothing",
    note: "Share of each category's true segments (row) that are matched, called another category (column), or met by nothing.",
  },
};

function confusionCard(overview, state) {
  return redrawn((set) => {
    const { mapped } = overview;
    const system = [state.confusion, state.system, mapped[0]].find((name) => mapped.includes(name));
    const counted = state.counted in COUNTED ? state.counted : "pixels";
    const names = [...overview.categories.map(({ name }) => name), COUNTED[counted].nothing];
    const isMatrix = names.length <= MOST_CELLS + 1;
    const found = confusionOf(overview, system, counted);
    return fullCard(
      "Confusion of categories",
      `${COUNTED[counted].note} A cell leads to its images.`,
      el(
        "div.filters",
        choice("System", system, mapped, (confusion) => set({ confusion }), "confusion-system"),
        choice("Of", counted, Object.keys(COUNTED), (chosen) => set({ counted: chosen }), "counted"),
      ),
      isMatrix && confusionMatrix(names, found),
      el("details", { open: !isMatrix }, el("summary", "Largest confusions"), confusionList(names, found)),
    );
  });
}

// `triples` are [true class, predicted class, number]; `share(triple)` is in percent of the true class.
function confusionOf(overview, system, counted) {
  const triples = (counted === "segments" ? overview.segment_confusion : overview.confusion)[system];
  const ofTruth = new Map();
  for (const [truth, , number] of triples) ofTruth.set(truth, (ofTruth.get(truth) ?? 0) + number);
  const share = ([truth, , number]) => (100 * number) / ofTruth.get(truth);
  const link = (truth, predicted) =>
    truth === predicted
      ? addressOfCategory(truth, { system })
      : app.address({ ...NO_FILTER, view: "images", system, counted, confused: `${truth}-${predicted}` });
  return { triples, ofTruth, share, link, counted };
}

function confusionMatrix(names, { triples, ofTruth, share, link, counted }) {
  const found = new Map(triples.map((triple) => [`${triple[0]},${triple[1]}`, triple]));
  const column = (name, predicted) => {
    const value = (truth) => (found.has(`${truth},${predicted}`) ? share(found.get(`${truth},${predicted}`)) : 0);
    const text = (truth) => `${percent(value(truth))} % of ${names[truth]} is called ${name}`;
    const cell = (truth) => {
      if (!value(truth)) return null;
      const shown = value(truth) >= 0.5 ? value(truth).toFixed(0) : "·";
      if (truth === predicted && truth === names.length - 1) return shown; // void is no category: it has no images
      return el("a", { href: link(truth, predicted), "aria-label": text(truth) }, shown);
    };
    const attributes = (truth) => ({
      class: truth === predicted ? "right" : null,
      "--share": (value(truth) / 100).toFixed(4),
      title: text(truth),
    });
    return { head: el("span", name), headKind: "th.tilted", title: name, kind: "td.cell", attributes, cell };
  };
  return table(
    `Confusion of categories in percent of true ${counted}`,
    [{ head: "truth ↓ prediction →", kind: "th", cell: (truth) => names[truth] }, ...names.map(column)],
    names.map((_, index) => index).filter((index) => ofTruth.has(index)),
    { kind: "table.confusion" },
  );
}

function confusionList(names, { triples, share, link, counted }) {
  const wrong = triples.filter(([truth, predicted]) => truth !== predicted && truth !== names.length - 1);
  wrong.sort((one, other) => other[2] - one[2]);
  const columns = [
    { head: "truth", cell: ([truth]) => names[truth] },
    { head: "called", cell: ([truth, predicted]) => el("a", { href: link(truth, predicted) }, names[predicted]) },
    numbers(counted, ([, , number]) => grouped(number)),
    numbers("share of the truth, %", (triple) => percent(share(triple))),
  ];
  return table("Largest confusions", columns, wrong.slice(0, LONGEST_LIST));
}
