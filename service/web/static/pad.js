// A few words of one's own: drawn with a finger, a pen or a mouse, or opened from a file.

import { $ } from "./desk.js";

const SVG = "http://www.w3.org/2000/svg";
const STEP_PX = 1.5; // a hand that rests adds nothing

export class Pad {
  constructor() {
    this.svg = $("pad");
    this.words = $("pad-status");
    this.clear();
    this.svg.addEventListener("pointerdown", (event) => this.begin(event));
    this.svg.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.svg.addEventListener(end, () => { this.pointer = null; });
    $("pad-undo").addEventListener("click", () => this.undo());
    $("pad-clear").addEventListener("click", () => this.clear());
    $("pad-file").addEventListener("change", (event) => this.open(event.target));
  }

  /** What was given, as the server takes it: columns, an InkML document, or nothing. */
  get prime() {
    if (this.file) return this.file;
    if (!this.strokes.length) return null;
    const points = this.strokes.flat();
    const pen = this.strokes.flatMap((stroke) => stroke.map((_, at) => Number(at === stroke.length - 1)));
    return { x: points.map(([x]) => x), y: points.map(([, y]) => y), pen };
  }

  clear() {
    this.strokes = [];
    this.file = null;
    this.pointer = null;
    this.svg.replaceChildren();
    $("pad-file").value = "";
    this.tell();
  }

  undo() {
    if (this.file) return this.clear();
    this.strokes.pop();
    this.svg.lastElementChild?.remove();
    this.tell();
  }

  begin(event) {
    if (this.pointer !== null || event.button > 0) return;
    if (this.file) this.clear();
    this.pointer = event.pointerId;
    this.svg.setPointerCapture(event.pointerId);
    this.strokes.push([]);
    this.svg.append(document.createElementNS(SVG, "polyline"));
    this.mark(event);
    this.tell();
    event.preventDefault();
  }

  move(event) {
    if (event.pointerId !== this.pointer) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const each of passed.length ? passed : [event]) this.mark(each);
  }

  mark({ clientX, clientY }) {
    const { left, top } = this.svg.getBoundingClientRect();
    const point = [clientX - left, clientY - top].map((value) => Math.round(10 * value) / 10);
    const stroke = this.strokes.at(-1);
    const last = stroke.at(-1);
    if (last && Math.hypot(point[0] - last[0], point[1] - last[1]) < STEP_PX) return;
    stroke.push(point);
    const [first] = stroke;
    this.svg.lastElementChild.setAttribute("points", [first, ...stroke].join(" "));
  }

  /** Read InkML, or JSON as the server's own replies have it. */
  async open({ files: [file] }) {
    if (!file) return;
    const text = await file.text();
    this.clear();
    try {
      if (text.trimStart().startsWith("{")) {
        const { x, y, pen } = JSON.parse(text);
        if (![x, y, pen].every(Array.isArray)) throw new SyntaxError();
        this.file = { x, y, pen };
      } else {
        this.file = text;
      }
      this.tell(`${file.name} will be read first.`);
    } catch {
      this.tell(`${file.name} is neither InkML nor strokes in JSON.`);
    }
  }

  tell(words) {
    const count = this.strokes.length;
    this.words.textContent = words ?? (count ? `${count} ${count === 1 ? "stroke" : "strokes"} will be read first.` : "");
    this.svg.setAttribute("aria-label", `Your own writing: ${count ? `${count} strokes` : "nothing is drawn"}`);
  }
}
