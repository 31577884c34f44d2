// The reading desk: a text of one's own, cut where the network finds that segments end.

import { post } from "./api.js";
import { asCurl, asReader } from "./copy.js";
import { $, Desk, make } from "./desk.js";
import { read } from "./form.js";
import { chooseMarks, Marks } from "./marks.js";

/** Yield the segments of a tree, those that lie within others after them. */
function* segments(node) {
  yield node;
  for (const child of node.segments ?? []) yield* segments(child);
}

/** For each character how many layers end a segment with it. */
export function levels(tree, count) {
  const found = new Array(count).fill(0);
  for (const { layer, end, complete } of segments(tree)) {
    if (complete && end > 0) found[end - 1] = Math.max(found[end - 1], layer);
  }
  return found;
}

/** A row for each layer: how many segments, how long, and how often the layer was computed. */
function rows({ tree, usage }, count) {
  const found = [...segments(tree)];
  return usage.layer_updates.map((updates, index) => {
    const number = found.filter(({ layer }) => layer === index + 1).length;
    const cells = [number.toLocaleString("en"), (count / number).toFixed(1), `${((100 * updates) / usage.steps).toFixed(0)} %`];
    return make("tr", {}, make("th", { scope: "row", textContent: index + 1 }), ...cells.map((words) => make("td", { textContent: words })));
  });
}

export class ReadingDesk extends Desk {
  constructor() {
    super("reading", "Reading …", (signal) => this.segment(signal));
    chooseMarks($("reading-boundaries"), $("reading-paper"));
    const count = () => {
      const length = [...this.form.elements.text.value].length;
      $("reading-count").textContent = `${length.toLocaleString("en")} characters`;
    };
    this.form.elements.text.addEventListener("input", count);
    count();
    this.offerCopies({
      curl: () => asCurl("/v1/segment", this.request()),
      python: () => asReader(this.request()),
    });
  }

  open(models) {
    this.offer(models.filter(({ kind }) => kind === "text"), "No bundle that reads text is served here.");
  }

  request() {
    return read(this.form, ["model", "text"]);
  }

  async segment(signal) {
    const body = this.request();
    const asked = performance.now();
    const reply = await (await post("/v1/segment", body, signal)).json();
    const seconds = (performance.now() - asked) / 1000;
    const characters = [...body.text];
    new Marks($("reading-paper")).add(characters, levels(reply.tree, characters.length));
    $("reading-table").hidden = false;
    $("reading-table").tBodies[0].replaceChildren(...rows(reply, characters.length));
    const spared = `${(100 * reply.usage.work_spared).toFixed(0)} % of a dense network's work was spared`;
    this.say(`${characters.length.toLocaleString("en")} characters read in ${seconds.toFixed(1)} s; ${spared}.`);
  }
}
