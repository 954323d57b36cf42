// What the data scripts hand over, and how to read it: deflated JSON, maps as runs, masks as COCO's run lengths.
"use strict";

const antvisionps = (() => {
  const KEPT_IMAGES = 12; // inflated ones that stay in memory
  const waiting = new Map(); // image id → the promise's ends
  const images = new Map(); // image id → promise of its data
  let resolveOverview, rejectOverview;
  const overview = new Promise((resolve, reject) => {
    resolveOverview = resolve;
    rejectOverview = reject;
  });

  // The only URLs that may become scripts; browsers without Trusted Types take the plain text.
  const asScriptUrl = (url) => {
    if (!/^images\/\d+\.js$/.test(url)) throw new TypeError(`not a script of this page: ${url}`);
    return url;
  };
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy("antvisionps", { createScriptURL: asScriptUrl })
    : { createScriptURL: asScriptUrl };

  async function inflate(packed) {
    if (!window.DecompressionStream) {
      throw new Error("This browser is too old for the page; it needs Chrome 80, Firefox 113 or Safari 16.4.");
    }
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  async function receive(packed) {
    try {
      const document_ = await inflate(packed);
      if (document_.id === undefined) resolveOverview(document_);
      else waiting.get(document_.id)?.resolve(document_);
    } catch (error) {
      rejectOverview(error);
    }
  }

  function loadImage(id) {
    if (!images.has(id)) {
      images.set(
        id,
        new Promise((resolve, reject) => {
          waiting.set(id, { resolve });
          const script = document.createElement("script");
          script.src = policy.createScriptURL(`images/${id}.js`);
          script.onload = () => script.remove();
          script.onerror = () => {
            images.delete(id);
            script.remove();
            reject(new Error(`images/${id}.js cannot be loaded; is the whole folder of the report here?`));
          };
          document.head.append(script);
        }),
      );
      if (images.size > KEPT_IMAGES) images.delete(images.keys().next().value);
    }
    return images.get(id);
  }

  // [length, value, length, value, …] → one value a pixel, row by row.
  function decodeRuns(runs, pixels) {
    const values = new Uint16Array(pixels);
    let place = 0;
    for (let index = 0; index < runs.length; index += 2) {
      values.fill(runs[index + 1], place, place + runs[index]);
      place += runs[index];
    }
    return values;
  }

  // Paints one of COCO's compressed masks: runs go down the columns, in groups of 5 bits, from the fourth on as
  // differences to the run two before.
  function paintRle(counts, value, values, width, height) {
    const lengths = [];
    let character = 0,
      place = 0;
    while (character < counts.length) {
      let number = 0,
        shift = 0,
        code;
      do {
        code = counts.charCodeAt(character++) - 48;
        number |= (code & 0x1f) << shift;
        shift += 5;
      } while (code & 0x20);
      if (code & 0x10) number |= -1 << shift;
      if (lengths.length > 2) number += lengths[lengths.length - 2];
      if (lengths.length % 2) {
        for (let pixel = place; pixel < place + number; pixel++) {
          values[(pixel % height) * width + Math.floor(pixel / height)] = value;
        }
      }
      place += number;
      lengths.push(number);
    }
  }

  return { overview, receive, loadImage, decodeRuns, paintRle };
})();
