// A form's request as a command or a program: what a visitor takes home.

/** Quote a word for a POSIX shell. */
const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;

/** Return a curl command that sends a body. */
export function asCurl(path, body) {
  const flags = body.stream ? "-sN" : "-s";
  return `curl ${flags} ${quoted(location.origin + path)} -H 'content-type: application/json' -d ${quoted(JSON.stringify(body))}`;
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

/** Return a program for OpenAI's client that prints a completion as it comes. */
export function asOpenAI({ boundaries, ...body }) {
  const options = Object.entries(body).map(([name, value]) => `    ${name}=${literal(value)},`);
  if (boundaries) options.push(`    extra_body=${literal({ boundaries })},`);
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${location.origin}/v1`)}, api_key="none")`,
    "for event in client.completions.create(",
    ...options,
    "):",
    "    print(event.choices[0].text, end=\"\", flush=True)",
    "",
  ].join("\n");
}

/** Return a program that saves what a path answers to a body. */
export function asHttpx(path, body, file) {
  return [
    "import httpx",
    "",
    `reply = httpx.post(${JSON.stringify(location.origin + path)}, json=${literal(body)}, timeout=60)`,
    "reply.raise_for_status()",
    `open(${JSON.stringify(file)}, "wb").write(reply.content)`,
    "",
  ].join("\n");
}

/** Return a program that reads a text and prints its segments, one of layer 2 on each line. */
export function asReader(body) {
  return [
    "import httpx",
    "",
    `text = ${literal(body.text)}`,
    `reply = httpx.post(${JSON.stringify(`${location.origin}/v1/segment`)}, json={"model": ${literal(body.model)}, "text": text}, timeout=60)`,
    "reply.raise_for_status()",
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
}
