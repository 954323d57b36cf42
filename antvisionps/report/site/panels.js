// The panels of an image, side by side or overlaid: zoomed in step, and what every layer says of the pixel below the pointer.
"use strict";

const MAX_ZOOM = 16;
const ZOOM_STEP = 1.5;
const NO_LAYER = "none"; // as `layers` in the address: the reader hid them all
const OVERLAID = ["photo", "truth", "system"];
const NOTHING_AT = {
  truth: "void",
  system: "void: nothing predicted",
  disagreement: "the ends' semantics agree",
  doubt: "no doubt",
};
const ON_A_PHONE = ["photo", "truth", "system", "errors"]; // of a comparison all

const inAddress = (key) => key.replaceAll(",", "%2C"); // names of runs may have commas, which part layers there

// Those that the reader chose, else those of the mode.
function shownLayers(overview, state) {
  const keys = layerKeys(overview);
  if (state.layers) return keys.filter((key) => state.layers.split(",").includes(inAddress(key)));
  if (state.mode === "overlaid") return overview.compared ? keys.slice(0, 3) : OVERLAID;
  return window.matchMedia("(max-width: 700px)").matches && !overview.compared ? ON_A_PHONE : keys;
}

// What each panel shows: one layer, or all over each other, or the enlarged one alone.
function panelGroups(keys, { mode, enlarged }) {
  if (keys.includes(enlarged)) return [[enlarged]];
  return mode === "overlaid" ? [keys] : keys.map((key) => [key]);
}

function buildPanels(overview, image, layers, state) {
  const keys = shownLayers(overview, state).filter((key) => key === "photo" || layers.layer(key));
  const groups = panelGroups(keys, state);
  const isLarge = groups.length === 1;
  const container = el("div.panels", { class: isLarge ? "overlaid" : "side", "--ratio": image.width / image.height });
  viewer.panels = { layers, image, container, state, overview };
  viewer.hovered = null;
  container.append(
    ...groups
      .filter((group) => group.length)
      .map((group) => {
        const caption = group.map((key) => layerName(key, state.system)).join(" + ");
        const photo = { src: `images/${image.id}.jpg`, alt: layers.altText("photo"), draggable: "false" };
        return el(
          "figure.view",
          { "data-layer": group.length === 1 ? group[0] : "overlaid" },
          el(
            "div.window",
            { tabindex: 0, role: "group", "aria-label": caption },
            el(
              "div.zoomed",
              el(group.some((key) => key.startsWith("errors")) ? "img.grey" : "img", photo),
              group.filter((key) => key !== "photo").map((key) => layers.canvas(key, isOutlined(key, group))),
              el("canvas.outline", { "aria-hidden": "true" }),
              el("i.crosshair", { hidden: true }),
            ),
          ),
          el("figcaption", caption, group.length === 1 && keys.length > 1 && enlargeButton(group[0], state)),
        );
      }),
  );
  if (!keys.length) container.append(el("p.quiet", "Every layer is hidden."));
  listenToPointer(container);
  return container;
}

// Over other maps the truth is a line, so that all of them and the photo can be seen.
const isOutlined = (key, group) => key === "truth" && group.some((other) => !["photo", "truth"].includes(other));

function enlargeButton(key, { enlarged, system }) {
  const isLarge = enlarged === key;
  const title = isLarge ? "Back to all panels (e)" : "Enlarge (e)";
  const label = `${isLarge ? "Shrink" : "Enlarge"} ${layerName(key, system)}`;
  const onclick = () => app.go({ enlarged: isLarge ? "" : key });
  return el("button.enlarge", { type: "button", id: `enlarge-${key}`, title, "aria-label": label, onclick }, isLarge ? "⤡" : "⤢");
}

// In the address "scale,x,y": as `viewer.zoom`, rounded.
function readZoom(text) {
  const [scale, x, y] = text.split(",").map(Number);
  return clampedZoom(scale >= 1 && scale <= MAX_ZOOM ? { scale, x: x || 0, y: y || 0 } : { scale: 1, x: 0, y: 0 });
}

const writtenZoom = ({ scale, x, y }) =>
  scale === 1 ? "" : [scale, x, y].map((value) => Number(value.toFixed(4))).join(",");

function clampedZoom({ scale, x, y }) {
  const inside = (value) => Math.min(0, Math.max(1 - scale, value));
  return { scale, x: inside(x), y: inside(y) };
}

function applyZoom(container) {
  const { scale, x, y } = viewer.zoom;
  container.style.setProperty("--zoom", scale);
  container.style.setProperty("--zoom-x", `${100 * x}%`);
  container.style.setProperty("--zoom-y", `${100 * y}%`);
  container.classList.toggle("zoomed-in", scale > 1);
}

// About (x, y), fractions of a panel; by 0 is the whole image.
function zoomBy(factor, x = 0.5, y = 0.5) {
  const old = viewer.zoom;
  const scale = factor === 0 ? 1 : Math.max(1, Math.min(MAX_ZOOM, old.scale * factor));
  setZoom({ scale, x: x - ((x - old.x) * scale) / old.scale, y: y - ((y - old.y) * scale) / old.scale });
}

const ZOOM_SETTLES_MS = 150; // browsers refuse an address a frame

function setZoom(zoom) {
  viewer.zoom = clampedZoom(zoom);
  const { container, image } = viewer.panels;
  applyZoom(container);
  clearTimeout(viewer.settling);
  viewer.settling = setTimeout(() => {
    viewer.settling = null;
    const isShown = !document.getElementById("image").hidden && viewer.id === image.id;
    if (isShown) app.note({ zoom: writtenZoom(viewer.zoom) });
  }, ZOOM_SETTLES_MS);
}

function listenToPointer(container) {
  const down = new Map(); // pointer id → last place
  const place = (event, view) => {
    const box = view.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  };
  const viewOf = (event) => event.target.closest?.(".window");
  container.addEventListener("pointerdown", (event) => {
    const view = viewOf(event);
    if (!view) return;
    down.set(event.pointerId, place(event, view));
    if (event.pointerType !== "mouse") hoverAt(event, view);
  });
  container.addEventListener("pointermove", (event) => {
    const view = viewOf(event);
    if (!view) {
      unhover();
      return;
    }
    const now = place(event, view);
    const before = down.get(event.pointerId);
    if (before) {
      const other = [...down.entries()].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const distance = (one) => Math.hypot(one.x - other.x, one.y - other.y) || 1e-6;
        zoomBy(distance(now) / distance(before), other.x, other.y);
      } else if (viewer.zoom.scale > 1) {
        setZoom({ scale: viewer.zoom.scale, x: viewer.zoom.x + now.x - before.x, y: viewer.zoom.y + now.y - before.y });
      }
      down.set(event.pointerId, now);
    }
    hoverAt(event, view);
  });
  const release = (event) => down.delete(event.pointerId);
  container.addEventListener("pointerup", release);
  container.addEventListener("pointercancel", release);
  container.addEventListener("pointerleave", (event) => {
    release(event);
    if (event.pointerType === "mouse") unhover();
  });
  container.addEventListener("dblclick", (event) => {
    const view = viewOf(event);
    if (view) {
      const { x, y } = place(event, view);
      zoomBy(event.shiftKey ? 0.5 : 2, x, y);
    }
  });
  container.addEventListener(
    "wheel",
    (event) => {
      const view = viewOf(event);
      if (!view || !(event.ctrlKey || event.metaKey)) return; // without a key the wheel scrolls the page
      event.preventDefault();
      const { x, y } = place(event, view);
      zoomBy(Math.exp(-event.deltaY / 200), x, y);
    },
    { passive: false },
  );
}

function hoverAt(event, view) {
  const { image } = viewer.panels;
  const box = view.querySelector(".zoomed").getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * image.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * image.height);
  if (x < 0 || y < 0 || x >= image.width || y >= image.height) {
    unhover();
    return;
  }
  const key = hoveredLayer(view, y * image.width + x);
  showPixel(x, y, key);
  if (event.pointerType !== "touch") showTooltip(event, describeAt(key, y * image.width + x)); // else below the finger
}

// The panel's layer; of an overlaid panel the topmost that says something here, over the photo the system.
function hoveredLayer(view, pixel) {
  const { layers } = viewer.panels;
  const keys = [...view.querySelectorAll("canvas.layer")].map((canvas) => canvas.dataset.layer).reverse();
  return keys.find((key) => layers.layer(key).values[pixel]) ?? keys[0] ?? "system";
}

function describeAt(shown, pixel) {
  const name = layerName(shown, viewer.panels.state.system);
  const [key, layers] = viewer.panels.layers.resolve(shown);
  const layer = layers.layer(key);
  if (key === "errors") {
    const side = (label, of, most) => {
      const { values, describe } = layers.layer(of);
      if (!values[pixel]) return `${label}: void`;
      const { title, lines } = describe(values[pixel]);
      return `${label}: ${[title, ...lines.filter(Boolean).slice(0, most)].join(", ")}`;
    };
    const lines = [side("truth", "truth", 2), side(layers.state.system, "system", 3)];
    return { ...layer.describe(layer.values[pixel]), name, lines };
  }
  const value = layer?.values[pixel];
  const isUnknown = key === "system" && !viewer.panels.overview.mapped.includes(viewer.panels.state.system);
  if (!value) return { title: isUnknown ? SENTENCES.unexplained : (NOTHING_AT[key] ?? "nothing"), name, lines: [] };
  return { ...layer.describe(value), name };
}

function showPixel(x, y, key) {
  const { layers, image, container, overview, state } = viewer.panels;
  const pixel = y * image.width + x;
  for (const mark of container.querySelectorAll(".crosshair")) {
    mark.hidden = false;
    mark.style.left = `${(100 * (x + 0.5)) / image.width}%`;
    mark.style.top = `${(100 * (y + 0.5)) / image.height}%`;
  }
  const [kind, run] = partsOf(key);
  const predicted = run === undefined ? "system" : `map:${run}`;
  const outlined = kind === "errors" ? (layers.layer("truth").values[pixel] ? "truth" : predicted) : key;
  const value = layers.layer(outlined)?.values[pixel] ?? 0;
  const hovered = `${outlined}/${value}`;
  if (hovered !== viewer.hovered) {
    viewer.hovered = hovered;
    drawOutline(layers.outline(outlined, value));
  }
  const said = layerKeys(overview)
    .filter((other) => other !== "photo" && !other.startsWith("errors") && layers.layer(other))
    .map((other) => {
      const { title, lines, name } = describeAt(other, pixel);
      const answer = el("dd", el("b", title), " ", el("span.quiet", lines.filter(Boolean).join(" · ")));
      return el("div", el("dt", name), answer);
    });
  document.getElementById("readout").replaceChildren(el("h3", `Pixel ${x}, ${y}`), el("dl", said));
}

function drawOutline(mask) {
  const { image, container } = viewer.panels;
  const [first, ...others] = container.querySelectorAll("canvas.outline");
  if (!first) return;
  paintOutline(first, mask, image.width, image.height);
  for (const canvas of others) {
    canvas.width = first.width;
    canvas.height = first.height;
    if (mask) canvas.getContext("2d").drawImage(first, 0, 0);
  }
}

function showTooltip(event, { title, name, lines }) {
  const tooltip = document.getElementById("tooltip");
  const listed = lines.filter(Boolean).map((line) => el("span", line));
  tooltip.replaceChildren(el("small", name), el("b", title), ...listed);
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const x = event.clientX + 16 + width > window.innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  const y = event.clientY + 16 + height > window.innerHeight ? event.clientY - height - 12 : event.clientY + 16;
  tooltip.style.left = `${Math.max(4, x)}px`;
  tooltip.style.top = `${Math.max(4, y)}px`;
}

function unhover() {
  document.getElementById("tooltip").hidden = true;
  if (!viewer.panels) return;
  for (const mark of viewer.panels.container.querySelectorAll(".crosshair")) mark.hidden = true;
  if (viewer.hovered !== null) drawOutline(null);
  viewer.hovered = null;
}

const readout = () =>
  el(
    "section.readout",
    { id: "readout", "aria-label": "At the pointer" },
    el(
      "p.quiet",
      "Point at a pixel, or tap it: every layer's answer stands here. Ctrl and wheel, a pinch, a double click or + and − zoom all panels.",
    ),
  );
