// A stream of events that outlives its connection: the same request, with the same seed and the position that was
// reached, goes on at the exact character or point. The server keeps nothing for that.

import { Broken, post, problem } from "./api.js";

const MAX_TRIES = 8; // in a row, without anything new: half a minute
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 8000;
const SILENCE_MS = 60_000; // the server tells every quarter of a minute that it is still there

/** A seed below 2^53, which JavaScript's numbers hold. */
export function freshSeed() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high >>> 11) * 2 ** 32 + low;
}

/**
 * POST a request and yield the events of its reply; where the connection breaks it is taken up again.
 *
 * `size(event)` is how far an event leads on; `onBreak(words)` is told of each new try.
 */
export async function* follow(path, body, signal, size, onBreak) {
  const seeded = { ...body, seed: body.seed ?? freshSeed(), stream: true };
  let position = 0;
  for (let tries = 1; ; tries += 1) {
    try {
      const rest = position ? { ...seeded, resume_at: position } : seeded;
      for await (const event of events(await post(path, rest, signal))) {
        position += size(event);
        tries = 0;
        yield event;
      }
      return;
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
      if (tries >= MAX_TRIES) throw new Error(gaveUp(position, error));
      onBreak(trying(tries + 1, position, error));
      await pause(Math.max(error.waitMs, Math.min(FIRST_WAIT_MS * 2 ** tries, LONGEST_WAIT_MS)), signal);
    }
  }
}

const trying = (tries, position, { message }) =>
  `${position ? "The connection broke; going on where it did" : `${message} Asking again`} … (try ${tries} of ${MAX_TRIES})`;

const gaveUp = (position, { message }) =>
  position
    ? "The connection broke and could not be taken up again. What is written stays; Write begins anew."
    : `${message} Try again in a while.`;

/** Yield the JSON of each server-sent event of a response, until [DONE]; without that it has broken. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await read(reader);
      if (done) throw new Broken("The connection broke.");
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      for (const frame of frames) {
        const data = frame.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data === "[DONE]") return;
        const event = data && JSON.parse(data);
        if (event?.error) throw problem(event.error);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // one that nobody reads on holds its row no longer
  }
}

/** Read on; a connection that fails, or has been silent for too long, is broken. */
async function read(reader) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Broken("The connection fell silent.")), SILENCE_MS);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Broken("The connection broke.");
  } finally {
    clearTimeout(timer);
  }
}

/** Wait, but no longer than until the device is online again; Stop ends it. */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const over = (end) => () => {
      clearTimeout(timer);
      removeEventListener("online", goOn);
      signal.removeEventListener("abort", stop);
      end(signal.reason);
    };
    const [goOn, stop] = [over(resolve), over(reject)];
    const timer = setTimeout(goOn, ms);
    addEventListener("online", goOn);
    signal.addEventListener("abort", stop);
  });
}
