// Asking the server: JSON in, and what goes wrong as a sentence that a person understands.

let key = "";

/** Send a key with every request from now on; it is forgotten with the page. */
export function useKey(given) {
  key = given;
}

/** The header that a program needs to ask this server; it finds the key in its environment. */
export const keyName = () => (key ? "COPYIST_API_KEY" : null);

/** What the server will not do, in its words; `param` names the field that it is about, if any. */
export class Refusal extends Error {
  constructor(message, param) {
    super(message);
    this.param = param;
  }
}

/** Nothing is wrong with the request: the same may be asked again, after `waitMs` at the earliest. */
export class Broken extends Error {
  constructor(message, waitMs = 0) {
    super(message);
    this.waitMs = waitMs;
  }
}

/** Tell what an error of the server means for whoever asked. */
export function problem({ message, code, param }, status, headers) {
  if (code === "invalid_api_key") dispatchEvent(new CustomEvent("needskey"));
  const passes = headers ? headers.get("x-should-retry") === "true" : code === "shutting_down";
  if (passes || [502, 503, 504].includes(status)) return new Broken(message, 1000 * Number(headers?.get("retry-after") ?? 0));
  return new Refusal(message, param);
}

/** Fetch a path; a refusal or a lost connection is thrown. */
async function ask(path, options) {
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Broken("The server does not answer.");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw problem(error ?? { message: `The server answered ${response.status}.` }, response.status, response.headers);
}

/** GET a path's JSON. */
export const get = async (path) => (await ask(path, {})).json();

/** POST a body as JSON. */
export const post = (path, body, signal) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
