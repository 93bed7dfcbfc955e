"""What messages say, as text: the one thing that models read here."""

from __future__ import annotations

from typing import Any

from tgi_server.errors import ValidationError
from tgi_server.router.chat.messages import ContentPart, Message

Turn = dict[str, Any]
"""One message as a template sees it."""

MOST_SAID = 40
"""Characters of a type that an error repeats."""

_UNREADABLE = {
    "image_url": "images",
    "input_image": "images",
    "image": "images",
    "input_audio": "audio",
    "audio": "audio",
    "audio_url": "audio",
    "video_url": "videos",
    "file": "files",
    "input_file": "files",
    "document": "documents",
    "search_result": "search results",
}
"""What clients send beside text, by the type of the part."""


def text_of(message: Message, index: int) -> str:
    """What message number `index` says; the parts of its content are joined as they are.

    Raises:
        ValidationError: it says nothing, or a part of it is no text.
    """
    content = message.content
    if content is None and message.refusal is None and not message.calls:
        raise ValidationError("a message needs text content, or calls", f"messages[{index}]")
    if content is None:
        return message.refusal or ""
    if isinstance(content, str):
        return content
    return "".join(_text(part, f"messages[{index}].content[{number}]") for number, part in enumerate(content))


def _text(part: ContentPart, param: str) -> str:
    if part.type not in ("text", "refusal"):
        raise unreadable(part.type, param)
    text = part.text if part.type == "text" else part.refusal
    if text is None:
        raise ValidationError(f"`{param}` is of the type `{part.type}` and needs a text called so", param)
    return text


def unreadable(kind: str, param: str) -> ValidationError:
    """What to raise about a part of this type."""
    what = _UNREADABLE.get(kind, "such parts")
    message = f"`{param}` is of the type `{kind[:MOST_SAID]}`: {what} are not supported, the model reads text only"
    return ValidationError(message, param, logged=f"`{param}`: {what} are not supported")
