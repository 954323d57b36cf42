// The small pictures of the cards: photos, and over them a map of the image when its card comes into sight.
"use strict";

const THUMBNAILS = [
  ["photo", "photo"],
  ["truth", "with truth"],
  ["system", "with system"],
  ["errors", "with errors"],
];
const THUMBNAIL_WIDTH_PX = 320;

function thumbnail(image, overview, state) {
  const photo = el(state.thumbs === "errors" ? "img.grey" : "img", {
    src: `thumbnails/${image.id}.jpg`,
    alt: `Photo ${image.name}`,
    loading: "lazy",
    decoding: "async",
    width: image.width,
    height: image.height,
  });
  const hasMap = state.thumbs === "truth" || overview.mapped.includes(state.system);
  if (!hasMap || !THUMBNAILS.some(([kind]) => kind === state.thumbs && kind !== "photo")) return photo;
  const framed = el("span.thumbnail", photo);
  overlays.set(framed, { image, overview, state: { ...state } });
  inSight.observe(framed);
  return framed;
}

const overlays = new WeakMap(); // thumbnail → what is drawn over it

// Maps come and go with the cards: a list of thousands holds only what can be seen.
const inSight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) drawOverThumbnail(target);
      else target.querySelector("canvas")?.remove();
    }
  },
  { rootMargin: "200px" },
);

async function drawOverThumbnail(framed) {
  const { image, overview, state } = overlays.get(framed);
  const data = await antvisionps.loadImage(image.id).catch(() => null); // the image's own view says why
  if (!data || !framed.isConnected || framed.querySelector("canvas")) return;
  const whole = imageLayers(overview, image, data, state).canvas(state.thumbs);
  const width = Math.min(THUMBNAIL_WIDTH_PX, whole.width);
  const height = Math.round((width * whole.height) / whole.width);
  const canvas = el("canvas", { width, height, role: "img", "aria-label": whole.getAttribute("aria-label") });
  canvas.getContext("2d").drawImage(whole, 0, 0, width, height);
  framed.append(canvas);
}
