// The handwriting desk: a text, or free writing, by pen.

import { post } from "./api.js";
import { asCurl, asHttpx } from "./copy.js";
import { $, Desk } from "./desk.js";
import { read, readChanged } from "./form.js";
import { Layers } from "./layers.js";
import { Pad } from "./pad.js";
import { Player } from "./player.js";
import { Said } from "./said.js";
import { Sheet } from "./sheet.js";
import { follow, freshSeed } from "./stream.js";
import { offerStyles } from "./styles.js";

const PATH = "/v1/handwriting";
const PX_PER_MM = 4.4;
const MARGIN_MM = 4;
const FILES = { strokes: "json", svg: "svg", "svg-animated": "animated.svg", png: "png", pdf: "pdf", inkml: "inkml", gcode: "gcode" };

/** What each kind of writer takes; a text is written in a style, free writing goes on until it has enough points. */
const FIELDS = { text: ["text", "bias", "seed"], free: ["max_points", "bias", "seed"] };
const CHANGED = { text: ["page", "align", "x_height_mm", "line_spacing", "wobble", "pen_mm", "outline"], free: ["page", "x_height_mm", "line_spacing", "pen_mm", "outline"] };

export class InkDesk extends Desk {
  constructor() {
    super("ink", "Writing …", (signal) => this.stream(signal));
    this.sheet = new Sheet($("ink-sheet"));
    this.pad = new Pad();
    this.written = null;
    const segments = $("ink-segments");
    segments.addEventListener("change", () => { $("ink-sheet").setAttribute("class", segments.value); });
    for (const button of this.element.querySelectorAll("[data-format]")) {
      button.addEventListener("click", () => {
        if (!this.running) this.run((signal) => this.save(button.dataset.format, signal));
      });
    }
    const picture = () => ({ ...this.request(), format: "svg" });
    this.offerCopies({
      curl: () => `${asCurl(PATH, picture())} -o copyist.svg`,
      python: () => asHttpx(PATH, picture(), "copyist.svg"),
    });
  }

  /** Writers are all that make ink; those that styles name write texts, in the styles' order, the others freely. */
  open(models, styles) {
    this.styles = styles;
    const names = [...new Set(styles.map(({ model }) => model))];
    const place = ({ id }) => (names.includes(id) ? names.indexOf(id) : names.length);
    const writers = models.filter(({ kind }) => kind === "ink").sort((one, other) => place(one) - place(other));
    this.offer(writers, "Nothing that writes by hand is served here.", (writer) => this.showWriter(writer));
  }

  /** Show the fields that this writer takes. */
  showWriter(writer) {
    const styles = this.styles.filter(({ model }) => model === writer.id);
    this.kind = styles.length ? "text" : "free";
    this.isNetwork = writer.layers.length > 0;
    for (const part of this.element.querySelectorAll("[data-for]")) {
      const isShown = part.dataset.for.split(" ").every((each) => each === this.kind || (each === "network" && this.isNetwork));
      part.hidden = !isShown;
      for (const field of part.querySelectorAll("input, textarea")) field.disabled = !isShown;
    }
    offerStyles($("ink-styles"), styles);
  }

  request() {
    const { form, kind } = this;
    const style = kind === "text" ? { style: form.elements.style.value } : {};
    const changed = readChanged(form, CHANGED[kind]);
    const width = changed.page ? {} : { line_width_mm: this.lineWidthMm() };
    const network = this.isNetwork ? this.networkRequest() : {};
    return { ...read(form, ["model", ...FIELDS[kind]]), ...style, ...changed, ...width, ...network };
  }

  /** What only networks take: ink to read first, with its words beside a text, and how often to try a line of that. */
  networkRequest() {
    const { form, kind, pad: { prime } } = this;
    const isText = kind === "text";
    return {
      ...(isText && read(form, ["candidates"])), // said in any case: unsaid it differs between a stream and a file
      ...(prime && { prime, ...(isText && read(form, ["prime_text"])) }),
    };
  }

  /** Lines as wide as the screen has room for. */
  lineWidthMm() {
    return Math.max(20, Math.round($("ink-paper").clientWidth / PX_PER_MM - 2 * MARGIN_MM));
  }

  /** A sheet for what will be written, before it is known how long it gets. */
  blank({ line_width_mm: width, x_height_mm: xHeight = 2.5, pen_mm: penMm = 0.4 }) {
    const { mm } = this.form.elements.page.selectedOptions[0].dataset;
    const [right, bottom] = mm ? mm.split(" ").map(Number) : [width + MARGIN_MM, 10 * xHeight];
    const [left, top] = mm ? [0, 0] : [-MARGIN_MM, -2.2 * xHeight - MARGIN_MM];
    this.sheet.lay({ left, top, right, bottom }, penMm);
    $("ink-paper").scrollTop = 0;
  }

  async stream(signal) {
    const body = { seed: freshSeed(), ...this.request() };
    const isText = this.kind === "text";
    $("ink-hint").hidden = true;
    this.written = body;
    this.blank(body);
    const said = new Said($("ink-said"), isText ? body.text : "");
    const player = new Player((points) => this.draw(points, said), Number(this.form.elements.pace.value), signal);
    const layers = new Layers($("ink-layers"));
    const files = this.element.querySelector(".files");
    files.hidden = true;
    let end = null;
    try {
      for await (const event of follow(PATH, body, signal, ({ x }) => x.length, (words) => this.say(words))) {
        player.add(pointsOf(event));
        layers.add(event.op);
        this.say(this.verb);
        end = event;
      }
      await player.finish();
    } finally {
      files.hidden = !this.sheet.last; // also what was stopped can be saved, as a whole
    }
    said.finish();
    const { points, strokes } = end.usage;
    $("ink-sheet").setAttribute("aria-label", `Handwriting of ${strokes} strokes${isText ? `: ${body.text}` : ""}`);
    this.say(`${points.toLocaleString("en")} points in ${strokes.toLocaleString("en")} strokes; seed ${body.seed}.${replaced(end, body)}`);
  }

  /** Draw points, keep the pen in view of whoever has it in view, and point at its character. */
  draw(points, said) {
    const paper = $("ink-paper");
    const place = () => this.sheet.pen.getBoundingClientRect().bottom - paper.getBoundingClientRect().bottom;
    const wasInView = place() <= 0 || this.sheet.last === null;
    for (const point of points) this.sheet.add(point);
    if (wasInView && place() > 0) paper.scrollTop += place() + paper.clientHeight / 3;
    said.show(points.at(-1).character);
  }

  /** Ask for the same ink as a file. */
  async save(format, signal) {
    this.say("Making the file …");
    const file = await (await post(PATH, { ...this.written, format }, signal)).blob();
    const url = URL.createObjectURL(file);
    Object.assign(document.createElement("a"), { href: url, download: `copyist.${FILES[format]}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    this.say(`Saved copyist.${FILES[format]}, ${Math.ceil(file.size / 1000).toLocaleString("en")} kB.`);
  }
}

/** The columns of an event as points. */
function pointsOf({ x, y, t, pen, character, segment }) {
  return x.map((_, at) => ({
    x: x[at], y: y[at], t: t[at], lifts: pen[at] === 1, character: character?.[at], segments: segment.map((layer) => layer[at]),
  }));
}

/** Words for characters that were drawn as others. */
function replaced({ substituted }, { text }) {
  if (!substituted?.length) return "";
  const characters = [...text];
  const words = substituted.slice(0, 5).map(({ index, drawn }) => `${characters[index]} as ${drawn || "nothing"}`);
  return ` Written as others: ${words.join(", ")}${substituted.length > 5 ? " and more" : ""}.`;
}
