// A form's request as a command or a program: what a visitor takes home. A key is not copied: programs look it up.

import { keyName } from "./api.js";

/** Quote a word for a POSIX shell. */
const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;

/** Return a curl command that sends a body. */
export function asCurl(path, body) {
  const flags = body.stream ? "-sN" : "-s";
  const key = keyName() ? ` -H "authorization: Bearer $${keyName()}"` : "";
  return `curl ${flags} ${quoted(location.origin + path)}${key} -H 'content-type: application/json' -d ${quoted(JSON.stringify(body))}`;
}

/** Write a JSON value as Python; JSON's strings and numbers are Python's. */
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${literal(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}

const lookUp = () => `os.environ[${JSON.stringify(keyName())}]`;

/** Lines of Python that POST a body, given as Python, and keep the reply. */
function posted(path, body) {
  const key = keyName() ? `, headers={"authorization": "Bearer " + ${lookUp()}}` : "";
  return [`reply = httpx.post(${JSON.stringify(location.origin + path)}, json=${body}${key}, timeout=60)`, "reply.raise_for_status()"];
}

const imports = () => [...(keyName() ? ["import os", ""] : []), "import httpx", ""];

/** Return a program for OpenAI's client that prints a completion as it comes. */
export function asOpenAI({ boundaries, ...body }) {
  const options = Object.entries(body).map(([name, value]) => `    ${name}=${literal(value)},`);
  if (boundaries) options.push(`    extra_body=${literal({ boundaries })},`);
  return [
    ...(keyName() ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${location.origin}/v1`)}, api_key=${keyName() ? lookUp() : '"none"'})`,
    "for event in client.completions.create(",
    ...options,
    "):",
    "    print(event.choices[0].text, end=\"\", flush=True)",
    "",
  ].join("\n");
}

/** Return a program that saves what a path answers to a body. */
export const asHttpx = (path, body, file) =>
  [...imports(), ...posted(path, literal(body)), `open(${JSON.stringify(file)}, "wb").write(reply.content)`, ""].join("\n");

/** Return a program that reads a text and prints its segments, one of layer 2 on each line. */
export const asReader = ({ model, text }) =>
  [
    ...imports(),
    `text = ${literal(text)}`,
    ...posted("/v1/segment", `{"model": ${literal(model)}, "text": text}`),
    "",
    "",
    "def show(segment):",
    "    inner = segment.get(\"segments\")",
    "    if inner is None:",
    "        return text[segment[\"start\"] : segment[\"end\"]]",
    "    return (\"|\" if segment[\"layer\"] == 2 else \"\\n\").join(map(show, inner))",
    "",
    "",
    "print(show(reply.json()[\"tree\"]))",
    "",
  ].join("\n");
