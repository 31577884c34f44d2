// What is served, and under which licence.

import { make } from "./desk.js";

/** A fact for people: figures with at most four digits, the first few digits of a hash. */
function shorten(fact) {
  if (typeof fact === "number") return Number(fact.toPrecision(4)).toLocaleString("en");
  return String(fact).replace(/\b([0-9a-f]{12})[0-9a-f]{52}\b/g, "$1…");
}

/** Fill a definition list with facts; those that are empty are left out. */
function facts(pairs) {
  const list = make("dl");
  for (const [term, value] of pairs) {
    const shown = (Array.isArray(value) ? value : [value]).map(shorten);
    if (shown.length && value) list.append(make("dt", { textContent: term }), make("dd", { textContent: shown.join(", ") }));
  }
  return list;
}

export function card({ id, description, data, layers, parameters, metrics }) {
  return make("article", { className: "card" },
    make("h3", { textContent: id }),
    make("p", { textContent: description }),
    facts([["use", data.use], ["licence", data.licence], ["data", data.name], ["layers", layers], ["weights", parameters]]),
    ...(Object.keys(metrics).length ? [figures(metrics)] : []));
}

/** The figures, for those who want them. */
const figures = (metrics) =>
  make("details", {}, make("summary", { textContent: "Figures of these files" }),
    facts(Object.entries(metrics).map(([name, value]) => [name.replaceAll("_", " "), value])));
