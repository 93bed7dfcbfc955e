"""How families of models mark what they think before they answer, and whether an answer may begin with it."""

from __future__ import annotations

from dataclasses import dataclass

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
