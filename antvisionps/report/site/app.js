// Which view is shown: the part of the address behind # holds all of it, so that every view has a link.
"use strict";

const app = (() => {
  const state = {};
  let overview, defaults, shown;

  const byId = (id) => document.getElementById(id);

  function defaultState() {
    const { systems, min_score: minScore } = overview;
    const last = systems[systems.length - 1];
    return {
      view: "overview",
      id: null,
      system: last,
      from: systems[0],
      to: last,
      ...NO_FILTER,
      tags: "",
      thumbs: "photo",
      mode: "side",
      opacity: 65,
      palette: "distinct",
      score: minScore,
      layers: "", // those of the mode
      only: "",
      enlarged: "",
      zoom: "",
      measure: "PQ",
      bars: "order",
      curve: "loss",
      lost: "All",
      lrp: "", // a system
      precision: "", // a class index
      confusion: "", // a system; the chosen one where it is empty
      counted: "pixels",
    };
  }

  function readAddress() {
    const [path, query] = location.hash.slice(1).split("?");
    const [view, id] = path.split("/");
    Object.assign(state, defaults);
    state.view = ["overview", "images", "image"].includes(view) ? view : "overview";
    if (state.view === "image") state.id = Number(id);
    for (const [key, value] of new URLSearchParams(query ?? "")) {
      if (!(key in defaults) || key === "view" || key === "id") continue;
      state[key] = typeof defaults[key] === "number" ? Number(value) || 0 : value;
    }
    const { systems } = overview;
    for (const key of ["system", "from", "to"]) if (!systems.includes(state[key])) state[key] = defaults[key];
  }

  // What is of one image alone does not follow to another.
  const OF_AN_IMAGE = { zoom: "" };

  function address(changes = {}) {
    const isElsewhere = ("id" in changes && changes.id !== state.id) || (changes.view ?? state.view) !== state.view;
    const next = { ...state, ...(isElsewhere && OF_AN_IMAGE), ...changes };
    const query = new URLSearchParams();
    for (const [key, value] of Object.entries(next)) {
      if (key !== "view" && key !== "id" && value !== defaults[key]) query.set(key, value);
    }
    return joined(`#${next.view === "image" ? `image/${next.id}` : next.view}`, query);
  }

  // `push` makes a step in the browser's history.
  function go(changes, { push = false } = {}) {
    const target = address(changes);
    if (target === location.hash) return;
    history[push ? "pushState" : "replaceState"](null, "", target);
    show();
  }

  // Keeps a change in the address, and in all links, without drawing anew.
  function note(changes) {
    Object.assign(state, changes);
    history.replaceState(null, "", address());
    for (const link of document.querySelectorAll('main a[href^="#"], nav a')) link.href = changed(link.hash, changes);
  }

  function changed(hash, changes) {
    const [path, text] = hash.split("?");
    const query = new URLSearchParams(text);
    for (const [key, value] of Object.entries(changes)) {
      if (value === defaults[key] || key in OF_AN_IMAGE) query.delete(key);
      else query.set(key, value);
    }
    return joined(path, query);
  }

  const joined = (path, query) => `${path}?${query}`.replace(/\?$/, "");

  function follow(target) {
    history.pushState(null, "", target);
    show();
  }

  function show() {
    readAddress();
    for (const name of ["overview", "images", "image"]) byId(name).hidden = name !== state.view;
    for (const name of ["overview", "images"]) {
      const tab = byId(`tab-${name}`);
      tab.href = address({ view: name });
      const current = state.view === name || (name === "images" && state.view === "image");
      if (current) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    byId("tooltip").hidden = true;
    const before = shown;
    shown = state.view;
    const views = { overview: showOverview, images: showImages, image: showImage };
    const { hash } = location;
    const drawn = Promise.resolve(views[state.view](byId(state.view), overview, state)).then(() => {
      document.documentElement.dataset.shown = hash; // what is drawn, for who waits for it
    });
    document.title = [state.view === "image" && overview.imageOf.get(state.id)?.name, "AntVisionPS report"]
      .filter(Boolean)
      .join(" · ");
    if (before === state.view) return drawn;
    if (before === "image" && state.view === "images") returnToCard(byId("images"));
    else window.scrollTo(0, 0);
    return drawn;
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    if (event.target.matches("select, input:not([type=checkbox])") && event.key !== "Escape") return;
    if (event.key === "?") byId("help").showModal();
    else if (event.key === "h") go({ view: "overview" }, { push: true });
    else if (event.key === "/") {
      go({ view: "images" }, { push: true });
      focusSearch();
    }
    else if (event.key === "Escape" && state.view === "image" && state.enlarged) go({ enlarged: "" });
    else if (event.key === "g" || (event.key === "Escape" && state.view === "image"))
      go({ view: "images" }, { push: true });
    else if (!overview.imageOf.has(state.id) || !imageKey(event, overview, state)) return;
    event.preventDefault();
  }

  async function start() {
    try {
      overview = await antvisionps.overview;
    } catch (error) {
      byId("message").textContent = error.message;
      byId("message").hidden = false;
      return;
    }
    prepareImages(overview);
    defaults = defaultState();
    window.addEventListener("hashchange", show);
    window.addEventListener("keydown", onKey);
    byId("help-button").addEventListener("click", () => byId("help").showModal());
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      byId("main").focus();
    });
    await show();
    document.documentElement.dataset.ready = "true";
  }

  start();
  return { go, note, follow, address };
})();
