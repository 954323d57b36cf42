// Which images are shown and in which order, and what PQ says of each: the mean over its categories, as of a data set.
"use strict";

const ERROR_KINDS = [
  ["", "any"],
  ["error", "any error"],
  ["wrong", "wrong (FP)"],
  ["missed", "missed (FN)"],
  ["wrong_class", "wrong class"],
  ["poor_mask", "poor mask"],
  ["alone:1", "nothing there (FP)"],
  ["alone:0", "overlooked (FN)"],
];
const SORTS = [
  ["worst", "worst first"],
  ["best", "best first"],
  ["change", "by change of PQ"],
  ["errors", "most errors"],
  ["order", "image id"],
];
const NO_FILTER = { find: "", tagged: "", confused: "", category: "", size: "", error: "", change: "", sort: "worst" };

function prepareImages(overview) {
  overview.images = overview.images.map(([id, name, width, height, tallies]) => ({ id, name, width, height, tallies }));
  overview.imageOf = new Map(overview.images.map((image) => [image.id, image]));
}

// The rows of an image's tally, six numbers each, as objects; made when first asked for.
function tallyOf(overview, image, system) {
  image.decoded ??= {};
  image.decoded[system] ??= rowsOf(image.tallies[overview.systems.indexOf(system)], overview.outcomes);
  return image.decoded[system];
}

function rowsOf(numbers, outcomes) {
  const rows = [];
  for (let at = 0; at < numbers.length; at += 6) {
    rows.push({
      category: numbers[at],
      size: numbers[at + 1],
      side: numbers[at + 2],
      outcome: outcomes[numbers[at + 3]],
      number: numbers[at + 4],
      iou: numbers[at + 5],
    });
  }
  return rows;
}

// {pq in percent or NaN, tp, fp, fn} of the rows of one image.
function qualityOf(rows) {
  const ofClass = new Map();
  const total = { tp: 0, fp: 0, fn: 0 };
  for (const row of rows) {
    const kind = row.outcome === "matched" ? "tp" : row.side ? "fp" : "fn";
    if (!ofClass.has(row.category)) ofClass.set(row.category, { iou: 0, weight: 0 });
    const sums = ofClass.get(row.category);
    sums.iou += row.iou;
    sums.weight += kind === "tp" ? row.number : row.number / 2;
    total[kind] += row.number;
  }
  let pq = 0;
  for (const { iou, weight } of ofClass.values()) pq += iou / weight;
  return { pq: ofClass.size ? (100 * pq) / ofClass.size : NaN, ...total };
}

function isOfKind(row, kind) {
  if (row.outcome === "matched") return false;
  if (kind === "error") return true;
  if (kind === "wrong") return row.side === 1;
  if (kind === "missed") return row.side === 0;
  const [outcome, side] = kind.split(":");
  return row.outcome === outcome && (side === undefined || row.side === Number(side));
}

// The images that the filters leave, in order, each with its quality and the change between two systems.
function selectImages(overview, state) {
  const wanted = (row) =>
    (state.category === "" || row.category === Number(state.category)) &&
    (state.size === "" || row.size === Number(state.size));
  const isNamed = finder(state.find);
  const tags = tagsOf(state);
  const isConfused = overview.pairs ? confusedIn(overview, state) : () => true;
  const found = [];
  for (const [place, image] of overview.images.entries()) {
    if (!isNamed(image) || (state.tagged && !tags.has(image.id)) || !isConfused(place)) continue;
    const rows = tallyOf(overview, image, state.system).filter(wanted);
    if (!rows.length && (state.category !== "" || state.size !== "")) continue;
    if (state.error && !rows.some((row) => isOfKind(row, state.error))) continue;
    const [before, after] = [state.from, state.to].map((system) => qualityOf(tallyOf(overview, image, system).filter(wanted)).pq);
    const change = after - before;
    if (state.change === "worse" && !(change < -0.05)) continue;
    if (state.change === "better" && !(change > 0.05)) continue;
    found.push({ image, change, ...qualityOf(rows) });
  }
  const last = (value) => (Number.isNaN(value) ? Infinity : value);
  const order = {
    worst: (one, other) => last(one.pq) - last(other.pq),
    best: (one, other) => last(-one.pq) - last(-other.pq),
    change: (one, other) =>
      state.change === "better" ? last(-one.change) - last(-other.change) : last(one.change) - last(other.change),
    errors: (one, other) => other.fp + other.fn - one.fp - one.fn,
    order: () => 0,
  };
  return found.sort((one, other) => (order[state.sort] ?? order.worst)(one, other) || one.image.id - other.image.id);
}

// The text is a part of the file name, in any case, or the whole id.
function finder(text) {
  const wanted = text.trim().toLowerCase();
  return ({ id, name }) => name.toLowerCase().includes(wanted) || String(id) === wanted;
}

const tagsOf = ({ tags }) => new Set(tags.split(",").filter(Boolean).map(Number));

function toggledTag(state, id) {
  const tags = tagsOf(state);
  if (!tags.delete(id)) tags.add(id);
  return [...tags].sort((one, other) => one - other).join(",");
}

// `confused` is the true class and the predicted one, void or nothing as the number after the last class: "3-7".
function confusedIn(overview, state) {
  if (!state.confused) return () => true;
  const [truth, predicted] = state.confused.split("-").map(Number);
  const ofImages = overview.pairs.systems[state.system]?.[state.counted === "segments" ? "segments" : "pixels"];
  const isPair = (pairs, place) => pairs[place] === truth && pairs[place + 1] === predicted;
  return (place) => {
    const pairs = ofImages?.[place] ?? []; // a run without maps has none
    for (let at = 0; at < pairs.length; at += 3) if (isPair(pairs, at)) return true;
    return false;
  };
}

function confusionText(overview, { confused, counted }) {
  const nothing = counted === "segments" ? "nothing" : "void";
  const [truth, predicted] = confused.split("-").map((index) => overview.categories[index]?.name ?? nothing);
  return `${truth} called ${predicted} (${counted})`;
}
