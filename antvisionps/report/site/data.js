// What the data scripts hand over, and how to read it: deflated JSON, maps as runs, masks as COCO's run lengths.
"use strict";

const antvisionps = (() => {
  const KEPT_IMAGES = 12; // inflated ones that stay in memory
  const REMEDY = "copy the whole folder of the report again, or write it by `dvc repro --force report`";
  const images = new Map(); // image id → promise of its data
  const asked = new WeakMap(); // script of an image → its id, name, and how to settle the promise of its data
  const askedFirst = { name: "data/overview.js" };
  const overview = new Promise((resolve, reject) => Object.assign(askedFirst, { resolve, reject }));
  window.addEventListener("load", () => refuseSilent(askedFirst));

  // The only URLs that may become scripts; browsers without Trusted Types take the plain text.
  const asScriptUrl = (url) => {
    if (!/^(images\/\d+|data\/(pairs|wrong))\.js$/.test(url)) throw new TypeError(`not a script of this page: ${url}`);
    return url;
  };
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy("antvisionps", { createScriptURL: asScriptUrl })
    : { createScriptURL: asScriptUrl };

  async function inflate(packed) {
    const text = atob(packed);
    const bytes = new Uint8Array(text.length); // filled in a loop: Uint8Array.from takes ten times as long
    for (let place = 0; place < text.length; place++) bytes[place] = text.charCodeAt(place);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  // What a script of data calls, once.
  async function receive(packed) {
    const request = asked.get(document.currentScript) ?? askedFirst;
    request.called = true;
    if (!window.DecompressionStream) {
      request.reject(new Error("This browser is too old for the page; it needs Chrome 88, Firefox 113 or Safari 16.4."));
      return;
    }
    try {
      const found = await inflate(packed);
      if (found.id !== request.id) throw new Error("it is of something else");
      request.resolve(found);
    } catch (error) {
      request.reject(new Error(`${request.name} is damaged (${error.message}); ${REMEDY}`));
    }
  }

  // A script that ran, or was no script, without a call.
  function refuseSilent({ called, name, reject }) {
    if (!called) reject(new Error(`${name} is missing or damaged; ${REMEDY}`));
  }

  // What the script hands over, which says of itself that it is of this id.
  function load(name, id) {
    return new Promise((resolve, reject) => {
      const request = { id, name, resolve, reject };
      const script = document.createElement("script");
      script.src = policy.createScriptURL(name);
      script.onload = () => {
        script.remove();
        refuseSilent(request);
      };
      script.onerror = () => reject(new Error(`${name} cannot be loaded; ${REMEDY}`));
      asked.set(script, request);
      document.head.append(script);
    });
  }

  // A table of all images that is large, and wanted by few.
  const loadTable = (name) => load(`data/${name}.js`, name);

  function loadImage(id) {
    if (!images.has(id)) {
      images.set(id, load(`images/${id}.js`, id));
      images.get(id).catch(() => images.delete(id)); // who comes back may find it whole
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

  return { overview, receive, loadImage, loadTable, decodeRuns, paintRle };
})();
