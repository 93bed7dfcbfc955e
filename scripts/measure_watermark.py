"""How sure the watermark's detector is of texts of the demo model. See scripts/measure-watermark."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from tests.integration.server import Server
from tests.watermarks import DEMO, generated, prose
from tgi_server.greenlist import DELTA, GAMMA
from tgi_server.launcher.vocabulary import find
from tgi_server.watermark import THRESHOLD, detect


def row(name: str, scores: Sequence[float]) -> str:
    detected = sum(score > THRESHOLD for score in scores)
    low, *_, high = statistics.quantiles(scores, n=20)
    median, most = statistics.median(scores), max(scores)
    return (
        f"| {name} | {len(scores)} | {detected} ({detected / len(scores):.1%}) | "
        f"{min(scores):.1f} | {low:.1f} | {median:.1f} | {high:.1f} | {most:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="measure-watermark", description=__doc__)
    parser.add_argument("--marked", type=int, default=100, help="generated texts of each kind [%(default)s]")
    parser.add_argument("--tokens", type=int, default=200, help="length of a text [%(default)s]")
    parser.add_argument("--gamma", type=float, default=GAMMA, help="watermark_gamma [%(default)s]")
    parser.add_argument("--delta", type=float, default=DELTA, help="watermark_delta [%(default)s]")
    options, of_server = parser.parse_known_args()
    tokenizer = find(DEMO)
    marks = [f"watermark_gamma={options.gamma}", f"watermark_delta={options.delta}"]
    print(f"{options.tokens} tokens each, gamma {options.gamma}, delta {options.delta}, temperature 1\n")
    print(f"| texts | number | z > {THRESHOLD:g} | least z | 5 % | median | 95 % | largest |")
    print("|---|---|---|---|---|---|---|---|")

    def tell(name: str, texts: Sequence[str]) -> None:
        print(row(name, [detect(text, tokenizer, options.gamma).z for text in texts]), flush=True)

    tell("by people", prose(tokenizer, options.tokens))
    with Server("model=smollm2", *marks, *of_server) as server:
        for name, watermark in (("generated, watermarked", True), ("generated, plain", False)):
            tell(name, generated(server, options.marked, options.tokens, watermark=watermark))


if __name__ == "__main__":
    main()
