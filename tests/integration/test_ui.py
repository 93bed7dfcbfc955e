"""The page `/ui` in a real browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.integration.listening import listening, send, until
from tests.integration.server import Server
from tests.router_app import TOKENIZER, Router, make_tokenizer, says

LONG: dict[str, Any] = {"inputs": "x", "parameters": {"max_new_tokens": 1500}}
SLOW = 0.02
"""Seconds a step, so that an answer does not end by itself."""
MODES = ["chat", "complete"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Visit:
    """The page in a browser of its own, and what it met."""

    page: Page
    addresses: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def ask(self, mode: str, text: str) -> None:
        """Choose a mode, write, press Enter."""
        await self.page.locator(f"label:has([value={mode}])").click()
        await self.page.locator("#message" if mode == "chat" else "#document").fill(text)
        await self.page.keyboard.press("Enter")

    def tokens(self, mode: str) -> Locator:
        return self.page.locator("#messages .token" if mode == "chat" else "#backdrop .token")

    async def point_at(self, token: Locator) -> None:
        """Move the mouse there; Playwright's own hover insists on elements that nothing lies over."""
        await token.scroll_into_view_if_needed()
        box = await token.evaluate("token => token.getClientRects()[0].toJSON()")  # of its first line
        await self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    async def ended(self, status: str) -> None:
        await expect(self.page.locator("#status")).to_contain_text(status)


@asynccontextmanager
async def visiting(
    browser: Browser, port: int, clean: bool = True, width: int = 1280, path: str = "/ui"
) -> AsyncIterator[Visit]:
    """A visit that asks no other host; a `clean` one also leaves no error in the browser's console."""
    context = await browser.new_context(viewport={"width": width, "height": 740})
    visit = Visit(await context.new_page())
    visit.page.set_default_timeout(10_000)
    visit.page.on("request", lambda request: visit.addresses.append(request.url))
    visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
    if clean:
        visit.page.on("console", lambda message: visit.problems.append(message.text))
    try:
        await visit.page.goto(f"http://127.0.0.1:{port}{path}")
        yield visit
    finally:
        await context.close()
    assert {urlsplit(address).netloc for address in visit.addresses} <= {"", f"127.0.0.1:{port}"}
    assert not visit.problems


def prompts(router: Router) -> list[str]:
    """What the model was given, one text a request."""
    news = [new for plan in router.shards.plans for new in plan.new]
    return [TOKENIZER.decode(new.prompt_ids, skip_special_tokens=False) for new in news]


async def test_a_chat_shows_tokens_with_their_alternatives(browser: Browser) -> None:
    async with listening(choose=says("Paris, été"), step_seconds=0.01) as (_, port), visiting(browser, port) as visit:
        await visit.ask("chat", "Hello")
        await visit.ended("The answer is complete")
        await expect(visit.page.locator(".assistant .text")).to_have_text("Paris, été")
        tokens = visit.tokens("chat")
        assert await tokens.count() == len(TOKENIZER.encode("Paris, été").ids)
        assert (await tokens.first.get_attribute("style") or "").startswith("--share: 60.65")
        coloured = await tokens.first.evaluate("token => getComputedStyle(token).backgroundColor")
        await visit.point_at(tokens.first)
        popover = visit.page.locator("#popover")
        await expect(popover.locator("h3")).to_contain_text("60.7 %")
        await expect(popover.locator(".percent")).to_have_text(["60.7 %", "22.3 %", "8.2 %", "3.0 %", "1.1 %", "4.7 %"])
        await expect(popover.locator("li").first).to_have_class("chosen")
        await expect(popover.locator("li").last).to_contain_text("all others")
        await visit.page.get_by_label("Probability").uncheck()
        assert await tokens.first.evaluate("token => getComputedStyle(token).backgroundColor") != coloured


async def test_tokens_by_keyboard(browser: Browser) -> None:
    async with listening(choose=says("a b\n😀")) as (_, port), visiting(browser, port) as visit:
        popover = visit.page.locator("#popover")
        await visit.ask("chat", "Hello")
        await visit.ended("complete")
        await visit.page.locator(".assistant .text").focus()
        seen = []
        for _ in range(await visit.tokens("chat").count()):
            await visit.page.keyboard.press("ArrowRight")
            seen.append(await popover.locator("h3 code").all_text_contents())
        assert ["⏎"] in seen and ["␣"] in seen
        assert len(seen[-1]) > 1, "several tokens make up the last character"
        await expect(visit.page.locator("#spoken")).to_contain_text("60.7 %")
        await visit.page.keyboard.press("Escape")
        await expect(popover).to_be_hidden()
        await visit.ask("complete", "x")
        await visit.ended("The model ended its text")
        for key in ("Control+Home", "ArrowRight", "ArrowRight"):
            await visit.page.locator("#document").press(key)
        await expect(popover.locator("h3 code")).to_have_text(seen[1])


async def test_a_conversation_goes_on(browser: Browser) -> None:
    async with listening(choose=says("Paris")) as (router, port), visiting(browser, port) as visit:
        await visit.page.locator("[name=system]").fill("Be brief")
        for question in ("one", "two"):
            await visit.ask("chat", question)
            await visit.ended("complete")
        await visit.page.get_by_role("button", name="Regenerate").last.click()
        await until(lambda: len(prompts(router)) == 3)
        await visit.ended("complete")
        await visit.page.get_by_role("button", name="Edit").last.click()
        await expect(visit.page.locator("#message")).to_have_value("two")
        await visit.ask("chat", "three")
        await visit.ended("complete")
        start = "[system]Be brief<|end|>[user]one<|end|>[assistant]Paris<|end|>"
        assert prompts(router)[1:] == [f"{start}[user]{last}<|end|>[assistant]" for last in ("two", "two", "three")]
        await visit.page.get_by_role("button", name="Clear").click()
        await expect(visit.page.locator(".message")).to_have_count(0)


async def test_a_text_is_continued_in_place(browser: Browser) -> None:
    async with listening(choose=says(" quick brown")) as (router, port), visiting(browser, port) as visit:
        text = visit.page.locator("#document")
        await visit.page.locator("[name=temperature]").fill("0")
        await visit.ask("complete", "The")
        await visit.ended("The model ended its text")
        await expect(text).to_have_value("The quick brown")
        count = await visit.tokens("complete").count()
        assert count == len(TOKENIZER.encode(" quick brown").ids)
        await visit.point_at(visit.tokens("complete").last)
        await expect(visit.page.locator("#popover li")).to_have_count(6)
        assert not any(new.sampling.do_sample for plan in router.shards.plans for new in plan.new)
        await text.press("Home")
        await text.press_sequentially("In ")
        await expect(visit.tokens("complete")).to_have_count(count)
        await text.press("End")
        await text.press("Backspace")
        await text.press("Shift+Enter")
        await expect(visit.tokens("complete")).to_have_count(count - 1)
        await expect(visit.page.locator("#backdrop")).to_have_text("In The quick brow\n", use_inner_text=False)
        await text.press("Enter")
        await until(lambda: len(prompts(router)) == 2)
        assert prompts(router)[1] == "In The quick brow\n"
        await visit.ended("The model ended its text")
        await visit.page.get_by_role("button", name="Take back").click()
        await expect(text).to_have_value("In The quick brow\n")


@pytest.mark.parametrize("mode", MODES)
async def test_stop_ends_the_generation(browser: Browser, mode: str) -> None:
    async with listening(step_seconds=SLOW) as (router, port), visiting(browser, port) as visit:
        await visit.page.locator("[name=max_tokens]").fill("1500")
        await visit.ask(mode, "Hello")
        await expect(visit.tokens(mode).nth(2)).to_be_attached()
        assert router.engine.running == 1
        await visit.page.get_by_role("button", name="Stop").click()
        await visit.ended("Stopped")
        await until(lambda: router.engine.running == 0)
        assert router.metric('tgi_request_failure{err="dropped"}') == 1
        assert await visit.tokens(mode).count() > 2, "what came stays"


@pytest.mark.parametrize("mode", MODES)
async def test_text_of_the_model_is_never_markup(browser: Browser, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>"
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([attack])  # one token, so that nothing tears it apart
    monkeypatch.setattr("tests.router_app.TOKENIZER", tokenizer)
    async with listening(choose=says(attack)) as (_, port), visiting(browser, port) as visit:
        await visit.ask(mode, attack)
        await visit.ended("en")
        await visit.point_at(visit.tokens(mode).first)
        await expect(visit.page.locator("#popover h3")).to_be_visible()
        assert await visit.tokens(mode).all_text_contents() == [attack]
        assert await visit.page.locator("img, main script, #popover script").count() == 0
        assert "hit" not in await visit.page.title()


@pytest.mark.parametrize("mode", MODES)
async def test_a_refused_request_is_told_and_not_lost(browser: Browser, mode: str) -> None:
    async with listening() as (_, port), visiting(browser, port, clean=False) as visit:
        await visit.page.locator("[name=max_tokens]").fill("99999")
        await visit.ask(mode, "Hello")
        error = visit.page.get_by_role("alert")
        await expect(error).to_contain_text("The server refused this request.")
        limit = "maximum context length is 2048 tokens" if mode == "chat" else "must be <= 2048"
        await expect(error).to_contain_text(limit)
        await expect(visit.page.locator("#message" if mode == "chat" else "#document")).to_have_value("Hello")
        await visit.page.locator("[name=max_tokens]").fill("5")
        await visit.ask(mode, "Hello")
        await visit.ended("5 tokens")
        await expect(error).to_be_hidden()


@pytest.mark.parametrize("mode", MODES)
async def test_a_key_is_asked_for_and_kept_nowhere(browser: Browser, mode: str) -> None:
    async with (
        listening(choose=says("Paris"), api_key="sk-1") as (_, port),
        visiting(browser, port, clean=False) as visit,
    ):
        field = visit.page.get_by_label("API key")
        for key in ("", "sk-2"):
            await field.fill(key)
            await visit.ask(mode, "Hello")
            await expect(visit.page.get_by_role("alert")).to_contain_text("needs an API key")
            await expect(field).to_be_focused()
        await field.fill("sk-1")
        await visit.ask(mode, "Hello")
        await visit.ended("complete" if mode == "chat" else "The model ended its text")
        assert await visit.page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        await visit.page.reload()
        await expect(field).to_have_value("")


async def test_no_key_is_asked_for_where_none_is_needed(browser: Browser) -> None:
    async with listening() as (_, port), visiting(browser, port) as visit:
        await expect(visit.page.get_by_label("API key")).to_be_hidden()


@pytest.mark.parametrize("mode", MODES)
async def test_a_full_server_is_told(browser: Browser, mode: str) -> None:
    async with listening(step_seconds=SLOW, max_concurrent_requests=1) as (router, port):
        _, writer = await send(port, "/generate", LONG)
        await until(lambda: router.engine.running == 1)
        async with visiting(browser, port, clean=False) as visit:
            await visit.ask(mode, "Hello")
            await expect(visit.page.get_by_role("alert")).to_contain_text("takes no more requests at the moment")
        writer.close()


@pytest.mark.parametrize("mode", MODES)
async def test_a_failure_amid_an_answer_is_told(browser: Browser, mode: str) -> None:
    async with listening(step_seconds=SLOW) as (router, port), visiting(browser, port, clean=False) as visit:
        await visit.ask(mode, "Hello")
        await expect(visit.tokens(mode).nth(2)).to_be_attached()
        router.shards.kill("shard 0 died")
        await expect(visit.page.get_by_role("alert")).to_contain_text("shard 0 died")
        assert await visit.tokens(mode).count() > 2, "what came stays"


@pytest.mark.parametrize(("status", "body", "told"), [
    (502, "<h1>Bad gateway</h1>", "status 502. <h1>Bad gateway</h1>"),
    (200, 'data: {"choices": [{"delta": {"content": "x"}}]}\n\n', "broke off before its end"),
    (200, "data: [DONE]\n\n", "broke off before its end"),
])  # fmt: skip
async def test_an_answer_of_something_in_between_is_told(browser: Browser, status: int, body: str, told: str) -> None:
    async with listening() as (_, port), visiting(browser, port, clean=False) as visit:
        await visit.page.route("**/chat/completions", lambda route: route.fulfill(status=status, body=body))
        await visit.ask("chat", "Hello")
        await expect(visit.page.get_by_role("alert")).to_contain_text(told)


async def test_a_server_that_is_gone_is_told(browser: Browser) -> None:
    async with listening() as (_, port), visiting(browser, port, clean=False) as visit:
        await expect(visit.page.locator("[data-figure=running] dd")).to_have_text("0")
        await visit.page.context.set_offline(True)
        await visit.ask("chat", "Hello")
        await expect(visit.page.get_by_role("alert")).to_contain_text("cannot be reached")
        await expect(visit.page.locator("body")).to_have_class("offline")
        await visit.page.context.set_offline(False)
        await expect(visit.page.locator("body")).not_to_have_class("offline")


async def test_live_figures(browser: Browser) -> None:
    served = {"step_seconds": SLOW, "max_batch_size": 1, "model_id": "some/model"}
    async with listening(**served) as (router, port), visiting(browser, port) as visit:
        running, queue, cache = (
            visit.page.locator(f"[data-figure={name}] dd") for name in ("running", "queue", "cache")
        )
        await expect(visit.page.locator("#model")).to_have_text("some/model")
        await expect(running).to_have_text("0 / 1")
        await expect(cache).to_have_text("0 %")
        writers = [(await send(port, "/generate", LONG))[1] for _ in range(3)]
        await expect(running).to_have_text("1 / 1")
        await expect(queue).to_have_text("2")
        await expect(cache).to_have_text("2.3 %")  # 1501 tokens in blocks of 16, of 65536
        for writer in writers:
            writer.close()
        await expect(running).to_have_text("0 / 1")
        await expect(queue).to_have_text("0")
        points = await visit.page.locator("[data-figure=running] polyline").get_attribute("points") or ""
        assert len({point.split(",")[1] for point in points.split()}) > 1, "the line went up and down"
        await visit.ask("complete", "x")
        await expect(visit.page.locator("[data-figure=first] dd")).to_contain_text("ms")
        await expect(visit.page.locator("[data-figure=speed] dd")).to_have_text(re.compile(r"\d"))
        await visit.page.get_by_role("button", name="Stop").click()
        await until(lambda: router.engine.running == 0)


async def test_events_may_be_cut_anywhere(browser: Browser) -> None:
    stream = (
        ': alive\n\ndata: {"a": "é😀"}\n\ndata:no space\r\ndata: but CRLF\r\n\r\n'
        "data: two\ndata: lines\n\nevent: x\rdata: cr\r\rdata: [DONE]\n\n"
    )
    code = """async ([text, size]) => {
        const bytes = new TextEncoder().encode(text);
        const body = new ReadableStream({ start(controller) {
            for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
            controller.close();
        } });
        const found = [];
        for await (const data of eventData(body)) found.push(data);
        return found;
    }"""
    async with listening() as (_, port), visiting(browser, port) as visit:
        for size in range(1, 20):
            assert await visit.page.evaluate(code, [stream, size]) == [
                '{"a": "é😀"}', "no space\nbut CRLF", "two\nlines", "cr", "[DONE]",
            ]  # fmt: skip


async def test_a_narrow_screen_shows_everything(browser: Browser) -> None:
    served = {"choose": says("w" * 300), "model_id": "a" * 200}
    async with listening(**served) as (_, port), visiting(browser, port, width=360) as visit:
        for mode in MODES:
            await visit.ask(mode, "x" * 300)
            await visit.ended("en")
            assert await visit.page.evaluate("document.documentElement.scrollWidth") <= 360
            await expect(visit.page.get_by_role("button", name="Clear")).to_be_in_viewport(ratio=1)
            await expect(visit.page.locator("#send")).to_be_in_viewport(ratio=1)


async def test_the_demo_model(browser: Browser, server: Server) -> None:
    async with visiting(browser, server.port) as visit:
        await visit.page.locator("[name=temperature]").fill("0")
        await visit.ask("chat", "What is the capital of France?")
        await visit.ended("The answer is complete")
        await expect(visit.page.locator(".assistant .text")).to_have_text("The capital of France is Paris.")
        await visit.point_at(visit.tokens("chat").nth(5))
        await expect(visit.page.locator("#popover .chosen")).to_contain_text("␣Paris")
        await expect(visit.page.locator("#popover li")).to_have_count(6)
        await visit.page.locator("[name=max_tokens]").fill("12")
        await visit.ask("complete", "The capital of Germany is")
        await visit.ended("token")
        await expect(visit.page.locator("#document")).to_have_value(
            await visit.page.locator("#backdrop").text_content() or ""
        )
        assert " Berlin" in await visit.tokens("complete").all_text_contents()
