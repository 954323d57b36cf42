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
  category: "", size: "", error: "", change: "", sort: "worst", find: "", tagged: "", confused: "", bin: "", slice: "",
};

function prepareImages(overview) {
  if (overview.compared) NO_FILTER.sort = "change";
  overview.images = overview.images.map(
    ([id, name, width, height, tallies, given = String(id)]) => ({ id, name, width, height, tallies, given }),
  );
  overview.imageOf = new Map(overview.images.map((image) => [image.id, image]));
}

// An image's tally is flat, the rows of a category behind each other. A row is a code, of whose bits the last 4 are the
// outcome's place, then 1 the side (0 true, 1 predicted), 3 the size's place + 1, the rest the class index; a number of
// segments; and their sum of IoUs.
const NUMBERS_A_ROW = 3;
const outcomeOf = (code) => code & 15;
const sideOf = (code) => (code >> 4) & 1;
const sizeOf = (code) => ((code >> 5) & 7) - 1;
const classOf = (code) => code >> 8;
const MATCHED_PLACE = 0;

// Gives of an image under a system what PQ counts: {pq in percent or NaN, tp, fp, fn, lost, rows}; of a category or a size
// where these are given. `lost` is what errors of the kind keep from the sum of IoUs.
function qualityMeter(overview, { category = "", size = "", error = "error" } = {}) {
  const [ofCategory, ofSize] = [category, size].map((wanted) => (wanted === "" ? -1 : Number(wanted)));
  const losses = lossesOfKind(overview, error);
  const { outcomes, systems } = overview;
  return (image, system) => {
    const tally = image.tallies[systems.indexOf(system)];
    const found = { pq: NaN, tp: 0, fp: 0, fn: 0, lost: 0, rows: 0 };
    let sum = 0, classes = 0, iouSum = 0, weight = 0;
    for (let at = 0; at < tally.length; at += NUMBERS_A_ROW) {
      const code = tally[at], number = tally[at + 1], iou = tally[at + 2];
      const isLastOfClass = classOf(code) !== classOf(tally[at + NUMBERS_A_ROW] ?? -1);
      if ((ofCategory < 0 || classOf(code) === ofCategory) && (ofSize < 0 || sizeOf(code) === ofSize)) {
        const side = sideOf(code), outcome = outcomeOf(code);
        if (outcome === MATCHED_PLACE) found.tp += number;
        else if (side) found.fp += number;
        else found.fn += number;
        iouSum += iou;
        weight += outcome === MATCHED_PLACE ? number : number / 2;
        found.lost += losses[side * outcomes.length + outcome] * (outcome === MATCHED_PLACE ? number - iou : number / 2);
        found.rows++;
      }
      if (isLastOfClass && weight) {
        sum += iouSum / weight;
        classes++;
        iouSum = weight = 0;
      }
    }
    if (classes) found.pq = (100 * sum) / classes;
    return found;
  };
}

const qualityOf = (overview, image, system) => qualityMeter(overview)(image, system);

// Of each side and outcome 1 where segments with it are errors of the kind, else 0. A match loses 1 − IoU, what is wrong or
// missed ½.
function lossesOfKind({ outcomes }, kind) {
  const isOf = (side, outcome) => {
    if (outcome === "matched") return kind === "outline";
    return kind === "error" || kind === outcome || kind === (side ? "fp" : "fn");
  };
  return Float64Array.from([0, 1].flatMap((side) => outcomes.map((outcome) => Number(isOf(side, outcome)))));
}

// Class index → {weight, of each kind what it loses} of a system on all images; PQ lacks their sum over the weight.
function lossesOf(overview, system) {
  overview.losses ??= {};
  overview.losses[system] ??= sumLosses(overview, overview.systems.indexOf(system));
  return overview.losses[system];
}

function sumLosses({ images, outcomes, categories }, place) {
  const weights = new Float64Array(categories.length);
  const lost = new Float64Array(categories.length * outcomes.length);
  for (const { tallies } of images) {
    const tally = tallies[place];
    for (let at = 0; at < tally.length; at += NUMBERS_A_ROW) {
      const ofClass = classOf(tally[at]), outcome = outcomeOf(tally[at]), number = tally[at + 1];
      weights[ofClass] += outcome === MATCHED_PLACE ? number : number / 2;
      lost[ofClass * outcomes.length + outcome] += outcome === MATCHED_PLACE ? number - tally[at + 2] : number / 2;
    }
  }
  const placeOf = (kind) => (kind === "outline" ? MATCHED_PLACE : outcomes.indexOf(kind));
  const ofClass = (index) => Object.keys(LOSSES).map((kind) => [kind, lost[index * outcomes.length + placeOf(kind)]]);
  return categories.map((_, index) => ({ weight: weights[index], lost: Object.fromEntries(ofClass(index)) }));
}

// The images that the filters leave, in order, each with its quality; `change` is that of PQ between two systems.
function selectImages(overview, state) {
  const measure = qualityMeter(overview, { ...state, error: state.error || "error" });
  const filters = [finder(state.find), tagged(state), confusedIn(overview, state), inSlice(overview, state)];
  const inBin = wrongIn(overview, state);
  const changeOf = (image) => measure(image, state.to).pq - measure(image, state.from).pq;
  const sortsByChange = state.change || state.sort === "change";
  const found = [];
  for (const [place, image] of overview.images.entries()) {
    if (!filters.every((isOf) => isOf(image, place))) continue;
    const quality = measure(image, state.system);
    if (!quality.rows && (state.category !== "" || state.size !== "")) continue;
    if (state.error && !(quality.lost > 0)) continue;
    if (state.bin) quality.lost = inBin.get(place) ?? 0;
    if (state.bin && !quality.lost) continue;
    const change = sortsByChange ? changeOf(image) : null;
    if (state.change === "worse" && !(change < -0.05)) continue;
    if (state.change === "better" && !(change > 0.05)) continue;
    found.push(Object.assign(quality, { image, change, changeNow: () => change ?? changeOf(image) }));
  }
  return sortImages(found, state);
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
