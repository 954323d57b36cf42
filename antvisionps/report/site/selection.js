// Which images are shown and in which order, and what PQ says of each: the mean over its categories, as of a data set.
"use strict";

// What each kind of error of segments is, as docs/metrics.md has it.
const LOSSES = {
  outline: "matched, but with an IoU below 1",
  class: "found under another category",
  merged: "several true segments in one",
  split: "one true segment in several",
  duplicate: "a rest on a segment that is matched",
  location: "of the right category, with an IoU of 0.1 to 0.5",
  both: "of another category, with an IoU of 0.1 to 0.5",
  background: "where nothing of the kind is",
  missed: "nothing was found",
};
const ERROR_FILTERS = [["", "any"], ["error", "any error"], ["fp", "wrong (FP)"], ["fn", "not found (FN)"], ...Object.keys(LOSSES)];
const SORTS = [
  ["worst", "worst first"],
  ["best", "best first"],
  ["change", "by change of PQ"],
  ["errors", "most errors"],
  ["order", "image id"],
];
const NO_FILTER = {
  find: "", tagged: "", confused: "", bin: "", slice: "", category: "", size: "", error: "", change: "", sort: "worst",
};

function prepareImages(overview) {
  overview.images = overview.images.map(([id, name, width, height, tallies]) => ({ id, name, width, height, tallies }));
  overview.imageOf = new Map(overview.images.map((image) => [image.id, image]));
}

// An image's tally is flat: six numbers a row, the rows of a category behind each other.
const NUMBERS_A_ROW = 6;
const MATCHED_PLACE = 0;

// What PQ counts of an image under a system: {pq in percent or NaN, tp, fp, fn, lost, rows}, of a category or a size where
// these are given; `lost` is what errors of the kind keep from the sum of IoUs.
function qualityOf(overview, image, system, { category = "", size = "", error = "error" } = {}) {
  const tally = image.tallies[overview.systems.indexOf(system)];
  const [ofCategory, ofSize] = [category, size].map((wanted) => (wanted === "" ? null : Number(wanted)));
  const lossOf = lossOfKind(overview, error);
  const found = { pq: NaN, tp: 0, fp: 0, fn: 0, lost: 0, rows: 0 };
  let [sum, classes, last, iouSum, weight] = [0, 0, -1, 0, 0];
  const close = () => {
    if (weight) sum += iouSum / weight;
    if (weight) classes++;
    iouSum = weight = 0;
  };
  for (let at = 0; at < tally.length; at += NUMBERS_A_ROW) {
    if (ofCategory !== null && tally[at] !== ofCategory) continue;
    if (ofSize !== null && tally[at + 1] !== ofSize) continue;
    if (tally[at] !== last) close();
    last = tally[at];
    const [side, outcome, number, iou] = [tally[at + 2], tally[at + 3], tally[at + 4], tally[at + 5]];
    const isMatch = outcome === MATCHED_PLACE;
    iouSum += iou;
    weight += isMatch ? number : number / 2;
    found[isMatch ? "tp" : side ? "fp" : "fn"] += number;
    found.lost += lossOf(side, outcome, number, iou);
    found.rows++;
  }
  close();
  if (classes) found.pq = (100 * sum) / classes;
  return found;
}

// A match loses 1 − IoU, every other segment ½; of another kind nothing.
function lossOfKind({ outcomes }, kind) {
  const half = (isOf) => (side, outcome, number) => (outcome !== MATCHED_PLACE && isOf(side, outcome) ? number / 2 : 0);
  if (kind === "outline") return (side, outcome, number, iou) => (outcome === MATCHED_PLACE ? number - iou : 0);
  if (kind === "error") return half(() => true);
  if (kind === "fp" || kind === "fn") return half((side) => (side === 1) === (kind === "fp"));
  const place = outcomes.indexOf(kind);
  return half((_, outcome) => outcome === place);
}

// Class index → {weight, of each kind what it loses} of a system on all images; PQ lacks their sum over the weight.
function lossesOf(overview, system) {
  overview.losses ??= {};
  overview.losses[system] ??= sumLosses(overview, overview.systems.indexOf(system));
  return overview.losses[system];
}

function sumLosses({ images, outcomes, categories }, place) {
  const found = categories.map(() => ({ weight: 0, lost: Object.fromEntries(Object.keys(LOSSES).map((kind) => [kind, 0])) }));
  for (const { tallies } of images) {
    const tally = tallies[place];
    for (let at = 0; at < tally.length; at += NUMBERS_A_ROW) {
      const [ofClass, outcome, number, iou] = [found[tally[at]], tally[at + 3], tally[at + 4], tally[at + 5]];
      const isMatch = outcome === MATCHED_PLACE;
      ofClass.weight += isMatch ? number : number / 2;
      ofClass.lost[isMatch ? "outline" : outcomes[outcome]] += isMatch ? number - iou : number / 2;
    }
  }
  return found;
}

// The images that the filters leave, in order, each with its quality; `change` is that of PQ between two systems.
function selectImages(overview, state) {
  const wanted = { ...state, error: state.error || "error" };
  const isLeft = [finder(state.find), tagged(state), confusedIn(overview, state), inSlice(overview, state)];
  const inBin = wrongIn(overview, state);
  const pqOf = (image, system) => qualityOf(overview, image, system, wanted).pq;
  const changeOf = (image) => pqOf(image, state.to) - pqOf(image, state.from);
  const sortsByChange = state.change || state.sort === "change";
  const found = [];
  for (const [place, image] of overview.images.entries()) {
    if (!isLeft.every((isOf) => isOf(image, place))) continue;
    const quality = qualityOf(overview, image, state.system, wanted);
    if (!quality.rows && (state.category !== "" || state.size !== "")) continue;
    if (state.error && !(quality.lost > 0)) continue;
    if (state.bin) quality.lost = inBin.get(place) ?? 0;
    if (state.bin && !quality.lost) continue;
    const change = sortsByChange ? changeOf(image) : null;
    if (state.change === "worse" && !(change < -0.05)) continue;
    if (state.change === "better" && !(change > 0.05)) continue;
    found.push({ image, change, ...quality });
  }
  return sortImages(found, state).map((row) => ({ ...row, changeNow: () => row.change ?? changeOf(row.image) }));
}

function sortImages(found, state) {
  const last = (value) => (Number.isNaN(value) ? Infinity : value);
  const order = {
    worst: (one, other) => last(one.pq) - last(other.pq),
    best: (one, other) => last(-one.pq) - last(-other.pq),
    change: (one, other) =>
      state.change === "better" ? last(-one.change) - last(-other.change) : last(one.change) - last(other.change),
    errors: (one, other) => other.lost - one.lost,
    order: () => 0,
  };
  const chosen = order[state.sort] ?? order.worst;
  return found.sort((one, other) => chosen(one, other) || one.image.id - other.image.id);
}

const everyImage = () => true;

// The text is a part of the file name, in any case, or the whole id.
function finder(text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return everyImage;
  return ({ id, name }) => name.toLowerCase().includes(wanted) || String(id) === wanted;
}

function tagged(state) {
  const tags = tagsOf(state);
  return state.tagged ? ({ id }) => tags.has(id) : everyImage;
}

const tagsOf = ({ tags }) => new Set(tags.split(",").filter(Boolean).map(Number));

function toggledTag(state, id) {
  const tags = tagsOf(state);
  if (!tags.delete(id)) tags.add(id);
  return [...tags].sort((one, other) => one - other).join(",");
}

// `confused` is the true class and the predicted one, void or nothing as the number after the last class: "3-7".
function confusedIn(overview, state) {
  if (!state.confused || !overview.pairs) return everyImage;
  const [truth, predicted] = state.confused.split("-").map(Number);
  const ofImages = overview.pairs.systems[state.system]?.[state.counted === "segments" ? "segments" : "pixels"];
  const isPair = (pairs, place) => pairs[place] === truth && pairs[place + 1] === predicted;
  return (_, place) => {
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

// `bin` is "name/of/bin" of a reliability diagram: place of an image → how much of it is wrong there.
function wrongIn(overview, { bin }) {
  const place = bin.lastIndexOf("/");
  const listed = (bin && overview.wrong?.of[bin.slice(0, place)]?.[bin.slice(place + 1)]) || [];
  const found = new Map();
  for (let at = 0; at < listed.length; at += 2) found.set(listed[at], listed[at + 1]);
  return found;
}

function binText({ bin }) {
  const place = bin.lastIndexOf("/");
  const [name, of] = [bin.slice(0, place).replace("/", " "), Number(bin.slice(place + 1))];
  return `wrong ${name}, confidence ${(of / BINS).toFixed(2)} to ${((of + 1) / BINS).toFixed(2)}`;
}

const sliceName = (attribute, value) => `${attribute}=${value}`;

function inSlice(overview, { slice }) {
  for (const { attribute, values, of_images: ofImages } of overview.slices ?? [])
    for (const [index, value] of values.entries())
      if (sliceName(attribute, value) === slice) return (_, place) => ofImages[place] === index;
  return everyImage;
}
