// Mode "Complete": a text that /generate_stream continues where it ends.
//
// The text is edited in a plain field; behind it lies the same text once more, invisible but for the colours of its
// tokens.

const textField = document.getElementById("document");
const backdrop = document.getElementById("backdrop");
const page = document.getElementById("page");
const backButton = document.getElementById("back");

let before = null; // the text before the last continuation, to take it back

function completeRequest() {
  const temperature = given("temperature", 0); // the native API has no temperature of 0: it is sampling or not
  return {
    inputs: textField.value,
    parameters: {
      do_sample: temperature !== undefined,
      temperature,
      max_new_tokens: given("max_tokens") ?? null,
      details: true,
      top_n_tokens: maxAlternatives,
      ...sampling(),
    },
  };
}

/** Special tokens are no part of the text. */
function readStreamEvent({ token, top_tokens, details }) {
  const step = { ...token, shown: token.special ? "" : token.text, alternatives: top_tokens ?? [] };
  return { steps: [step], finish: details?.finish_reason };
}

async function continueText() {
  if (running || textField.value === "") return;
  const text = textField.value;
  textField.readOnly = true;
  const pieces = new Pieces();
  const came = await answer("generate_stream", completeRequest(), readStreamEvent, (step) => {
    const steps = pieces.push(step);
    if (steps === null) return;
    following(page, () => {
      backdrop.append(tokenElement(step.shown, steps));
      textField.value += step.shown;
    });
  });
  textField.readOnly = false;
  if (came) before = text;
  backButton.disabled = before === null;
  textField.focus();
}

function setText(text) {
  textField.value = text;
  before = null;
  backButton.disabled = true;
  recolour();
}

/** After an edit: tokens before and after the changed place keep their colours, what lies between becomes plain. */
function recolour() {
  hidePopover();
  const now = textField.value;
  const [start, end] = unchanged(backdrop.textContent, now);
  const pieces = [...backdrop.childNodes];
  const first = fitting(pieces, start);
  const last = fitting(pieces.toReversed(), end).toReversed();
  backdrop.replaceChildren(...first, now.slice(lengthOf(first), now.length - lengthOf(last)), ...last);
}

/** How many characters two texts share at their start, and at their end beyond that. */
function unchanged(old, now) {
  const shorter = Math.min(old.length, now.length);
  let start = 0;
  while (start < shorter && old[start] === now[start]) start += 1;
  let end = 0;
  while (end < shorter - start && old.at(-1 - end) === now.at(-1 - end)) end += 1;
  return [start, end];
}

/** The first pieces that lie within `length` characters. */
function fitting(pieces, length) {
  let left = length;
  const beyond = pieces.findIndex((piece) => (left -= piece.textContent.length) < 0);
  return beyond < 0 ? pieces : pieces.slice(0, beyond);
}

function lengthOf(pieces) {
  return pieces.reduce((sum, piece) => sum + piece.textContent.length, 0);
}

/** The caret is the keyboard's way to point at a token. */
function pointAtCaret({ key }) {
  if (!key.startsWith("Arrow") && key !== "Home" && key !== "End") return;
  const token = textField.selectionStart === textField.selectionEnd ? tokenAt(textField.selectionStart) : null;
  if (!token) return hidePopover();
  showPopover(token);
  speak(token);
}

function tokenAt(offset) {
  let position = 0;
  for (const piece of backdrop.childNodes) {
    position += piece.textContent.length;
    if (offset < position) return stepsOf.has(piece) ? piece : null;
  }
  return null;
}
