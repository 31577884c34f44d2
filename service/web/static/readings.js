// What the network finds in a text: at once, or piece by piece where the text is long.

import { post } from "./api.js";

const PIECE = 4000; // characters

/** Yield each segment of a tree, those that lie within others after them. */
function* segments(node) {
  yield node;
  for (const child of node.segments ?? []) yield* segments(child);
}

/** For each character the highest layer that ends a segment with it, 0 where none does. */
function levels(tree, count) {
  const found = new Array(count).fill(0);
  for (const { layer, end, complete } of segments(tree)) {
    if (complete && end > 0) found[end - 1] = Math.max(found[end - 1], layer);
  }
  return found;
}

/** Yield { characters, levels, op, spared } of a text; the state between two pieces is carried, so cuts leave no trace. */
export async function* readings({ model, text }, signal) {
  const characters = [...text];
  if (characters.length <= PIECE) {
    const { tree, op, usage } = await (await post("/v1/segment", { model, text }, signal)).json();
    yield { characters, levels: levels(tree, characters.length), op, spared: usage.work_spared };
    return;
  }
  let state;
  for (let start = 0; start < characters.length; start += PIECE) {
    const piece = characters.slice(start, start + PIECE);
    const body = { model, prompt: piece.join(""), echo: true, max_tokens: 0, boundaries: true, return_state: true, state };
    const { choices: [choice], usage } = await (await post("/v1/completions", body, signal)).json();
    state = choice.state;
    const highest = piece.map((_, at) => choice.z.findLastIndex((layer) => layer[at]) + 1);
    yield { characters: piece, levels: highest, op: choice.op, spared: usage.work_spared };
  }
}
