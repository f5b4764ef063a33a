// Elements. Text goes into the page as text nodes and attributes, never as markup.
function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const OUTCOMES = { win: "better", loss: "worse", tie: "tie", unknown: "not judged" };

function chip(outcome) {
  return make("span", { class: `chip ${outcome}` }, OUTCOMES[outcome]);
}

function number(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
}

function signed(value, digits = 2) {
  return (value > 0 ? "+" : "") + number(value, digits);
}

function count(value) {
  return value.toLocaleString("en-US");
}

function words(name) {
  return name.replaceAll("_", " ");
}

function plural(amount, one) {
  return `${count(amount)} ${one}${amount === 1 ? "" : "s"}`;
}

// A labelled choice; `options` are [value, words] pairs. Where there is nothing to choose, it is not shown.
function choice(label, options, changed) {
  const select = make("select", { onchange: changed }, options.map(([value, said]) => make("option", { value }, said)));
  const field = options.length > 1 ? make("label", { class: "field" }, make("span", {}, label), select) : null;
  return { field, select, get value() { return select.value; }, set value(value) { select.value = value; } };
}
