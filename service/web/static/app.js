// The page: desks, of which one is shown at a time, and what is served.

import { get, useKey } from "./api.js";
import { $ } from "./desk.js";
import { InkDesk } from "./ink.js";
import { card } from "./models.js";
import { ReadingDesk } from "./reading.js";
import { TextDesk } from "./text.js";

const desks = [new TextDesk(), new ReadingDesk(), new InkDesk()];
const links = [...document.querySelectorAll("nav a")];

/** Show the desk that the address names, else the first. */
function route() {
  const chosen = links.find((link) => link.hash === location.hash) ?? links.find((link) => link.ariaCurrent) ?? links[0];
  for (const link of links) {
    const isChosen = link === chosen;
    link.ariaCurrent = isChosen ? "page" : null;
    $(link.hash.slice(1)).hidden = !isChosen;
  }
}

/** Ask what is served and open the desks on it. */
async function open() {
  const words = $("models-status");
  try {
    const [{ data: models }, { data: styles }] = await Promise.all([get("/v1/models"), get("/v1/handwriting/styles")]);
    $("models").replaceChildren(...models.map(card));
    for (const desk of desks) desk.open(models, styles);
    words.textContent = "";
  } catch (error) {
    words.textContent = error.message;
    for (const desk of desks) {
      desk.go.disabled = true;
      desk.say(error.message, true);
    }
  }
}

addEventListener("hashchange", route);
addEventListener("needskey", () => { $("key-form").hidden = false; });
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(event.target.elements.key.value);
  event.target.hidden = true;
  open();
});
route();
open();
