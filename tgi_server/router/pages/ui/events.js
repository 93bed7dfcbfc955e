"use strict";
// Asking the server, and reading the server-sent events it answers with.

/** What went wrong, in words for the person in front of the page. */
class Failure extends Error {}

/** The parsed events of a streamed answer; throws a Failure, or an AbortError once `signal` says so. */
async function* streamed(path, body, signal) {
  const key = document.getElementById("key").value.trim(); // kept nowhere else
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) },
    body: JSON.stringify(body),
    signal,
  }).catch((error) => {
    throw broken(error, "The server cannot be reached. Is it still running?");
  });
  if (!response.ok) throw refusal(response.status, await response.text());
  for await (const data of eventData(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw failure(event);
    yield event;
  }
}

/** The `data` of each event. Chunks may end anywhere: in a line, in a line break, in a character. */
async function* eventData(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let lines = [];
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw broken(error, "The connection broke while the answer came.");
      });
      if (done) return;
      const ended = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?=[^\n])/);
      rest = ended.pop();
      for (const line of ended) {
        if (line.startsWith("data:")) lines.push(line.slice(line[5] === " " ? 6 : 5));
        if (line !== "" || !lines.length) continue; // comments keep the connection alive, other fields are not used
        yield lines.join("\n");
        lines = [];
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may be broken already
  }
}

function broken(error, words) {
  return error.name === "AbortError" ? error : new Failure(words);
}

/** A status that is no success, with a body of either API, or of something between here and the server. */
function refusal(status, text) {
  try {
    return failure(JSON.parse(text));
  } catch {
    return new Failure(`The server answered with status ${status}. ${text.slice(0, 300)}`);
  }
}

/** From `{error, error_type}` or `{error: {message, code}}`. */
function failure({ error, error_type }) {
  const message = error.message ?? String(error);
  switch (error.code ?? error_type) {
    case "validation":
    case "context_length_exceeded":
    case "template_error":
      return new Failure(`The server refused this request. ${message.replace("Input validation error: ", "")}`);
    case "invalid_api_key":
    case "authentication":
      document.getElementById("side").open = true;
      setTimeout(() => document.getElementById("key").focus()); // after the field of the message gets it back
      return new Failure("The server needs an API key, and this is none of its keys.");
    case "overloaded":
      return new Failure(`The server takes no more requests at the moment: ${message}. Try again shortly.`);
    default:
      return new Failure(`The answer failed. ${message}`);
  }
}
