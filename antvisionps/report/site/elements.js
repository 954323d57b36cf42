// Building the page. Text of the data set only ever becomes text nodes and attribute values.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

// el("td.number", {title: "…", onclick: f}, "text", node, …); null and false children are left out.
function el(kind, attributes = {}, ...children) {
  return build(document.createElement(kind.split(".")[0]), kind, attributes, children);
}

function svg(kind, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, kind.split(".")[0]), kind, attributes, children);
}

function build(node, kind, attributes, children) {
  const classes = kind.split(".").slice(1);
  if (classes.length) node.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.classList.add(...value.split(" "));
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// A labelled <select>; options are [value, text].
function choice(label, value, options, onchange) {
  const select = el(
    "select",
    { onchange: (event) => onchange(event.target.value) },
    options.map(([key, text]) => el("option", { value: key, selected: String(key) === String(value) }, text)),
  );
  return el("label.choice", {}, el("span", {}, label), select);
}

const percent = (value, digits = 1) => (value === null || Number.isNaN(value) ? "–" : value.toFixed(digits));
const signed = (value) => {
  if (value === null || Number.isNaN(value)) return "–";
  const digits = Math.abs(value).toFixed(1);
  return `${Number(digits) === 0 ? "±" : value > 0 ? "+" : "−"}${digits}`;
};
const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
