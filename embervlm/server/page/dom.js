// Making elements, and what a browser keeps for them. Children are elements or text, and text stays
// text: nothing here reads HTML.
//
//   make("p", { class: "hint" }, "Sent: ", make("strong", {}, robot))

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Return a new element; `on` in the attributes maps events to handlers, false and null are left out. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return a new element of a drawing. */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== false));
  return element;
}

/** Show a sentence in an element that is hidden while it has none. */
export function tell(element, sentence) {
  element.textContent = sentence;
  element.hidden = !sentence;
}

/** Return a bar for a share from 0 to 1; its name is for people who do not see it. */
export function bar(share, name) {
  const percent = Math.round(100 * share);
  const inner = make("span", { class: "bar-fill" });
  inner.style.width = `${100 * share}%`;
  const meter = { role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100 };
  return make(
    "span",
    { class: "bar", ...meter, "aria-valuenow": percent, "aria-valuetext": `${percent} %` },
    inner,
  );
}

/** Return a function that runs the given one when it has not been called for a while. */
export function whenQuiet(waitMs, work) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), waitMs);
  };
}

// A browser may keep nothing for pages, and then throws at the first touch of its stores.
const held = new Map();

/** Keep a text under a name, until the tab is closed if `store` is "sessionStorage"; where the browser keeps
 * nothing, as long as the page is open. */
export function keep(name, value, store = "localStorage") {
  held.set(name, value);
  try {
    window[store].setItem(name, value);
  } catch {
    // `held` has it.
  }
}

/** Return what is kept under a name, or null. */
export function kept(name, store = "localStorage") {
  if (held.has(name)) return held.get(name);
  try {
    return window[store].getItem(name);
  } catch {
    return null;
  }
}
