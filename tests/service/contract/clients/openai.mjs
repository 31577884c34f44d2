// What OpenAI's official client makes of a server, as JSON: node openai.mjs URL
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const body = { model: "small-text", prompt: "It ", max_tokens: 60, seed: 4 };

const refused = async (more) => {
  try {
    await client.completions.create({ ...body, ...more });
    return null;
  } catch (error) {
    const { status, param, code, type, requestID } = error;
    return { name: error.constructor.name, status, param, code, type, hasId: Boolean(requestID) };
  }
};

const whole = await client.completions.create({ ...body, n: 2, logprobs: 2, echo: true, boundaries: true });
const pieces = ["", ""];
const reasons = [null, null];
let usage = null;
const stream = await client.completions.create({
  ...body,
  n: 2,
  echo: true,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const event of stream) {
  for (const choice of event.choices) {
    pieces[choice.index] += choice.text;
    reasons[choice.index] = choice.finish_reason;
  }
  usage = event.usage ?? usage;
}

const left = await client.completions.create({ ...body, max_tokens: 4000, stream: true });
let first = null;
for await (const event of left) {
  first = event.choices[0].text;
  break; // leaving the loop aborts the request
}

const models = [];
for await (const model of client.models.list()) models.push(model.id);

const badRequest = await refused({ n: 17 });
const notFound = await refused({ model: "nobody" });
console.log(JSON.stringify({ whole, pieces, reasons, usage, first, models, badRequest, notFound }));
