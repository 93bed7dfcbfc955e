// What the controls do.

const sendButton = document.getElementById("send");

function mode() {
  return document.body.dataset.mode;
}

function setMode(name) {
  document.body.dataset.mode = name;
  sendButton.textContent = name === "chat" ? "Send" : "Continue";
  showError("");
  announce("");
  hidePopover();
}

function send() {
  return mode() === "chat" ? sendMessage() : continueText();
}

function clear() {
  running?.abort();
  showError("");
  announce("");
  if (mode() === "chat") removeFrom(0);
  else setText("");
}

/** Enter sends, Shift+Enter makes a new line; Enter that ends the input of a foreign character does neither. */
function sendOnEnter(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
}

function showValues() {
  for (const output of document.querySelectorAll("#parameters output")) {
    output.textContent = output.parentElement.querySelector("input").value;
  }
}

function setUp() {
  for (const radio of document.querySelectorAll("[name=mode]")) {
    radio.addEventListener("change", () => setMode(radio.value));
  }
  for (const button of document.querySelectorAll(".examples button")) {
    button.addEventListener("click", () => {
      messageField.value = button.textContent;
      send();
    });
  }
  for (const field of [messageField, textField]) field.addEventListener("keydown", sendOnEnter);
  setUpButtons();
  setUpPopover();
  const form = document.getElementById("parameters");
  form.addEventListener("input", showValues);
  form.addEventListener("reset", () => setTimeout(showValues)); // the values are reset after the event
  document.getElementById("side").open = innerWidth > 832;
  showValues();
  setMode(document.querySelector("[name=mode]:checked").value); // browsers keep it when a page is loaded again
  setText(textField.value);
  pollFigures();
}

function setUpButtons() {
  const click = (id, action) => document.getElementById(id).addEventListener("click", action);
  click("stop", () => running?.abort());
  click("clear", clear);
  click("copy", () => copy(textField.value));
  click("back", () => setText(before));
  document.getElementById("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  document.getElementById("coloured").addEventListener("change", ({ target }) => {
    document.body.classList.toggle("plain", !target.checked);
  });
}

function setUpPopover() {
  document.addEventListener("pointermove", pointAt);
  document.addEventListener("click", pointAt);
  document.addEventListener("scroll", placePopover, true);
  document.addEventListener("keydown", ({ key }) => {
    if (key === "Escape") hidePopover();
  });
  textField.addEventListener("input", recolour);
  textField.addEventListener("keyup", pointAtCaret);
}

setUp();
