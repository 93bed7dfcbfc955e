// One answer at a time: what is sent, what comes, how it ends.

const parameters = document.getElementById("parameters").elements;
const maxAlternatives = Number(document.documentElement.dataset.maxAlternatives);
const errorLine = document.getElementById("error");
const statusLine = document.getElementById("status");

let running = null; // the AbortController of the answer that comes, if one does

const ENDS = {
  stop: "The answer is complete",
  eos_token: "The model ended its text",
  stop_sequence: "Ended at a stop sequence",
  length: "Max tokens reached",
  stopped: "Stopped",
};

/** A number the person has set; undefined, which JSON leaves out, for an empty field or a value without effect. */
function given(name, neutral) {
  const value = parameters[name].valueAsNumber;
  return Number.isNaN(value) || value === neutral ? undefined : value;
}

/** What both APIs call by the same name. */
function sampling() {
  const greedy = parameters.temperature.valueAsNumber === 0;
  return {
    top_p: greedy ? undefined : given("top_p", 1),
    top_k: greedy ? undefined : given("top_k", 0),
    repetition_penalty: given("repetition_penalty", 1),
    frequency_penalty: given("frequency_penalty", 0),
    seed: given("seed"),
    stop: parameters.stop.value.split("\n").filter((line) => line !== "").map((line) => line.replaceAll("\\n", "\n")),
  };
}

/**
 * Ask, and hand over step by step what comes.
 *
 * `read` makes of an event {steps, finish}. The result tells whether anything came; errors are shown here.
 */
async function answer(path, body, read, take) {
  running = new AbortController();
  setBusy(true);
  showError("");
  stopwatch.start();
  let finish = null;
  try {
    for await (const event of streamed(path, body, running.signal)) {
      const part = read(event);
      for (const step of part.steps) {
        stopwatch.token();
        take(step);
      }
      finish = part.finish ?? finish;
    }
    if (finish === null) throw new Failure("The answer broke off before its end.");
  } catch (error) {
    if (error.name === "AbortError") finish = "stopped";
    else showError(error instanceof Failure ? error.message : `This page met an error: ${error}`);
  }
  setBusy(false);
  const tokens = stopwatch.tokens;
  announce(finish === null ? "" : `${ENDS[finish] ?? finish} · ${tokens} token${tokens === 1 ? "" : "s"}`);
  return tokens > 0;
}

function setBusy(busy) {
  if (!busy) running = null;
  document.body.classList.toggle("busy", busy);
  document.getElementById("stop").hidden = !busy;
  document.getElementById("send").hidden = busy;
  if (busy) announce("The model writes …");
}

function showError(words) {
  errorLine.textContent = words;
  errorLine.hidden = words === "";
}

/** Into the line that screen readers read aloud when it changes; the tokens themselves would be too many. */
function announce(words) {
  statusLine.textContent = words;
}

/** Put text on the clipboard; pages that are not served from this machine or by HTTPS may have none. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied");
  } catch {
    announce("The browser does not let this page copy");
  }
}

/** Scroll along with what comes, unless the person has scrolled up to read. */
function following(scroller, change) {
  const follows = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
  change();
  if (follows) scroller.scrollTop = scroller.scrollHeight;
}
