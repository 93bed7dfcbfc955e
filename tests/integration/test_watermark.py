"""Watermarked texts of the demo model at the documented defaults, and texts that know nothing of it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tokenizers import Tokenizer

from tests.integration.server import Server
from tests.watermarks import DEMO, generated, prose
from tgi_server.launcher.vocabulary import find
from tgi_server.watermark import MARKED, THRESHOLD, UNMARKED, detect

LENGTH = 200


def detected(texts: list[str], tokenizer: Tokenizer) -> int:
    return sum(detect(text, tokenizer).z > THRESHOLD for text in texts)


@pytest.mark.timeout(300)
def test_marked_texts_are_detected(server: Server) -> None:
    """Their seeds are fixed. ./scripts/measure-watermark tells how it is with more of them."""
    texts = generated(server, 20, LENGTH, watermark=True)
    assert detected(texts, find(DEMO)) >= 19
    program = [sys.executable, "-m", "tgi_server.watermark", "--tokenizer", DEMO]
    for text, status, verdict in ((texts[0], MARKED, "watermarked"), (prose(find(DEMO), LENGTH)[0], UNMARKED, "not")):
        done = subprocess.run(program, input=text.encode(), capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (status, b"")
        assert done.stdout.decode().splitlines()[-1].startswith(f"verdict: {verdict}")


def test_texts_by_people_are_not() -> None:
    texts = prose(find(DEMO), LENGTH)
    assert len(texts) > 300 and detected(texts, find(DEMO)) == 0
