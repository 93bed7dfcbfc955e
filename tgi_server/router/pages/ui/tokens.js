// Tokens as coloured pieces of text, and the popover that tells how likely they and their alternatives were.
//
// A step is one token: {text, shown, id, logprob, special, alternatives: [{text, id, logprob, special}]}. `text` is its
// name, `shown` what it adds to the answer. Only one of the two APIs tells ids and which tokens are special.
// Text of the model only ever becomes text nodes.

const stepsOf = new WeakMap();
const popover = document.getElementById("popover");

/** Collects steps until they complete a text: several tokens may make up one character. */
class Pieces {
  #waiting = [];

  /** The steps that make up `step.shown`, or null while there is nothing to show. */
  push(step) {
    this.#waiting.push(step);
    if (step.shown === "") return null;
    const steps = this.#waiting;
    this.#waiting = [];
    return steps;
  }
}

function tokenElement(text, steps) {
  const element = make("span", "token", text);
  const logprobs = steps.map((step) => step.logprob).filter((logprob) => logprob != null);
  if (logprobs.length) element.style.setProperty("--share", `${100 * probability(Math.min(...logprobs))}%`);
  stepsOf.set(element, steps);
  return element;
}

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

function probability(logprob) {
  return Math.min(Math.exp(logprob), 1);
}

function percent(share) {
  const value = 100 * share;
  if (value === 0) return "0 %";
  return value < 0.01 ? "< 0.01 %" : `${value.toFixed(value < 1 ? 2 : 1)} %`;
}

/** The text of a token with everything visible that would not be seen; parts of characters have no text. */
function visible({ text }) {
  const signs = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };
  return text === "" ? "\ufffd" : text.replace(/[ \n\t\r]/g, (character) => signs[character]);
}

/** The alternatives with the chosen token among them, the likeliest first. */
function choices(step) {
  const same = (other) => other.id === step.id && other.logprob === step.logprob;
  const possible = step.alternatives.filter((other) => other.logprob != null); // null: the server's minus infinity
  const listed = possible.find((other) => same(other) && other.text === step.text) ?? possible.find(same);
  const all = possible.map((other) => ({ ...other, chosen: other === listed }));
  return listed ? all : [...all, { ...step, chosen: true }];
}

function stepElement(step) {
  const section = make("section", "step", make("h3", "", make("code", "", visible(step))));
  if (step.logprob == null) {
    section.append(make("p", "", "The server told no probability."));
    return section;
  }
  section.firstChild.append(make("b", "", percent(probability(step.logprob))));
  const shown = choices(step);
  const list = make("ul", "", ...shown.map(choiceElement));
  const others = 1 - shown.reduce((sum, choice) => sum + probability(choice.logprob), 0);
  if (others > 0.0005) list.append(rowElement(make("em", "", "all others"), others));
  section.append(list);
  return section;
}

function choiceElement(choice) {
  const row = rowElement(make("code", choice.special ? "special" : "", visible(choice)), probability(choice.logprob));
  row.classList.toggle("chosen", choice.chosen);
  return row;
}

function rowElement(name, share) {
  const bar = make("i", "");
  bar.style.setProperty("--share", `${100 * share}%`);
  return make("li", "", name, make("span", "track", bar), make("span", "percent", percent(share)));
}

function showPopover(token) {
  if (popover.token === token) return;
  hidePopover();
  popover.token = token;
  token.classList.add("current");
  popover.replaceChildren(...stepsOf.get(token).map(stepElement));
  popover.hidden = false;
  placePopover();
}

/** Below the token, above where there is no room; again when the text is scrolled. */
function placePopover() {
  if (popover.hidden) return;
  const anchor = popover.token.getClientRects()[0];
  const { width, height } = popover.getBoundingClientRect();
  const below = anchor.bottom + 6;
  const top = below + height < innerHeight ? below : Math.max(anchor.top - height - 6, 4);
  popover.style.top = `${top}px`;
  popover.style.left = `${Math.max(4, Math.min(anchor.left, innerWidth - width - 4))}px`;
}

function hidePopover() {
  popover.token?.classList.remove("current");
  popover.token = null;
  popover.hidden = true;
}

/** What the popover shows, for screen readers. */
function speak(token) {
  const told = (choice) => `${visible(choice)} ${percent(probability(choice.logprob))}`;
  const steps = stepsOf.get(token).filter((step) => step.logprob != null);
  const sentences = steps.map((step) => `${told(step)}; choices: ${choices(step).map(told).join(", ")}`);
  document.getElementById("spoken").textContent = sentences.join(". ");
}

/** Also finds tokens that lie behind the field in which they are edited. */
function pointAt(event) {
  const token = document.elementsFromPoint(event.clientX, event.clientY).find((element) => stepsOf.has(element));
  if (token) showPopover(token);
  else hidePopover();
}

/** Arrow keys go from token to token of a text that has the focus. */
function walkTokens(event) {
  const tokens = [...event.currentTarget.querySelectorAll(".token")];
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  if (!(event.key in steps) || !tokens.length) return;
  event.preventDefault();
  const index = tokens.indexOf(popover.token);
  const next = index < 0 ? 0 : Math.max(0, Math.min(index + steps[event.key], tokens.length - 1));
  tokens[next].scrollIntoView({ block: "nearest" });
  showPopover(tokens[next]);
  speak(tokens[next]);
}
