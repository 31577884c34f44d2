// Characters with the boundaries that end at them: each that ends a segment is a span, and so is each run between.

import { make } from "./desk.js";

export class Marks {
  constructor(element) {
    this.element = element;
    this.count = 0;
    this.level = null;
    element.replaceChildren();
    element.scrollTop = 0;
  }

  /** Set characters before all others that are not the network's. */
  lead(text) {
    this.element.append(make("span", { className: "prompt", textContent: text }));
  }

  /** Append characters; level 0 ends no segment, 1 ends one of layer 1, 2 one of layer 2 too. */
  add(characters, levels) {
    const isAtEnd = this.element.scrollTop + this.element.clientHeight >= this.element.scrollHeight - 40;
    let run = "";
    characters.forEach((character, index) => {
      const level = Math.min(levels[index], 2);
      if (level || level !== this.level) {
        this.span?.append(run);
        run = "";
        this.span = make("span", { className: `b${level}` });
        this.element.append(this.span);
        this.level = level;
      }
      run += character;
    });
    this.span?.append(run);
    this.count += characters.length;
    return isAtEnd;
  }

  /** Keep the last line in view of whoever has it in view. */
  addFollowed(characters, levels) {
    if (this.add(characters, levels)) this.element.scrollTop = this.element.scrollHeight;
  }
}

/** Let a select choose how an element shows its marks: its value is a class. */
export function chooseMarks(select, element) {
  const show = () => { element.className = `paper prose ${select.value}`; };
  select.addEventListener("change", show);
  show();
}
