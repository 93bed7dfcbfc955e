// Mode "Chat": a conversation through /v1/chat/completions.

const messageField = document.getElementById("message");
const messageList = document.getElementById("messages");
const welcome = document.getElementById("welcome");

let conversation = []; // of {role, content, element}

function chatRequest() {
  const system = parameters.system.value;
  const said = conversation.map(({ role, content }) => ({ role, content }));
  return {
    messages: system === "" ? said : [{ role: "system", content: system }, ...said],
    stream: true,
    logprobs: true,
    top_logprobs: maxAlternatives,
    temperature: given("temperature"),
    max_tokens: given("max_tokens"),
    presence_penalty: given("presence_penalty", 0),
    ...sampling(),
  };
}

/** One chunk has one token; the last may have a token that shows nothing and of which nothing is told. */
function readChatChunk({ choices: [choice] }) {
  const told = choice.logprobs?.content ?? [];
  const steps = told.map(({ token, logprob, top_logprobs }) => ({
    text: token,
    shown: choice.delta.content ?? "",
    logprob,
    alternatives: top_logprobs.map((other) => ({ text: other.token, logprob: other.logprob })),
  }));
  return { steps, finish: choice.finish_reason };
}

async function sendMessage() {
  const content = messageField.value.trim();
  if (content === "" || running) return;
  messageField.value = "";
  addMessage("user", content);
  await askForAnswer();
  messageField.focus();
}

async function askForAnswer() {
  const body = chatRequest();
  const message = addMessage("assistant", "");
  const text = message.element.querySelector(".text");
  const pieces = new Pieces();
  const came = await answer("v1/chat/completions", body, readChatChunk, (step) => {
    const steps = pieces.push(step);
    if (steps === null) return;
    message.content += step.shown;
    following(messageList, () => text.append(tokenElement(step.shown, steps)));
  });
  if (!came) takeBack();
}

/** Nothing came: the question goes back into the field, to be asked again or otherwise. */
function takeBack() {
  removeFrom(conversation.length - 1);
  const question = conversation.at(-1);
  removeFrom(conversation.length - 1);
  if (messageField.value === "") messageField.value = question.content;
}

function addMessage(role, content) {
  const element = document.getElementById("message-template").content.cloneNode(true).firstElementChild;
  const message = { role, content, element };
  element.classList.add(role);
  element.querySelector("h2").textContent = role === "user" ? "You" : "Model";
  const text = element.querySelector(".text");
  text.textContent = content;
  if (role === "assistant") makeWalkable(text);
  element.addEventListener("click", ({ target }) => act(target.dataset.action, message));
  conversation.push(message);
  welcome.hidden = true;
  messageList.append(element);
  messageList.scrollTop = messageList.scrollHeight;
  return message;
}

function makeWalkable(text) {
  text.tabIndex = 0;
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", "Answer; arrow keys go from token to token");
  text.addEventListener("keydown", walkTokens);
  text.addEventListener("blur", hidePopover);
}

async function act(action, message) {
  if (action === "copy") await copy(message.content);
  if (running) return;
  const index = conversation.indexOf(message);
  if (action === "edit") {
    removeFrom(index);
    messageField.value = message.content;
    messageField.focus();
  } else if (action === "again") {
    removeFrom(index);
    await askForAnswer();
  }
}

function removeFrom(index) {
  hidePopover();
  for (const { element } of conversation.splice(index)) element.remove();
  welcome.hidden = conversation.length > 0;
}
