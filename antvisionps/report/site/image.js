// One image: which of its layers are shown and how, and the way to the images before and after it.
"use strict";

const viewer = {
  id: null,
  zoom: { scale: 1, x: 0, y: 0 },
  settling: null, // timer of a zoom that the address does not hold yet
  token: 0,
  panels: null, // the drawn {layers, image, container, state, overview}
  hovered: null,
  drawn: null,
};

async function showImage(section, overview, state) {
  const image = overview.imageOf.get(state.id);
  if (!image) {
    const all = el("a", { href: app.address({ view: "images" }) }, "All images");
    section.replaceChildren(el("p", { role: "alert" }, `The report has no image ${state.id}. `, all));
    return;
  }
  if (viewer.id !== state.id || !viewer.settling) Object.assign(viewer, { id: state.id, zoom: readZoom(state.zoom) });
  const token = ++viewer.token;
  const order = selectImages(overview, state).map((row) => row.image.id);
  const focused = section.contains(document.activeElement) ? document.activeElement.id : null;
  let data;
  try {
    data = await antvisionps.loadImage(image.id);
  } catch (error) {
    if (token === viewer.token) section.replaceChildren(el("p", { role: "alert" }, error.message));
    return;
  }
  if (token !== viewer.token) return;
  const shown = { ...state };
  const layers = drawnLayers(overview, image, data, shown);
  const panels = buildPanels(overview, image, layers, shown);
  section.replaceChildren(
    imageHeader(overview, image, state, order), // its star reads what it has just changed
    toolbar(overview, shown),
    panels,
    readout(),
    legend(data, layers, shown),
    lists(data, layers, shown),
  );
  applyZoom(panels);
  section.style.setProperty("--opacity", shown.opacity / 100);
  if (focused) document.getElementById(focused)?.focus();
  for (const id of neighbours(order, image.id).filter((other) => other !== undefined)) {
    antvisionps.loadImage(id).catch(() => {}); // who goes there is told
    new Image().src = `images/${id}.jpg`;
  }
}

// What is painted already stays painted while only panels come and go.
function drawnLayers(overview, image, data, state) {
  const of = [image.id, state.system, state.palette, state.score, state.only].join("/");
  if (viewer.drawn?.of !== of) viewer.drawn = { of, layers: imageLayers(overview, image, data, state) };
  return viewer.drawn.layers;
}

function neighbours(order, id) {
  const place = order.indexOf(id);
  return place < 0 ? [order[order.length - 1], order[0]] : [order[place - 1], order[place + 1]];
}

function imageHeader(overview, image, state, order) {
  const [previous, next] = neighbours(order, image.id);
  const place = order.indexOf(image.id);
  const step = (id, text, label, name) =>
    el(
      id === undefined ? "a.button.off" : "a.button",
      {
        id: name,
        href: id === undefined ? null : app.address({ id }),
        "aria-label": label,
        "aria-disabled": id === undefined,
        title: label,
      },
      text,
    );
  const selection = place < 0 ? "not in this selection" : `${place + 1} of ${order.length} `;
  const quality = (system) => percent(qualityOf(overview, image, system).pq);
  return el(
    "div.image-head",
    step(previous, "←", "Previous image (←)", "previous"),
    step(next, "→", "Next image (→)", "next"),
    el("div", el("h2", image.name), el("p.quiet", `${selection}· ${image.width} × ${image.height} px`)),
    tagButton(image, state, { id: "tag" }),
    el(
      "dl.pq-of-systems",
      overview.systems.map((system) =>
        el("div", el("dt", swatch(overview, system), system), el("dd", quality(system), el("small.quiet", " PQ"))),
      ),
    ),
  );
}

function toolbar(overview, state) {
  const palettes = [
    ["distinct", "easy to tell apart"],
    ["own", "of the data set"],
  ];
  const modes = [["side", "side by side"], "overlaid"];
  return el(
    "div.toolbar",
    layerChips(overview, state),
    el(
      "div.filters",
      choice("System", state.system, overview.systems, (system) => app.go({ system }), "system"),
      choice("Layers", state.mode, modes, (mode) => app.go({ mode, layers: "" }), "mode"),
      range("opacity", "Opacity", { max: 100, step: 5, value: state.opacity }, `${state.opacity} %`, {
        oninput: (event) => setOpacity(Number(event.target.value)),
      }),
      overview.ends.length > 0 && range("score", "Instances from score", { max: 1, step: 0.05, value: state.score }, state.score.toFixed(2), {
        oninput: (event) => writeBeside(event.target, Number(event.target.value).toFixed(2)),
        onchange: (event) => app.go({ score: Number(event.target.value) }),
      }),
      choice("Only", state.only, onlyOptions(overview), (only) => app.go({ only }), "only"),
      overview.categories.length <= DISTINCT_RGB.length &&
        choice("Colours", state.palette, palettes, (palette) => app.go({ palette }), "palette"),
      el(
        "span.zoom",
        { role: "group", "aria-label": "Zoom" },
        zoomButton("−", "Zoom out (−)", "Zoom out", 1 / ZOOM_STEP),
        zoomButton("+", "Zoom in (+)", "Zoom in", ZOOM_STEP),
        zoomButton("whole", "Whole image (0)", null, 0),
      ),
    ),
  );
}

const onlyOptions = ({ categories }) => [["", "all categories"], ...categories.map(({ name }, index) => [index, name])];

// A box for each layer.
function layerChips(overview, state) {
  const shown = new Set(shownLayers(overview, state));
  const chip = (key, index) => {
    const attributes = { id: `layer-${key}`, "data-layer": key, checked: shown.has(key) };
    return el(
      "label.chip",
      el("input", { type: "checkbox", ...attributes, onchange: () => toggleLayer(overview, state, key) }),
      layerName(key, state.system),
      index < 18 && el("kbd", index < 9 ? `${index + 1}` : `⇧${index - 8}`),
    );
  };
  const chips = layerKeys(overview).map(chip);
  return el("div.layers", { role: "group", "aria-label": "Layers" }, chips);
}

const range = (id, label, limits, text, listeners) =>
  el(
    "label.choice",
    el("span", `${label} `, el("b", text)),
    el("input", { id, type: "range", min: 0, ...limits, ...listeners }),
  );

// The text that stands by a range.
function writeBeside(input, text) {
  input.previousSibling.querySelector("b").textContent = text;
}

const zoomButton = (text, title, name, factor) =>
  el("button", { type: "button", title, "aria-label": name, onclick: () => zoomBy(factor) }, text);

function toggleLayer(overview, state, key) {
  const shown = new Set(shownLayers(overview, state));
  if (!shown.delete(key)) shown.add(key);
  const listed = layerKeys(overview).filter((other) => shown.has(other));
  app.go({ layers: listed.map(inAddress).join(",") || NO_LAYER });
}

function setOpacity(opacity) {
  const section = document.getElementById("image");
  section.style.setProperty("--opacity", opacity / 100);
  const slider = document.getElementById("opacity");
  slider.value = opacity;
  writeBeside(slider, `${opacity} %`);
  app.note({ opacity });
}

// Which layer a key shows or hides: 1 to 9, and with Shift the nine after them.
function numberedLayer({ key, code, shiftKey }) {
  if (/^[1-9]$/.test(key)) return Number(key) - 1;
  const digit = shiftKey && /^Digit([1-9])$/.exec(code);
  return digit ? Number(digit[1]) + 8 : null;
}

// The panel of the pointer, else the focused one, else the system's; of several runs, where the chosen one's map is not
// shown, the first that is.
function panelToEnlarge(overview, state) {
  const view = document.querySelector(".view:hover") ?? document.activeElement.closest(".view");
  if (view && view.dataset.layer !== "overlaid") return view.dataset.layer;
  if (!overview.compared) return "system";
  const maps = shownLayers(overview, state).filter((key) => key.startsWith("map:"));
  return maps.find((key) => key === `map:${state.system}`) ?? maps[0] ?? "";
}

function imageKey(event, overview, state) {
  const { key } = event;
  const link = (id) => {
    const target = document.getElementById(id)?.getAttribute("href");
    if (target) app.follow(target);
  };
  const keys = layerKeys(overview);
  if (key === "ArrowLeft") link("previous");
  else if (key === "ArrowRight") link("next");
  else if (keys[numberedLayer(event)]) document.getElementById(`layer-${keys[numberedLayer(event)]}`)?.click();
  else if (key === "o") app.go({ mode: state.mode === "side" ? "overlaid" : "side", layers: "" });
  else if (key === "e") app.go({ enlarged: state.enlarged ? "" : panelToEnlarge(overview, state) });
  else if (key === "t") document.getElementById("tag").click();
  else if (key === "[" || key === "]") setOpacity(Math.max(0, Math.min(100, state.opacity + (key === "]" ? 10 : -10))));
  else if (key === "+" || key === "=") zoomBy(ZOOM_STEP);
  else if (key === "-") zoomBy(1 / ZOOM_STEP);
  else if (key === "0") zoomBy(0);
  else if (key === "s")
    app.go({ system: overview.systems[(overview.systems.indexOf(state.system) + 1) % overview.systems.length] });
  else return false;
  return true;
}
