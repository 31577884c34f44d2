// The page: two forms, two streams read with fetch, and what is served.

import { asCurl, asHttpx, asOpenAI } from "./copy.js";
import { Sheet } from "./ink.js";

const $ = (id) => document.getElementById(id);

/** Yield the JSON of each server-sent event of a response, until [DONE]; an error event is thrown. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data === "[DONE]") return;
      const event = data && JSON.parse(data);
      if (event?.error) throw new Error(event.error.message);
      if (event) yield event;
    }
  }
}

/** POST a request for a stream; a refusal is thrown with the server's words. */
async function post(path, body, signal) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({ error: { message: `The server answered ${response.status}.` } }));
  throw new Error(error.message);
}

/** Read the named fields of a form; empty numbers are left out. */
function read(form, names) {
  const body = {};
  for (const name of names) {
    const field = form.elements[name];
    if (field.value === "" && field.type === "number") continue;
    body[name] = field.type === "number" || field.type === "range" ? Number(field.value) : field.value;
  }
  return body;
}

/** The request that the text form asks for. */
function completion(form) {
  const body = read(form, ["model", "prompt", "temperature", "max_tokens", "seed"]);
  return { ...body, stream: true, boundaries: true };
}

/** The request that the ink form asks for. */
const drawing = (form) => read(form, ["model", "bias", "max_points", "seed"]);

/** Run one form: only one request at a time, Stop ends it, the status line says how it went. */
function desk(name, write) {
  const form = $(`${name}-form`);
  const status = $(`${name}-status`);
  const [go, stop] = [form.querySelector(".go"), form.querySelector(".stop")];
  let running = null;

  const say = (words, isBad = false) => {
    status.textContent = words;
    status.classList.toggle("bad", isBad);
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return;
    running = new AbortController();
    go.disabled = true;
    stop.disabled = false;
    $(name).classList.add("writing");
    say("Writing …");
    try {
      await write(form, running.signal, say);
    } catch (error) {
      if (error.name === "AbortError") say("Stopped.");
      else say(error.message, true);
    } finally {
      const hadFocus = document.activeElement === stop;
      running = null;
      go.disabled = false;
      stop.disabled = true;
      if (hadFocus) go.focus();
      $(name).classList.remove("writing");
    }
  });
  stop.addEventListener("click", () => running?.abort());
  for (const range of form.querySelectorAll('input[type="range"]')) {
    const shown = form.elements[`${range.name}_shown`];
    range.addEventListener("input", () => { shown.value = Number(range.value).toFixed(range.step < 0.1 ? 2 : 1); });
    shown.value = Number(range.value).toFixed(range.step < 0.1 ? 2 : 1);
  }
  return form;
}

/** Counts, over all steps seen, how often each layer was computed, and shows it as bars. */
class Layers {
  constructor(element) {
    this.element = element;
    this.steps = 0;
    this.computed = [];
    this.element.replaceChildren();
  }

  add(operations) {
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
      words.textContent = `${(100 * share).toFixed(0)} %`;
    });
  }

  build(count) {
    this.element.replaceChildren(...Array.from({ length: count }, (_, layer) => {
      const row = document.createElement("div");
      row.className = "layer";
      const label = Object.assign(document.createElement("label"), { textContent: `Layer ${layer + 1} computed`, htmlFor: `${this.element.id}-${layer}` });
      const meter = Object.assign(document.createElement("meter"), { min: 0, max: 1, id: `${this.element.id}-${layer}` });
      row.append(label, meter, document.createElement("span"));
      return row;
    }));
  }
}

/** Appends characters to an element; neighbours of one boundary level share a span. */
class Writer {
  constructor(element, prompt) {
    this.element = element;
    this.count = 0;
    const span = Object.assign(document.createElement("span"), { className: "prompt", textContent: prompt });
    element.replaceChildren(span);
    this.level = null;
  }

  add(text, z) {
    const characters = [...text];
    const isAtEnd = this.element.scrollTop + this.element.clientHeight >= this.element.scrollHeight - 40;
    characters.forEach((character, index) => {
      const level = z.reduce((sum, layer) => sum + layer[index], 0);
      if (level !== this.level) {
        this.span = Object.assign(document.createElement("span"), { className: `b${Math.min(level, 2)}` });
        this.element.append(this.span);
        this.level = level;
      }
      this.span.append(character);
    });
    this.count += characters.length;
    if (isAtEnd) this.element.scrollTop = this.element.scrollHeight;
  }
}

async function writeText(form, signal, say) {
  const body = completion(form);
  const asked = performance.now();
  const response = await post("/v1/completions", body, signal);
  const writer = new Writer($("text-paper"), body.prompt);
  const layers = new Layers($("text-layers"));
  let firstMs = null;
  for await (const { choices: [choice] } of events(response)) {
    firstMs ??= performance.now() - asked;
    writer.add(choice.text, choice.z);
    layers.add(choice.op);
  }
  const seconds = (performance.now() - asked) / 1000;
  say(`${writer.count} characters, the first after ${firstMs.toFixed(0)} ms, ${(writer.count / seconds).toFixed(0)} a second, seed ${response.headers.get("x-seed")}.`);
}

const sheet = new Sheet($("ink-canvas"));
let savedUrl = null;

async function writeInk(form, signal, say) {
  const body = drawing(form);
  const link = $("ink-svg");
  link.hidden = true;
  $("ink-hint").hidden = true;
  sheet.isPaced = form.elements.pace.value === "hand";
  const asked = performance.now();
  const response = await post("/v1/handwriting", { ...body, stream: true }, signal);
  const seed = response.headers.get("x-seed");
  sheet.clear();
  const drawn = new Promise((resolve) => { sheet.onIdle = resolve; });
  const layers = new Layers($("ink-layers"));
  let count = 0;
  try {
    for await (const event of events(response)) {
      sheet.add(event);
      layers.add(event.op);
      count += event.x.length;
    }
  } finally {
    sheet.complete();
  }
  const tookMs = performance.now() - asked;
  const stopped = new Promise((_, reject) => signal.addEventListener("abort", () => {
    sheet.points.length = sheet.drawn;
    reject(new DOMException("stopped", "AbortError"));
  }));
  await Promise.race([drawn, stopped]);
  $("ink-canvas").setAttribute("aria-label", `Handwriting of ${count} points, seed ${seed}`);
  say(`${count} points in ${tookMs.toFixed(0)} ms, seed ${seed}.`);
  if (!Number.isSafeInteger(Number(seed))) return;
  const picture = await post("/v1/handwriting", { ...body, seed: Number(seed), format: "svg" }, signal);
  URL.revokeObjectURL(savedUrl);
  savedUrl = URL.createObjectURL(await picture.blob());
  link.href = savedUrl;
  link.hidden = false;
}

/** A fact for people: figures with at most four digits, the first few digits of a hash. */
function shorten(fact) {
  if (typeof fact === "number") return Number(fact.toPrecision(4)).toLocaleString("en");
  return String(fact).replace(/\b([0-9a-f]{12})[0-9a-f]{52}\b/g, "$1…");
}

/** Fill a definition list with facts. */
function facts(pairs) {
  const list = document.createElement("dl");
  for (const [term, value] of pairs) {
    const shown = (Array.isArray(value) ? value : [value]).map(shorten);
    list.append(
      Object.assign(document.createElement("dt"), { textContent: term }),
      Object.assign(document.createElement("dd"), { textContent: shown.join(", ") }),
    );
  }
  return list;
}

function card(model) {
  const element = Object.assign(document.createElement("article"), { className: "card" });
  const pairs = [
    ["data", model.data.name],
    ["licence", model.data.licence],
    ["use", model.data.use],
    ["layers", model.layers],
    ["weights", model.parameters],
    ...Object.entries(model.metrics).map(([name, value]) => [name.replaceAll("_", " "), value]),
  ];
  element.append(
    Object.assign(document.createElement("h3"), { textContent: model.id }),
    Object.assign(document.createElement("p"), { textContent: model.description }),
    facts(pairs),
  );
  return element;
}

async function showModels() {
  const place = $("models");
  try {
    const { data } = await (await fetch("/v1/models")).json();
    place.replaceChildren(...data.map(card));
    for (const kind of ["text", "ink"]) {
      const names = data.filter((model) => model.kind === kind).map((model) => model.id);
      const form = $(`${kind}-form`);
      form.elements.model.replaceChildren(...names.map((name) => new Option(name)));
      if (!names.length) {
        form.querySelector(".go").disabled = true;
        $(`${kind}-status`).textContent = "No bundle of this kind is served.";
      }
    }
  } catch {
    place.firstElementChild.textContent = "The server does not answer.";
  }
}

/** Let the buttons of a desk copy its request, in words that the form stands for now. */
function take(name, words) {
  const status = $(`${name}-status`);
  for (const button of $(name).querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(words[button.dataset.copy]($(`${name}-form`)));
        status.textContent = `Copied: paste it into ${button.dataset.copy === "curl" ? "a terminal" : "a Python file"}.`;
      } catch {
        status.textContent = "The browser does not let this page copy; it may over https or on localhost.";
      }
    });
  }
}

desk("text", writeText);
desk("ink", writeInk);
take("text", {
  curl: (form) => asCurl("/v1/completions", completion(form)),
  python: (form) => asOpenAI(completion(form)),
});
take("ink", {
  curl: (form) => `${asCurl("/v1/handwriting", { ...drawing(form), format: "svg" })} -o copyist.svg`,
  python: (form) => asHttpx("/v1/handwriting", { ...drawing(form), format: "svg" }, "copyist.svg"),
});
const showBoundaries = () => { $("text-paper").className = `paper ${$("text-boundaries").value}`; };
$("text-boundaries").addEventListener("change", showBoundaries);
showBoundaries();
$("ink-boundaries").addEventListener("change", (event) => {
  sheet.showBoundaries = event.target.checked;
  sheet.redraw();
});
$("text-form").elements.prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("text-form").requestSubmit();
});
showModels();
