/** Making elements, and how names, times and pictures are shown. Text is only ever set as text. */

export const byId = (id) => document.getElementById(id);

/** h("li", {class: "x", onclick: f, "aria-label": "…"}, "text", child, …); empty children are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export function button(label, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, label);
}

const ICONS = {
  reply: "M10 8L5 13l5 5M5 13h8c4 0 6 2 6 5",
  edit: "M5 19l1-4L16 5l3 3L9 18l-4 1z",
  delete: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
};
const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "path"));
  svg.firstChild.setAttribute("d", ICONS[name]);
  return svg;
}

const TONES = 8;
const tone = (id) => [...id].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 9973, 7) % TONES;
const initials = (name) =>
  name.split(/\s+/).filter(Boolean).slice(0, 2).map((word) => [...word][0].toUpperCase()).join("") || "?";

/** Dress an element as a picture of somebody or something. */
export function dressAvatar(element, id, name, kind = "") {
  element.className = `avatar tone-${tone(id)} ${kind}`;
  element.setAttribute("aria-hidden", "true");
  element.textContent = initials(name);
  return element;
}

export const avatar = (id, name, kind) => dressAvatar(h("div"), id, name, kind);

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "short" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const fullDate = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const DAY_MS = 86_400_000;

const midnight = (time) => new Date(time).setHours(0, 0, 0, 0);
const daysAgo = (time) => Math.round((midnight(Date.now()) - midnight(time)) / DAY_MS);

export const timeOfDay = (time) => clock.format(new Date(time));
export const dayKey = (time) => midnight(time);

/** As a list shows it: the time today, the weekday this week, else the date. */
export function when(time) {
  const days = daysAgo(time);
  return (days < 1 ? clock : days < 7 ? weekday : date).format(new Date(time));
}

export function dayName(time) {
  const days = daysAgo(time);
  return days < 1 ? "Today" : days === 1 ? "Yesterday" : fullDate.format(new Date(time));
}

/** Tell those who do not see the page. */
export function announce(text) {
  byId("announcer").textContent = text;
}
