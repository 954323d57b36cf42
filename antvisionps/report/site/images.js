// All images: filters, a card for each image that they leave, and the list of these to take along.
"use strict";

const FIRST_CARDS = 24; // some more than a laptop shows
const CARDS_AT_ONCE = 60;

// At once, unless a table has to be loaded.
function showImages(section, overview, state) {
  const loading = Object.entries({ pairs: state.confused, wrong: state.bin })
    .filter(([name, isAsked]) => isAsked && !overview[name])
    .map(async ([name]) => (overview[name] = await antvisionps.loadTable(name)));
  if (!loading.length) return drawImages(section, overview, state);
  return Promise.all(loading).then(
    () => drawImages(section, overview, state),
    (error) => section.replaceChildren(el("p", { role: "alert" }, error.message)),
  );
}

function drawImages(section, overview, state) {
  const focused = section.contains(document.activeElement) ? document.activeElement.id : null;
  const results = el("div");
  section.replaceChildren(filterForm(overview, state, () => showFound(results, overview, state)), results);
  showFound(results, overview, state);
  if (focused) document.getElementById(focused)?.focus();
}

function filterForm(overview, state, refresh) {
  const { systems } = overview;
  const categories = overview.categories.map((category, index) => [index, category.name]);
  const sizes = overview.sizes.map(([name], index) => [index, name]);
  const pick = (label, key, options) =>
    choice(label, state[key], options, (value) => app.go({ [key]: value }), `filter-${key}`);
  return el(
    "form.filters",
    { onsubmit: (event) => event.preventDefault() },
    searchField(state, refresh),
    pick("System", "system", systems),
    pick("Category", "category", [["", "all"], ...categories]),
    pick("Size", "size", [["", "all"], ...sizes]),
    pick("Error", "error", ERROR_FILTERS),
    overview.slices?.length > 0 && pick("Slice", "slice", [["", "all"], ...sliceOptions(overview)]),
    pick("Order", "sort", SORTS),
    systems.length > 1 &&
      el(
        "fieldset.change",
        el("legend", "Change of PQ"),
        pick("from", "from", systems),
        pick("to", "to", systems),
        pick("is", "change", [["", "any"], "worse", "better"]),
      ),
    pick("Tagged", "tagged", [["", "all"], ["only", "tagged only"]]),
    pick("Thumbnails", "thumbs", THUMBNAILS),
    state.confused && dropButton("confused", confusionText(overview, state)),
    state.bin && dropButton("bin", binText(state)),
    el("button", { type: "button", onclick: () => app.go(NO_FILTER) }, "Clear"),
  );
}

const sliceOptions = ({ slices }) =>
  slices.flatMap(({ attribute, values }) => values.map((value) => [sliceName(attribute, value), `${attribute} ${value}`]));

// Says what one filter leaves, and drops it.
const dropButton = (key, text) =>
  el("button", { type: "button", id: key, title: "Drop this filter", onclick: () => app.go({ [key]: "" }) }, `${text} ✕`);

function searchField(state, refresh) {
  const oninput = (event) => {
    app.note({ find: event.target.value });
    refresh();
  };
  const input = { id: "find", type: "search", placeholder: "file name or id  ( / )", value: state.find, oninput };
  return el("label.choice", el("span", "Find"), el("input", input));
}

const focusSearch = () => document.getElementById("find")?.focus();

function showFound(results, overview, state) {
  const found = selectImages(overview, state);
  const grid = el("ol.grid");
  const ofAll = found.length === overview.images.length ? "" : ` of ${grouped(overview.images.length)}`;
  const number = el("span.quiet", { id: "found", role: "status" }, count(found.length, "image") + ofAll);
  const save = { type: "button", id: "save", onclick: () => saveList(found, state) };
  results.replaceChildren(
    el("p.found", number, el("button", save, "Save list"), el("span.quiet", { id: "tag-count" }, tagCount(state))),
    grid,
  );
  if (!found.length) results.append(el("p", "No image is left by these filters."));
  const place = found.findIndex(({ image }) => image.id === viewer.id); // the image that was looked at last
  appendAsNeeded(
    results,
    grid,
    found.map((row) => () => imageCard(row, overview, state)),
    Math.max(place + 1, FIRST_CARDS),
  );
}

function tagCount(state) {
  const tags = tagsOf(state).size;
  return tags ? `${grouped(tags)} tagged` : "";
}

// The images that are shown, in their order, as a CSV to download.
function saveList(found, state) {
  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
  const tags = tagsOf(state);
  const rows = found.map(({ image, pq, tp, fp, fn }) =>
    [quoted(image.given), quoted(image.name), Number.isNaN(pq) ? "" : pq.toFixed(4), tp, fp, fn, tags.has(image.id) ? 1 : 0].join(),
  );
  const text = ["image_id,name,PQ,tp,fp,fn,tagged", ...rows].join("\n") + "\n";
  const href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  el("a", { href, download: `images_${state.system}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
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

function imageCard({ image, changeNow, pq, tp, fp, fn }, overview, state) {
  const card = el(
    "a.card",
    { href: app.address({ view: "image", id: image.id }), "data-id": image.id },
    thumbnail(image, overview, state),
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
          el("span.change", { title: `PQ of ${state.to} − ${state.from}` }, signed(changeNow())),
      ),
    ),
  );
  return el("li", card, tagButton(image, state));
}

// Marks an image for the list that the reader makes; the address holds the marks.
function tagButton(image, state, attributes = {}) {
  const isTagged = tagsOf(state).has(image.id);
  const toggle = (event) => {
    app.note({ tags: toggledTag(state, image.id) });
    const now = tagsOf(state).has(image.id);
    event.currentTarget.setAttribute("aria-pressed", now);
    const said = document.getElementById("tag-count");
    if (said) said.textContent = tagCount(state);
  };
  const label = `Tag ${image.name}`;
  return el(
    "button.tag",
    { type: "button", "aria-pressed": String(isTagged), "aria-label": label, title: "Tag (t)", onclick: toggle, ...attributes },
    "★",
  );
}
