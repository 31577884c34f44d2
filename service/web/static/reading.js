// The reading desk: a text of one's own, cut where the network finds that segments end.

import { asCurl, asReader } from "./copy.js";
import { $, Desk, make } from "./desk.js";
import { read } from "./form.js";
import { chooseMarks, Marks } from "./marks.js";
import { readings } from "./readings.js";

/** Counts, for each layer, its segments and how often it was computed. */
class Counts {
  constructor() {
    this.characters = this.steps = this.spared = 0;
    this.ends = [];
    this.computed = [];
  }

  add({ characters, levels, op, spared }) {
    this.characters += characters.length;
    this.steps += op[0].length;
    this.spared += spared * op[0].length;
    op.forEach((letters, layer) => {
      this.computed[layer] = (this.computed[layer] ?? 0) + letters.replaceAll("C", "").length;
      this.ends[layer] = (this.ends[layer] ?? 0) + levels.filter((level) => level > layer).length;
    });
    this.last = levels.at(-1);
  }

  /** What a text ends in is a segment of every layer that has not ended one there. */
  segments(layer) {
    return this.ends[layer] + (this.last > layer ? 0 : 1);
  }

  rows() {
    return this.computed.map((computed, layer) => {
      const number = this.segments(layer);
      const cells = [number.toLocaleString("en"), (this.characters / number).toFixed(1), percent(computed / this.steps)];
      return make("tr", {}, make("th", { scope: "row", textContent: layer + 1 }), ...cells.map((words) => make("td", { textContent: words })));
    });
  }
}

const percent = (share) => `${(100 * share).toFixed(0)} %`;

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
    const total = [...body.text].length.toLocaleString("en");
    const asked = performance.now();
    const marks = new Marks($("reading-paper"));
    const counts = new Counts();
    for await (const reading of readings(body, signal)) {
      marks.add(reading.characters, reading.levels);
      counts.add(reading);
      $("reading-table").hidden = false;
      $("reading-table").tBodies[0].replaceChildren(...counts.rows());
      this.say(`${counts.characters.toLocaleString("en")} of ${total} characters read …`);
    }
    const seconds = (performance.now() - asked) / 1000;
    this.say(`${total} characters read in ${seconds.toFixed(1)} s; ${percent(counts.spared / counts.steps)} of a dense network's work was spared.`);
  }
}
