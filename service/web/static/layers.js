// How often each layer was computed, as bars.

import { make } from "./desk.js";

export class Layers {
  constructor(element) {
    this.element = element;
    this.steps = 0;
    this.computed = [];
    element.replaceChildren();
  }

  /** Count the operations of an event: for each layer a string with a letter per step. */
  add(operations) {
    if (!operations.length) return;
    this.steps += operations[0].length;
    operations.forEach((letters, layer) => {
      const done = [...letters].filter((letter) => letter !== "C").length;
      this.computed[layer] = (this.computed[layer] ?? 0) + done;
    });
    if (this.element.childElementCount !== operations.length) this.build(operations.length);
    this.computed.forEach((count, layer) => {
      const share = this.steps ? count / this.steps : 0;
      const [, meter, words] = this.element.children[layer].children;
      meter.value = share;
      words.textContent = `${count.toLocaleString("en")} · ${(100 * share).toFixed(0)} %`;
    });
  }

  build(count) {
    this.element.replaceChildren(...Array.from({ length: count }, (_, layer) => {
      const id = `${this.element.id}-${layer}`;
      return make("div", { className: "layer" },
        make("label", { textContent: `Layer ${layer + 1} computed`, htmlFor: id }),
        make("meter", { min: 0, max: 1, id }),
        make("span"));
    }));
  }
}
