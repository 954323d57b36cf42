// Painting maps onto canvases: areas of colour, rims of segments, the outline of one mask.
"use strict";

// Makes a canvas a whole factor larger than what it shows; its pixels can be set and then drawn.
function enlarged(canvas, width, height) {
  const factor = canvasFactor(width);
  canvas.width = width * factor;
  canvas.height = height * factor;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  return { factor, pixels: new Uint32Array(picture.data.buffer), draw: () => context.putImageData(picture, 0, 0) };
}

// Paints (width × height) values onto a canvas that is a whole factor larger, so that lines and stripes stay thin.
function paintLayer(canvas, { values, colors, isErrors, isGraded }, width, height) {
  const { factor, pixels, draw } = enlarged(canvas, width, height);
  if (isErrors) paintStripes(pixels, values, colors, width, factor);
  else {
    paintAreas(pixels, values, Uint32Array.from(colors, packed), width, factor);
    if (!isGraded) drawBoundaries(pixels, values, width, height, factor);
  }
  draw();
}

// Row by row; those below of the same pixels are copies.
function paintAreas(pixels, values, colors, width, factor) {
  const across = width * factor;
  for (let at = 0, begin = 0; at < values.length; begin += factor * across) {
    for (let out = begin; out < begin + across; at++) {
      const color = colors[values[at]];
      for (let step = 0; step < factor; step++) pixels[out++] = color;
    }
    for (let copy = 1; copy < factor; copy++) pixels.copyWithin(begin + copy * across, begin, begin + across);
  }
}

// Each value in two colours, in stripes that are as wide on any canvas.
function paintStripes(pixels, values, colors, width, factor) {
  const [first, second] = [0, 1].map((side) => Uint32Array.from(colors, (pair) => packed(pair && pair[side])));
  const across = width * factor;
  for (let out = 0, x = 0, y = 0; out < pixels.length; out++) {
    const value = values[((y / factor) | 0) * width + ((x / factor) | 0)];
    pixels[out] = ((x + y) >> 2) & 1 ? second[value] : first[value];
    if (++x === across) {
      x = 0;
      y++;
    }
  }
}

// A colour as the canvas's bytes hold it.
function packed(color) {
  if (!color) return 0;
  const [red, green, blue, alpha = 1] = color;
  return ((Math.round(255 * alpha) << 24) | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red)) >>> 0;
}

// Only a line between segments, white with black sides, over whatever lies below.
function paintRims(canvas, { values }, width, height) {
  const { factor, pixels, draw } = enlarged(canvas, width, height);
  const reach = Math.max(2, Math.round(canvas.width / 320));
  const at = (x, y) => values[Math.floor(y / factor) * width + Math.floor(x / factor)];
  const isEdge = (value, x, y, reach) =>
    (x >= reach && at(x - reach, y) !== value) ||
    (x + reach < canvas.width && at(x + reach, y) !== value) ||
    (y >= reach && at(x, y - reach) !== value) ||
    (y + reach < canvas.height && at(x, y + reach) !== value);
  for (let y = 0, out = 0; y < canvas.height; y++)
    for (let x = 0; x < canvas.width; x++, out++) {
      const value = at(x, y);
      if (isEdge(value, x, y, reach)) pixels[out] = isEdge(value, x, y, 1) ? 0xffffffff : 0xff000000;
    }
  draw();
}

const canvasFactor = (width) => Math.max(1, Math.min(4, Math.floor(640 / width)));

function drawBoundaries(pixels, values, width, height, factor) {
  const across = width * factor;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = values[y * width + x];
      const corner = y * factor * across + x * factor;
      if (x + 1 < width && values[y * width + x + 1] !== value) {
        for (let step = 0; step < factor; step++) pixels[corner + step * across + factor - 1] = 0xffffffff;
      }
      if (y + 1 < height && values[(y + 1) * width + x] !== value) {
        pixels.fill(0xffffffff, corner + (factor - 1) * across, corner + (factor - 1) * across + factor);
      }
    }
  }
}

// A black and white line round the pixels of a mask; nothing without one.
function paintOutline(canvas, mask, width, height) {
  const factor = canvasFactor(width);
  canvas.width = width * factor;
  canvas.height = height * factor;
  if (!mask) return;
  const context = canvas.getContext("2d");
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x];
  const edges = new Path2D();
  const edge = (x0, y0, x1, y1) => {
    edges.moveTo(x0 * factor, y0 * factor);
    edges.lineTo(x1 * factor, y1 * factor);
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!mask[y * width + x]) continue;
      if (!inside(x - 1, y)) edge(x, y, x, y + 1);
      if (!inside(x + 1, y)) edge(x + 1, y, x + 1, y + 1);
      if (!inside(x, y - 1)) edge(x, y, x + 1, y);
      if (!inside(x, y + 1)) edge(x, y + 1, x + 1, y + 1);
    }
  }
  context.lineCap = "round";
  for (const [color, lineWidth] of [["#000", 5], ["#fff", 2.2]]) {
    context.strokeStyle = color;
    context.lineWidth = lineWidth * Math.max(1, (width * factor) / 640);
    context.stroke(edges);
  }
}
