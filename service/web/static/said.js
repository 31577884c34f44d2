// The text beside the sheet: what is written, the character under the pen, what is to come.

import { make } from "./desk.js";

export class Said {
  constructor(element, text) {
    this.element = element;
    this.characters = [...text];
    [this.before, this.now, this.after] = [make("span", { className: "written" }), make("mark"), make("span")];
    element.replaceChildren(this.before, this.now, this.after);
    element.hidden = !text;
    this.show(-1);
  }

  /** The pen writes the character of this index; -1 is before all, the number of characters after them. */
  show(index) {
    if (index === this.index) return;
    this.index = index;
    this.before.textContent = this.characters.slice(0, Math.max(index, 0)).join("");
    this.now.textContent = this.characters[index] ?? "";
    this.after.textContent = this.characters.slice(index + 1).join("");
    const { offsetTop } = this.now;
    const { scrollTop, clientHeight } = this.element;
    if (offsetTop < scrollTop || offsetTop > scrollTop + clientHeight - 30) this.element.scrollTop = offsetTop - clientHeight / 2;
  }

  finish() {
    this.show(this.characters.length);
  }
}
