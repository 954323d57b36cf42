// All images, worst first, and what PQ says of each. PQ of an image is the mean over its categories, as of a data set.
"use strict";

const CARDS_AT_ONCE = 60;
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
const NO_FILTER = { category: "", size: "", error: "", change: "", sort: "worst" };

// Rows of the tally are [class, size, side, outcome, number, sum of IoUs]; turns them into objects once.
function prepareImages(overview) {
  overview.images = overview.images.map(([id, name, width, height, tallies]) => ({
    id,
    name,
    width,
    height,
    tally: Object.fromEntries(
      overview.systems.map((system, index) => [
        system,
        tallies[index].map(([category, size, side, outcome, number, iou]) => ({
          category,
          size,
          side,
          outcome: overview.outcomes[outcome],
          number,
          iou,
        })),
      ]),
    ),
  }));
  overview.imageOf = new Map(overview.images.map((image) => [image.id, image]));
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
  const found = [];
  for (const image of overview.images) {
    const rows = image.tally[state.system].filter(wanted);
    if (!rows.length && (state.category !== "" || state.size !== "")) continue;
    if (state.error && !rows.some((row) => isOfKind(row, state.error))) continue;
    const [before, after] = [state.from, state.to].map((system) => qualityOf(image.tally[system].filter(wanted)).pq);
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

function showImages(section, overview, state) {
  const found = selectImages(overview, state);
  const { systems } = overview;
  const categories = overview.categories.map((category, index) => [index, category.name]);
  const pick = (key) => (value) => app.go({ [key]: value });
  const focused = section.contains(document.activeElement)
    ? document.activeElement.closest("label")?.firstChild.textContent
    : null;
  const filters = el(
    "form.filters",
    { onsubmit: (event) => event.preventDefault() },
    choice("System", state.system, systems, pick("system")),
    choice("Category", state.category, [["", "all"], ...categories], pick("category")),
    choice("Size", state.size, [["", "all"], ...overview.sizes.map(([name], index) => [index, name])], pick("size")),
    choice("Error", state.error, ERROR_KINDS, pick("error")),
    choice("Order", state.sort, SORTS, pick("sort")),
    systems.length > 1 &&
      el(
        "fieldset.change",
        el("legend", "Change of PQ"),
        choice("from", state.from, systems, pick("from")),
        choice("to", state.to, systems, pick("to")),
        choice("is", state.change, [["", "any"], "worse", "better"], pick("change")),
      ),
    el("button", { type: "button", onclick: () => app.go(NO_FILTER) }, "Clear"),
  );
  const grid = el("ol.grid");
  const ofAll = found.length === overview.images.length ? "" : ` of ${grouped(overview.images.length)}`;
  section.replaceChildren(
    filters,
    el("p.quiet", { id: "found", role: "status" }, count(found.length, "image") + ofAll),
    grid,
  );
  if (!found.length) section.append(el("p", "No image is left by these filters."));
  const place = found.findIndex(({ image }) => image.id === viewer.id); // the image that was looked at last
  appendAsNeeded(
    section,
    grid,
    found.map((row) => () => imageCard(row, overview, state)),
    Math.max(place + 1, CARDS_AT_ONCE),
  );
  if (focused)
    [...filters.querySelectorAll("label")].find((label) => label.firstChild.textContent === focused)?.lastChild.focus();
}

// Cards are made when the end of the list comes into sight, so that thousands of images cost nothing at first.
function appendAsNeeded(section, list, makers, first) {
  const sentinel = el("div.sentinel");
  section.append(sentinel);
  let next = 0;
  const append = (cards) => {
    list.append(...makers.slice(next, next + cards).map((make) => make()));
    next += cards;
    if (next >= makers.length) {
      observer.disconnect();
      sentinel.remove();
    }
  };
  const observer = new IntersectionObserver(
    (entries) => {
      if (!sentinel.isConnected) {
        observer.disconnect();
        return;
      }
      if (entries.some((entry) => entry.isIntersecting)) {
        append(CARDS_AT_ONCE);
        observer.unobserve(sentinel);
        if (sentinel.isConnected) observer.observe(sentinel);
      }
    },
    { rootMargin: "1200px" },
  );
  append(first);
  if (sentinel.isConnected) observer.observe(sentinel);
}

function returnToCard(section) {
  const card = section.querySelector(`.card[data-id="${viewer.id}"]`);
  card?.scrollIntoView({ block: "center" });
  card?.focus({ preventScroll: true });
}

function imageCard({ image, change, pq, tp, fp, fn }, overview, state) {
  return el(
    "li",
    el(
      "a.card",
      { href: app.address({ view: "image", id: image.id }), "data-id": image.id },
      el("img", {
        src: `thumbnails/${image.id}.jpg`,
        alt: `Photo ${image.name}`,
        loading: "lazy",
        decoding: "async",
        width: image.width,
        height: image.height,
      }),
      el(
        "span.card-text",
        el("span.name", image.name),
        el("span.pq", { "--value": `${pq || 0}%` }, el("b", percent(pq)), el("span.quiet", " PQ")),
        el(
          "span.counts",
          el("span.tp", { title: "matched (TP)" }, `${tp} ✓`),
          el("span.fp", { title: "wrong (FP)" }, `${fp} ✕`),
          el("span.fn", { title: "missed (FN)" }, `${fn} ○`),
          overview.systems.length > 1 &&
            state.from !== state.to &&
            el("span.change", { title: `PQ of ${state.to} − ${state.from}` }, signed(change)),
        ),
      ),
    ),
  );
}
