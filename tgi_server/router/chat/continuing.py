"""Conversations whose last message is to be gone on with: where its text ends in the prompt."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from tgi_server.errors import ValidationError
from tgi_server.router.chat.contents import Turn

PARAM = "continue_final_message"


class FinalMessage:
    """The last message of a conversation, marked at its end so that it is found again in the prompt.

    The mark ends with a space, which tells whether the template takes white space off the ends of texts.

    Raises:
        ValidationError: it is none of the assistant's, or ends with calls.
    """

    def __init__(self, turns: Sequence[Turn]) -> None:
        last = turns[-1]
        if last["role"] != "assistant" or "tool_calls" in last:
            raise ValidationError(f"`{PARAM}` needs a last message of the role `assistant`, without calls", PARAM)
        self._text: str = last["content"]
        self._mark = f"{uuid.uuid4().hex} "
        self.turns = [*turns[:-1], {**last, "content": self._text + self._mark}]
        """The conversation with the mark in it."""

    def cut(self, prompt: str) -> str:
        """The prompt up to where the message ends.

        Raises:
            ValidationError: the template does not show the message as it is.
        """
        at = prompt.rfind(self._mark.strip())
        before = prompt[:at]
        if at < 0:
            raise ValidationError("the chat template does not show the last message to its end", PARAM)
        if prompt.startswith(self._mark, at):
            return before
        return before.removesuffix(self._text[len(self._text.rstrip()) :])
