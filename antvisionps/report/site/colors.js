// Colours that people with any kind of colour blindness can tell apart.
"use strict";

// Each next colour is the one farthest from all before it, in CIELAB, as seen with normal sight and with full
// protanopia, deuteranopia and tritanopia (Machado et al. 2009), whichever is nearest.
const DISTINCT_RGB = [
  [0, 114, 178],
  [255, 119, 0],
  [0, 255, 187],
  [102, 51, 34],
  [153, 17, 255],
  [255, 187, 255],
  [170, 238, 119],
  [187, 119, 85],
  [68, 34, 170],
  [153, 34, 102],
  [255, 85, 255],
  [204, 34, 0],
  [85, 187, 170],
  [221, 238, 0],
  [238, 170, 136],
  [170, 136, 187],
  [187, 34, 85],
  [102, 34, 119],
  [255, 68, 136],
  [170, 51, 221],
  [153, 187, 85],
  [153, 238, 221],
  [238, 204, 68],
  [51, 119, 17],
];

// Okabe and Ito 2008. A pair of colours becomes stripes.
const ERROR_COLORS = {
  same: [
    [0, 114, 178, 0.5],
    [0, 114, 178, 0.5],
  ], // what is right stays in the background
  rim: [
    [86, 180, 233],
    [86, 180, 233],
  ],
  wrong: [
    [230, 159, 0],
    [230, 159, 0],
  ],
  missed: [
    [204, 121, 167],
    [204, 121, 167],
  ],
  both: [
    [230, 159, 0],
    [204, 121, 167],
  ],
  ignored: [
    [100, 100, 100],
    [100, 100, 100],
  ],
  void: [
    [60, 60, 60],
    [225, 225, 225],
  ],
};
const ERROR_TEXTS = {
  same: "matched (TP)",
  rim: "matched, but not here",
  wrong: "wrong (FP)",
  missed: "missed (FN)",
  both: "wrong and missed",
  ignored: "not counted (crowd)",
  void: "void in the truth",
};

const SHADES = [1, 0.72, 1.25, 0.85, 1.12, 0.6]; // of the things of a category in an image

const cssRgb = (rgb) =>
  `rgb(${rgb
    .slice(0, 3)
    .map((value) => Math.round(Math.max(0, Math.min(255, value))))
    .join(" ")})`;

// Class index → colour. A data set with more categories than distinct colours keeps its own. Stuff covers most of an
// image, so it gets the calmer ones.
function categoryRgb(categories, palette) {
  if (palette === "own" || categories.length > DISTINCT_RGB.length) return categories.map(({ color }) => color);
  const chroma = (rgb) => Math.max(...rgb) - Math.min(...rgb);
  const vivid = DISTINCT_RGB.slice(0, categories.length).sort((one, other) => chroma(other) - chroma(one));
  const things = categories.filter(({ thing }) => thing).length;
  const [forThings, forStuff] = [vivid.slice(0, things), vivid.slice(things)].map((part) => part.values());
  return categories.map(({ thing }) => (thing ? forThings : forStuff).next().value);
}

const shaded = (rgb, nth) => rgb.map((value) => Math.min(255, value * SHADES[nth % SHADES.length]));
