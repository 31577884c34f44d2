// The hands of a writer, each with a line that it has written.

import { make } from "./desk.js";

const TRIM_MM = 3; // of the margin around a preview

/** The server's preview as a picture of the page itself, so that it takes the page's colours. */
function picture(svg) {
  const drawing = document.importNode(new DOMParser().parseFromString(svg, "image/svg+xml").documentElement, true);
  drawing.setAttribute("aria-hidden", "true");
  drawing.removeAttribute("role");
  const [left, top, width, height] = drawing.getAttribute("viewBox").split(" ").map(Number);
  drawing.setAttribute("viewBox", `${left + TRIM_MM} ${top + TRIM_MM} ${width - 2 * TRIM_MM} ${height - 2 * TRIM_MM}`);
  drawing.setAttribute("preserveAspectRatio", "xMinYMid");
  drawing.removeAttribute("width");
  drawing.removeAttribute("height");
  drawing.querySelector("title")?.remove();
  return drawing;
}

function card(style, isChosen) {
  const radio = make("input", { type: "radio", name: "style", value: style.id, title: style.description, defaultChecked: isChosen });
  return make("label", { className: "style" }, radio, picture(style.preview), make("span", { textContent: style.id }));
}

/** Offer the styles of a writer; the first is what it takes by itself. */
export function offerStyles(fieldset, styles) {
  fieldset.hidden = !styles.length;
  fieldset.querySelector("div").replaceChildren(...styles.map((style, index) => card(style, index === 0)));
}
