// Building the page. Text of the data set only ever becomes text nodes and attribute values.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

// el("td.number", {title: "…", onclick: f}, "text", node, …); attributes may be left out, null and false children are.
const el = (kind, ...parts) => build(document.createElement(kind.split(".")[0]), kind, parts);
const svg = (kind, ...parts) => build(document.createElementNS(SVG, kind.split(".")[0]), kind, parts);

function build(node, kind, parts) {
  const [attributes, ...children] = parts[0]?.constructor === Object ? parts : [{}, ...parts];
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

// A labelled <select>; options are [value, text], or a text that is its own value.
function choice(label, value, options, onchange, id) {
  const select = el(
    "select",
    { id, onchange: (event) => onchange(event.target.value) },
    options
      .map((option) => (typeof option === "string" ? [option, option] : option))
      .map(([key, text]) => el("option", { value: key, selected: String(key) === String(value) }, text)),
  );
  return el("label.choice", el("span", label), select);
}

// A column is {head, cell, kind, …}: `cell(row)` is what its cell of a row holds, `kind` the element, as in el, "th" where it
// names the row; `attributes(row)` are the cell's. `rowOf(row)` makes the element of a row.
function table(label, columns, rows, { kind = "table", rowOf = () => el("tr") } = {}) {
  const head = ({ head: text, kind = "td", headKind = kind.includes("number") ? "th.number" : "th", title }) =>
    el(headKind, { scope: "col", title }, text);
  const cell = ({ cell: content, kind = "td", attributes = () => ({}) }, row) =>
    el(kind, { scope: kind === "th" ? "row" : null, ...attributes(row) }, content(row));
  const filled = (row) => {
    const node = rowOf(row);
    node.append(...columns.map((column) => cell(column, row)));
    return node;
  };
  return el(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": label },
    el(kind, { "aria-label": label }, el("thead", el("tr", columns.map(head))), el("tbody", rows.map(filled))),
  );
}

const numbers = (head, cell, more = {}) => ({ head, cell, kind: "td.number", ...more });
const strong = (head, cell) => numbers(head, cell, { kind: "td.number.strong" });

const inPercent = (fraction) => (fraction === null || fraction === undefined ? null : 100 * fraction);
const percent = (value, digits = 1) => (value === null || Number.isNaN(value) ? "–" : value.toFixed(digits));
const signed = (value) => {
  if (value === null || Number.isNaN(value)) return "–";
  const digits = Math.abs(value).toFixed(1);
  return `${Number(digits) === 0 ? "±" : value > 0 ? "+" : "−"}${digits}`;
};
const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ","); // Intl takes 50 ms when first asked
const count = (number, one, many = `${one}s`) => `${grouped(number)} ${number === 1 ? one : many}`;
