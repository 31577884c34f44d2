// What all desks have: a form, a sheet of paper, a line that says how it went, and Stop.

import { showRanges } from "./form.js";

export const $ = (id) => document.getElementById(id);

/** Make an element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export class Desk {
  /** Take the elements named after a desk, `write(signal)` runs when its form is sent, one at a time. */
  constructor(name, verb, write) {
    this.element = $(name);
    this.form = $(`${name}-form`);
    this.status = $(`${name}-status`);
    this.verb = verb;
    this.write = write;
    this.running = null;
    [this.go, this.stop] = [this.form.querySelector(".go"), this.form.querySelector(".stop")];
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.running) this.run(this.write);
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    this.stop.addEventListener("click", () => this.running?.abort());
    showRanges(this.form);
  }

  say(words, isBad = false) {
    if (this.status.textContent !== words) this.status.textContent = words; // what is said twice is read out twice
    this.status.classList.toggle("bad", isBad);
  }

  /** Offer models to choose from and show whose work the chosen one is; `show` is told of it. */
  offer(models, none, show = () => {}) {
    const select = this.form.elements.model;
    select.replaceChildren(...models.map(({ id }) => new Option(id)));
    this.go.disabled = !models.length;
    this.say(models.length ? "" : none);
    if (!models.length) return;
    select.onchange = () => {
      const model = models.find(({ id }) => id === select.value);
      this.showTerms(model);
      show(model);
    };
    select.onchange();
  }

  showTerms({ id, data }) {
    const licence = make("a", { href: "#served", textContent: "Licence" });
    this.element.querySelector(".terms").replaceChildren(`${id}, made from ${data.name}. Use: ${data.use}. `, licence);
  }

  async run(task) {
    this.running = new AbortController();
    this.go.disabled = true;
    this.stop.disabled = false;
    this.element.classList.add("busy");
    this.say(this.verb);
    try {
      await task(this.running.signal);
    } catch (error) {
      if (error.name === "AbortError") this.say("Stopped.");
      else this.say(this.inWords(error), true);
    } finally {
      const hadFocus = document.activeElement === this.stop;
      this.running = null;
      this.go.disabled = false;
      this.stop.disabled = true;
      if (hadFocus) this.go.focus();
      this.element.classList.remove("busy");
    }
  }

  /** Words for an error, in which a field is called as it is on the desk. */
  inWords({ message, param }) {
    const label = param && (this.form.elements[param]?.labels?.[0] ?? this.form.querySelector(`[data-param="${CSS.escape(param)}"]`));
    if (!label || !message.startsWith(`${param}: `)) return message;
    return label.firstChild.textContent.trim() + message.slice(param.length);
  }

  /** Let the buttons of the desk copy its request; `words` has a function for each of them. */
  offerCopies(words) {
    for (const button of this.element.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", async () => {
        const kind = button.dataset.copy;
        try {
          await navigator.clipboard.writeText(words[kind]());
          this.say(`Copied: paste it into ${kind === "curl" ? "a terminal" : "a Python file"}.`);
        } catch {
          this.say("The browser does not let this page copy; it may over https or on localhost.");
        }
      });
    }
  }
}
