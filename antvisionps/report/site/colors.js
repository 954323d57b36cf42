// Colours that people with any kind of colour blindness can tell apart.
"use strict";

const rgbOf = (hex) => [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));

// Each next colour is the one farthest from all before it, in CIELAB, as seen with normal sight and with full
// protanopia, deuteranopia and tritanopia (Machado et al. 2009), whichever is nearest.
const DISTINCT_RGB = [
  "#0072b2", "#ff7700", "#00ffbb", "#663322", "#9911ff", "#ffbbff", "#aaee77", "#bb7755",
  "#4422aa", "#992266", "#ff55ff", "#cc2200", "#55bbaa", "#ddee00", "#eeaa88", "#aa88bb",
  "#bb2255", "#662277", "#ff4488", "#aa33dd", "#99bb55", "#99eedd", "#eecc44", "#337711",
].map(rgbOf);

// Okabe and Ito 2008. A pair of colours becomes stripes.
const ERRORS = {
  same: { text: "matched (TP)", colors: ["#009e73"], alpha: 0.5 }, // what is right stays in the background
  rim: { text: "matched, but not here", colors: ["#56b4e9"] },
  wrong: { text: "wrong (FP)", colors: ["#e69f00"] },
  missed: { text: "missed (FN)", colors: ["#cc79a7"] },
  both: { text: "wrong and missed", colors: ["#e69f00", "#cc79a7"] },
  ignored: { text: "not counted (crowd)", colors: ["#646464"] },
  void: { text: "void in the truth", colors: ["#3c3c3c", "#e1e1e1"] },
};
const stripesOf = ({ colors: [first, second = first], alpha = 1 }) =>
  [first, second].map((hex) => [...rgbOf(hex), alpha]);

const SHADES = [1, 0.72, 1.25, 0.85, 1.12, 0.6]; // of the things of a category in an image

const cssRgb = (rgb) =>
  `rgb(${rgb.slice(0, 3).map((value) => Math.round(Math.max(0, Math.min(255, value)))).join(" ")})`;

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
