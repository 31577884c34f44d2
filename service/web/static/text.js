// The text desk: a prompt goes on, character by character.

import { asCurl, asOpenAI } from "./copy.js";
import { $, Desk } from "./desk.js";
import { read } from "./form.js";
import { Layers } from "./layers.js";
import { chooseMarks, Marks } from "./marks.js";
import { follow, freshSeed } from "./stream.js";

export class TextDesk extends Desk {
  constructor() {
    super("text", "Writing …", (signal) => this.stream(signal));
    chooseMarks($("text-boundaries"), $("text-paper"));
    this.offerCopies({
      curl: () => asCurl("/v1/completions", this.request()),
      python: () => asOpenAI(this.request()),
    });
  }

  open(models) {
    this.offer(models.filter(({ kind }) => kind === "text"), "No bundle that writes text is served here.");
  }

  request() {
    return { ...read(this.form, ["model", "prompt", "temperature", "max_tokens", "seed"]), stream: true, boundaries: true };
  }

  async stream(signal) {
    const body = { seed: freshSeed(), ...this.request() };
    const marks = new Marks($("text-paper"));
    marks.lead(body.prompt);
    const layers = new Layers($("text-layers"));
    const asked = performance.now();
    const size = ({ choices: [{ text }] }) => [...text].length;
    let firstMs = null;
    for await (const { choices: [{ text, z, op }] } of follow("/v1/completions", body, signal, size, (words) => this.say(words))) {
      firstMs ??= performance.now() - asked;
      const characters = [...text];
      marks.addFollowed(characters, characters.map((_, at) => z.reduce((sum, layer) => sum + layer[at], 0)));
      layers.add(op);
      this.say(this.verb);
    }
    const seconds = (performance.now() - asked) / 1000;
    this.say(`${marks.count} characters, the first after ${firstMs.toFixed(0)} ms, ${(marks.count / seconds).toFixed(0)} a second; seed ${body.seed}.`);
  }
}
