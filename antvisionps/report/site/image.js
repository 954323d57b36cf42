// One image: which of its layers are shown and how, and the way to the images before and after it.
"use strict";

const viewer = { id: null, zoom: { scale: 1, x: 0, y: 0 }, token: 0, layers: null, hovered: null, drawn: null };

async function showImage(section, overview, state) {
  const image = overview.imageOf.get(state.id);
  if (!image) {
    section.replaceChildren(
      el(
        "p",
        { role: "alert" },
        `The report has no image ${state.id}. `,
        el("a", { href: app.address({ view: "images" }) }, "All images"),
      ),
    );
    return;
  }
  if (viewer.id !== state.id) Object.assign(viewer, { id: state.id, zoom: { scale: 1, x: 0, y: 0 } });
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
    imageHeader(overview, image, shown, order),
    toolbar(overview, image, data, shown),
    panels,
    readout(),
    legend(overview, data, layers, shown),
    ...lists(overview, data, layers, shown),
  );
  section.dataset.shown = `${image.id}`;
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
  const of = [image.id, state.system, state.palette, state.score].join("/");
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
  return el(
    "div.image-head",
    {},
    step(previous, "←", "Previous image (←)", "previous"),
    step(next, "→", "Next image (→)", "next"),
    el(
      "div",
      {},
      el("h2", {}, image.name),
      el(
        "p.quiet",
        {},
        place < 0 ? "not in this selection" : `${place + 1} of ${order.length} `,
        `· ${image.width} × ${image.height} px`,
      ),
    ),
    el(
      "dl.pq-of-systems",
      {},
      overview.systems.map((system) =>
        el(
          "div",
          {},
          el("dt", {}, swatch(overview, system), system),
          el("dd", {}, percent(qualityOf(image.tally[system]).pq), el("small.quiet", {}, " PQ")),
        ),
      ),
    ),
  );
}

function toolbar(overview, image, data, state) {
  const keys = layerKeys(overview);
  const shown = new Set(shownLayers(overview, state));
  const isPresent = (key) => {
    const [kind, end] = key.split(":");
    return end === undefined || data.ends[end][kind] !== null;
  };
  const range = (id, label, attributes, text, oninput, onchange) =>
    el(
      "label.choice",
      {},
      el("span", {}, `${label} `, el("b", {}, text)),
      el("input", { id, type: "range", ...attributes, oninput, onchange }),
    );
  return el(
    "div.toolbar",
    {},
    el(
      "div.layers",
      { role: "group", "aria-label": "Layers" },
      keys.map(
        (key, index) =>
          isPresent(key) &&
          el(
            "label.chip",
            {},
            el("input", {
              type: "checkbox",
              id: `layer-${key}`,
              "data-layer": key,
              checked: shown.has(key),
              onchange: () => toggleLayer(overview, state, key),
            }),
            layerName(key, state.system),
            index < 9 && el("kbd", {}, String(index + 1)),
          ),
      ),
    ),
    el(
      "div.filters",
      {},
      withId(
        "system",
        choice(
          "System",
          state.system,
          overview.systems.map((name) => [name, name]),
          (system) => app.go({ system }),
        ),
      ),
      withId(
        "mode",
        choice(
          "Layers",
          state.mode,
          [
            ["side", "side by side"],
            ["overlaid", "overlaid"],
          ],
          (mode) => app.go({ mode }),
        ),
      ),
      range("opacity", "Opacity", { min: 0, max: 100, step: 5, value: state.opacity }, `${state.opacity} %`, (event) =>
        setOpacity(Number(event.target.value)),
      ),
      range(
        "score",
        "Instances from score",
        { min: 0, max: 1, step: 0.05, value: state.score },
        state.score.toFixed(2),
        (event) => {
          event.target.previousSibling.querySelector("b").textContent = Number(event.target.value).toFixed(2);
        },
        (event) => app.go({ score: Number(event.target.value) }),
      ),
      overview.categories.length <= DISTINCT_RGB.length &&
        withId(
          "palette",
          choice(
            "Colours",
            state.palette,
            [
              ["distinct", "easy to tell apart"],
              ["own", "of the data set"],
            ],
            (palette) => app.go({ palette }),
          ),
        ),
      el(
        "span.zoom",
        { role: "group", "aria-label": "Zoom" },
        el(
          "button",
          { type: "button", title: "Zoom out (−)", "aria-label": "Zoom out", onclick: () => zoomBy(1 / 1.5) },
          "−",
        ),
        el(
          "button",
          { type: "button", title: "Zoom in (+)", "aria-label": "Zoom in", onclick: () => zoomBy(1.5) },
          "+",
        ),
        el("button", { type: "button", title: "Whole image (0)", onclick: () => zoomBy(0) }, "whole"),
      ),
    ),
  );
}

const withId = (id, label) => {
  label.lastChild.id = id;
  return label;
};

function toggleLayer(overview, state, key) {
  const shown = new Set(shownLayers(overview, state));
  if (!shown.delete(key)) shown.add(key);
  app.go({
    layers: layerKeys(overview)
      .filter((other) => shown.has(other))
      .join(","),
  });
}

function setOpacity(opacity) {
  const section = document.getElementById("image");
  section.style.setProperty("--opacity", opacity / 100);
  const slider = document.getElementById("opacity");
  slider.value = opacity;
  slider.previousSibling.querySelector("b").textContent = `${opacity} %`;
  app.note({ opacity });
}

function imageKey(key, overview, state) {
  const link = (id) => {
    const target = document.getElementById(id)?.getAttribute("href");
    if (target) app.follow(target);
  };
  const keys = layerKeys(overview);
  if (key === "ArrowLeft") link("previous");
  else if (key === "ArrowRight") link("next");
  else if (/^[1-9]$/.test(key) && keys[key - 1]) document.getElementById(`layer-${keys[key - 1]}`)?.click();
  else if (key === "o") app.go({ mode: state.mode === "side" ? "overlaid" : "side" });
  else if (key === "[" || key === "]") setOpacity(Math.max(0, Math.min(100, state.opacity + (key === "]" ? 10 : -10))));
  else if (key === "+" || key === "=") zoomBy(1.5);
  else if (key === "-") zoomBy(1 / 1.5);
  else if (key === "0") zoomBy(0);
  else if (key === "s")
    app.go({ system: overview.systems[(overview.systems.indexOf(state.system) + 1) % overview.systems.length] });
  else return false;
  return true;
}
