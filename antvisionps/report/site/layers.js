// What can be laid over a photo: maps of one value a pixel, each value with a colour and something to say.
"use strict";

const SENTENCES = {
  matched: "matched",
  ignored: "not counted (void or crowd)",
  unexplained: "its map is not at hand",
  class: { 0: "missed: called", 1: "wrong class: the truth is" },
  merged: { 0: "missed: with others in one mask", 1: "wrong: holds several true ones" },
  split: { 0: "missed: in several parts", 1: "wrong: a part of one that is missed" },
  duplicate: { 1: "wrong: a rest on one that is matched" },
  location: { 0: "missed: best mask is too poor", 1: "wrong: mask is too poor" },
  both: { 0: "missed: a poor mask calls it", 1: "wrong class and poor mask: the truth is" },
  background: { 1: "wrong: nothing of its kind in the truth" },
  missed: { 0: "missed: nothing of its kind here" },
};
const NAMES_PARTNER = ["class", "both"];
const REJECTED = {
  routed_away: "routed to another end",
  merged: "merged into another end's",
  low_score: "score below the threshold",
  nms: "a better box overlaps",
  empty: "nothing of it visible",
  overlap_frac: "too much of it taken",
  outvoted: "outvoted by the semantics",
  low_confidence: "semantics too unsure",
  improbable: "most likely wrong",
  area: "too small",
};

// Of disagreement and doubt: from none, which is clear, to complete.
const DEGREE_COLORS = [null, ...Array.from({ length: 10 }, (_, level) => [255, 215 - 20 * level, 60 - 6 * level])];

// In the order of the keys 1 to 9. `system` and `errors` follow the chosen system; a comparison has those of all runs.
function layerKeys(overview) {
  if (overview.compared)
    return ["photo", "truth", ...["map", "errors"].flatMap((kind) => overview.mapped.map((run) => `${kind}:${run}`))];
  return [
    "photo",
    "truth",
    "system",
    "errors",
    ...overview.ends.flatMap((end) => overview.kinds[end].map((kind) => `${kind}:${end}`)),
    ...(overview.ends.filter((end) => overview.kinds[end].includes("semantic")).length > 1 ? ["disagreement"] : []),
    ...(overview.doubt ? ["doubt"] : []),
  ];
}

function layerName(key, system) {
  const [kind, end] = partsOf(key);
  return {
    photo: "photo",
    truth: "ground truth",
    system,
    map: end,
    errors: `errors of ${end ?? system}`,
    instances: `${end} instances`,
    semantic: `${end} semantics`,
    disagreement: "disagreement of ends",
    doubt: `doubt of ${system}`,
  }[kind];
}

// ["map", "name: of a run"] of "map:name: of a run"; the second is undefined where there is none.
function partsOf(key) {
  const place = key.indexOf(":");
  return place < 0 ? [key] : [key.slice(0, place), key.slice(place + 1)];
}

// A key of a comparison as the layers of that run know it: ["system" or "errors", the run], else [key, null].
function ofRun(key) {
  const [kind, run] = partsOf(key);
  if (kind === "map") return ["system", run];
  return kind === "errors" && run !== undefined ? ["errors", run] : [key, null];
}

// Of a run whose maps are not at hand.
const withoutMap = ({ segments }, pixels) => ({
  map: [pixels, 0],
  segments: [],
  gt_outcomes: segments.map(() => ({ outcome: "unexplained", iou: 0, partner: null })),
  rejected: [],
});

// The decoded maps and descriptions of one image; `layer(key).describe(value)` → {title, lines}.
function imageLayers(overview, image, data, state) {
  const { width, height } = image;
  const pixels = width * height;
  const names = overview.categories.map(({ name }) => name);
  const colors = categoryRgb(overview.categories, state.palette);
  const system = data.systems[state.system] ?? withoutMap(data, pixels);
  const decoded = (runs) => antvisionps.decodeRuns(runs, pixels);

  const nthOfClass = (segments) => {
    const seen = new Map();
    return segments.map(({ class: index }) => {
      const nth = seen.get(index) ?? 0;
      seen.set(index, nth + 1);
      return overview.categories[index].thing ? nth : 0;
    });
  };
  const segmentColors = (segments) => {
    const nth = nthOfClass(segments);
    return [null, ...segments.map((segment, place) => shaded(colors[segment.class], nth[place]))];
  };

  function outcomeText(side, { outcome, iou, partner }) {
    const sentence = SENTENCES[outcome];
    if (typeof sentence === "string") return outcome === "matched" ? `${sentence}, IoU ${iou.toFixed(2)}` : sentence;
    const others = side ? data.segments : system.segments;
    const text = NAMES_PARTNER.includes(outcome) ? `${sentence[side]} ${names[others[partner].class]}` : sentence[side];
    return partner === null ? text : `${text}, IoU ${iou.toFixed(2)}`;
  }

  const describeTrue = (value) => {
    const segment = data.segments[value - 1];
    return {
      title: names[segment.class],
      lines: [
        segment.crowd ? "crowd" : null,
        `${state.system}: ${outcomeText(0, system.gt_outcomes[value - 1])}`,
        count(segment.area, "px", "px"),
      ],
    };
  };
  const describePredicted = (value) => {
    const segment = system.segments[value - 1];
    return {
      title: names[segment.class],
      lines: [
        segment.score === null ? "stuff, no score" : `score ${segment.score.toFixed(2)}`,
        `from ${segment.end}`,
        outcomeText(1, segment),
        count(segment.area, "px", "px"),
      ],
    };
  };

  // What became of each instance of an end in the chosen system.
  const fates = new Map();
  for (const candidate of system.rejected)
    if (candidate.instance !== null)
      fates.set(`${candidate.end}/${candidate.instance}`, REJECTED[candidate.reason] ?? candidate.reason);
  const usedEnds = new Set([...system.segments, ...system.rejected].flatMap(({ end }) => end.split("+")));
  const fate = (end, place) => fates.get(`${end}/${place}`) ?? (usedEnds.has(end) ? "in the map" : "not asked");

  const nearestTrue = ({ class: index, iou, partner }) =>
    partner === null ? `overlaps no true ${names[index]}` : `IoU ${iou.toFixed(2)} with a true ${names[index]}`;
  // A rejected instance that would have matched what the system missed.
  const wouldMatch = ({ iou, partner }) => iou > 0.5 && system.gt_outcomes[partner].outcome !== "matched";

  function instanceMap(listed) {
    const values = new Uint16Array(pixels);
    for (let place = listed.length - 1; place >= 0; place--) {
      if (listed[place].score >= state.score)
        antvisionps.paintRle(listed[place].rle, place + 1, values, width, height);
    }
    return values;
  }

  // A place in ERRORS for each pixel, from 1.
  function errorMap() {
    const [truth, predicted] = [layer("truth").values, layer("system").values];
    const isFault = ({ outcome }) => !["matched", "ignored"].includes(outcome);
    const isIgnored = [false, ...system.gt_outcomes.map(({ outcome }) => outcome === "ignored")];
    const isMissed = [false, ...system.gt_outcomes.map(isFault)];
    const isWrong = [false, ...system.segments.map(isFault)];
    const partner = [-1, ...system.segments.map(({ outcome, partner }) => (outcome === "matched" ? partner + 1 : -1))];
    const code = Object.fromEntries(Object.keys(ERRORS).map((name, index) => [name, index + 1]));
    return truth.map((t, pixel) => {
      const p = predicted[pixel];
      if (t === 0) return code.void;
      if (isMissed[t]) return isWrong[p] ? code.both : code.missed;
      if (isWrong[p]) return code.wrong;
      if (isIgnored[t]) return code.ignored;
      return partner[p] === t ? code.same : code.rim;
    });
  }

  // {values, colors, describe}, or null where the end has no such predictions.
  const made = new Map();
  function layer(key) {
    if (!made.has(key)) made.set(key, makeLayer(key));
    return made.get(key);
  }

  // [key, layers]: what a key of a comparison is among the layers of its run.
  const ofRuns = new Map();
  function resolve(key) {
    const [own, run] = ofRun(key);
    if (run === null) return [key, self];
    if (!ofRuns.has(run)) ofRuns.set(run, imageLayers(overview, image, data, { ...state, system: run }));
    return [own, ofRuns.get(run)];
  }

  const painted = new Map();
  function canvas(key, isOutlined = false) {
    const as = `${key}/${isOutlined}`;
    if (!painted.has(as)) {
      const node = el("canvas.layer", { role: "img", "aria-label": altText(key), "data-layer": key });
      const shown = { ...layer(key), values: isolated(key) };
      (isOutlined ? paintRims : paintLayer)(node, shown, width, height);
      painted.set(as, node);
    }
    return painted.get(as);
  }

  // The layer's values where they are of the one category that the reader wants to see; of errors, where either side is.
  function isolated(key) {
    const { values, classes } = layer(key);
    if (state.only === "") return values;
    const only = Number(state.only);
    if (resolve(key)[1] !== self) return resolve(key)[1].isolated(resolve(key)[0]);
    if (classes) return values.map((value) => (classes[value] === only ? value : 0));
    const [truth, predicted] = [layer("truth"), layer("system")];
    const isOf = (side, pixel) => side.classes[side.values[pixel]] === only;
    return values.map((value, pixel) => (isOf(truth, pixel) || isOf(predicted, pixel) ? value : 0));
  }

  const classesOf = (segments) => [null, ...segments.map((segment) => segment.class)];

  // Of what has a degree, in ten steps; without runs there is no layer.
  function gradedLayer(runs, titleOf) {
    return (
      runs && {
        values: decoded(runs),
        colors: DEGREE_COLORS,
        isGraded: true,
        describe: (value) => ({ title: titleOf(10 * value), lines: [] }),
      }
    );
  }

  function makeLayer(key) {
    const [own, layers] = resolve(key);
    if (layers !== self) return layers.layer(own);
    const [kind, end] = partsOf(key);
    if (kind === "truth")
      return {
        values: decoded(data.map),
        colors: segmentColors(data.segments),
        classes: classesOf(data.segments),
        describe: describeTrue,
      };
    if (kind === "system")
      return {
        values: decoded(system.map),
        colors: segmentColors(system.segments),
        classes: classesOf(system.segments),
        describe: describePredicted,
      };
    if (kind === "errors")
      return {
        values: errorMap(),
        colors: [null, ...Object.values(ERRORS).map(stripesOf)],
        describe: (value) => ({ title: Object.values(ERRORS)[value - 1].text, lines: [] }),
        isErrors: true,
      };
    if (kind === "semantic") {
      const runs = data.ends[end]?.semantic;
      return (
        runs && {
          values: decoded(runs),
          colors: [null, ...colors],
          classes: [null, ...names.keys()],
          describe: (value) => ({ title: names[value - 1], lines: ["most probable class"] }),
        }
      );
    }
    if (kind === "disagreement")
      return gradedLayer(data.disagreement, (percent) => `the ends' semantics differ by ${percent} %`);
    if (kind === "doubt") return gradedLayer(system.doubt, (percent) => `doubt ${percent} %`);
    if (kind === "instances") {
      const listed = data.ends[end].instances;
      return (
        listed && {
          values: instanceMap(listed),
          colors: segmentColors(listed),
          classes: classesOf(listed),
          describe: (value) => ({
            title: names[listed[value - 1].class],
            lines: [
              `score ${listed[value - 1].score.toFixed(2)}`,
              nearestTrue(listed[value - 1]),
              `in ${state.system}: ${fate(end, value - 1)}`,
              count(listed[value - 1].area, "px", "px"),
            ],
          }),
        }
      );
    }
    return null;
  }

  // A mask of the pixels of one value, null without any.
  function outline(key, value) {
    const values = layer(key)?.values;
    if (!values || !value) return null;
    const mask = new Uint8Array(pixels);
    for (let pixel = 0; pixel < pixels; pixel++) mask[pixel] = values[pixel] === value ? 1 : 0;
    return mask;
  }

  // An instance's own mask, nothing for one that several ends found; of stuff, where any of its ends sees the class.
  function candidateMask({ end, instance, class: index }) {
    const mask = new Uint16Array(pixels);
    const found = instance !== null && data.ends[end]?.instances[instance];
    if (found) antvisionps.paintRle(found.rle, 1, mask, width, height);
    else if (overview.categories[index].thing) return null;
    else
      for (const one of end.split("+"))
        layer(`semantic:${one}`)?.values.forEach((value, pixel) => {
          if (value === index + 1) mask[pixel] = 1;
        });
    return mask;
  }

  function altText(key) {
    const [own, layers] = resolve(key);
    if (layers !== self) return layers.altText(own);
    if (key === "photo") return `Photo ${image.name}`;
    const name = layerName(key, state.system);
    const [kind, end] = partsOf(key);
    if (kind === "errors") {
      const tally = qualityOf(overview, image, state.system);
      return `${name}: ${tally.tp} matched, ${tally.fp} wrong, ${tally.fn} missed`;
    }
    const listed = {
      truth: data.segments,
      system: system.segments,
      instances: data.ends[end]?.instances?.filter(({ score }) => score >= state.score),
    }[kind];
    if (!listed) return name;
    const numbers = new Map();
    for (const { class: index } of listed) numbers.set(names[index], (numbers.get(names[index]) ?? 0) + 1);
    return `${name}: ${[...numbers].map(([category, times]) => `${times} ${category}`).join(", ") || "nothing"}`;
  }

  const self = {
    state,
    resolve,
    layer,
    canvas,
    isolated,
    outline,
    candidateMask,
    altText,
    outcomeText,
    wouldMatch,
    names,
    colors,
  };
  return self;
}
