"""How families of models mark what they think before they answer, and whether an answer may begin with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tgi_server.router.chat.tools import literal
from tgi_server.types import Reasoning


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """How a family of models marks what it thinks: `begin`, the thoughts, `end`, the answer.

    `sign` is what tells a chat template of that family. An answer without thoughts may begin with `direct`. Marks may
    hold special tokens.
    """

    sign: str
    begin: str
    end: str
    direct: str = ""

    def after(self, prompt: str) -> Reasoning | None:
        """What the answer to a prompt may have of thoughts, None for nothing: the prompt may have ended them."""
        written = prompt.rstrip()
        if written.endswith(self.end):
            return None
        return Reasoning(self.begin, self.end, self.direct, begun=written.endswith(self.begin))

    def within(self, answer: str) -> Reasoning | None:
        """What the rest of an answer may have of thoughts: more of those that it has begun and not ended."""
        begun = answer.rfind(self.begin) > answer.rfind(self.end)
        return Reasoning(self.begin, self.end, self.direct, begun=True) if begun else None


FORMATS = (
    ReasoningFormat(
        "<|channel|>analysis",
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        direct="<|channel|>final<|message|>",
    ),
    ReasoningFormat("[/THINK]", "[THINK]", "[/THINK]"),
    ReasoningFormat("</seed:think>", "<seed:think>", "</seed:think>"),
    ReasoningFormat("'Here is my thought process:'", "Here is my thought process:", "Here is my response:"),
    ReasoningFormat("</thought>", "<thought>", "</thought>"),
    ReasoningFormat("</think>", "<think>", "</think>"),
)
"""Those of gpt-oss, Magistral, Seed-OSS, Granite 3.2, EXAONE Deep; and of DeepSeek R1, Qwen 3, QwQ and most others."""


def format_of(template: str) -> ReasoningFormat | None:
    """How the model of a chat template marks what it thinks, None if the template knows of no such thing."""
    return next((format for format in FORMATS if format.sign in template), None)


def effort_variables(effort: str | None) -> dict[str, Any]:
    """The variables by which chat templates take how much is to be thought: `none`, or a word that the model knows."""
    if effort is None:
        return {}
    thinks = effort != "none"
    return {"enable_thinking": thinks, "thinking": thinks} | ({"reasoning_effort": effort} if thinks else {})


def after_thoughts(reasoning: Reasoning, answer: str, special: Mapping[str, int]) -> str:
    """The grammar of an answer that comes after thoughts, if there are any.

    Args:
        answer: what llguidance made of the answer's own grammar.
        special: ids of the special tokens, by their text.
    """
    grammars = json.loads(answer)["grammars"] if answer.startswith("{") else [{"lark_grammar": answer}]
    thoughts = {"lark_grammar": "\n".join(_rules(reasoning, special))}
    return json.dumps({"grammars": [thoughts, grammars[0] | {"name": "answer"}, *grammars[1:]]})


def _rules(reasoning: Reasoning, special: Mapping[str, int]) -> list[str]:
    """Marks that are text end as soon as they are complete, whatever else could be read there."""
    begin, end, direct = (
        (f"{'' if mark.startswith(tuple(special)) else '[lazy]'}: ", literal(mark, special))
        for mark in (reasoning.begin, reasoning.end, reasoning.direct)
    )
    return [
        f"start: {'thoughts' if reasoning.begun else 'opening?'} @answer",
        f"opening: begin thoughts{' | direct' if reasoning.direct else ''}",
        "thoughts: end GAP",
        "".join(["begin", *begin]),
        f"end{end[0]}TEXT {end[1]}",
        "".join(["direct", *direct]) if reasoning.direct else "",
        r"GAP: /\n{0,2}/",
        r"TEXT: /(.|\n)*/",
    ]
