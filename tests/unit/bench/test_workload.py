"""What the options describe."""

from __future__ import annotations

from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import Any

import pytest

from tgi_server.bench.http import Target
from tgi_server.bench.machine import facts
from tgi_server.bench.options import BenchOptions, Texts
from tgi_server.bench.workload import Workload, numbers, poisson
from tgi_server.errors import UsageError


def test_poisson_arrivals() -> None:
    moments = list(takewhile(lambda moment: moment < 1000, poisson(5.0, seed=1)))
    assert len(moments) == pytest.approx(5000, rel=0.05)
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert min(gaps) > 0
    assert sum(gap > 1 / 5 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)  # 1/e, as of no other process
    assert list(islice(poisson(5.0, 1), 9)) == moments[:9]
    assert next(poisson(5.0, 2)) != moments[0]


@pytest.mark.parametrize("text", ["1,8,32", "[1,8,32]", " [1, 8, 32] "])
def test_numbers(text: str) -> None:
    assert numbers("clients", text) == (1, 8, 32)


@pytest.mark.parametrize("text", ["0", "1,", "x", "[1", "1;2", "-1", "1.5"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="clients="):
        numbers("clients", text)


def test_defaults() -> None:
    work = Workload.of(BenchOptions())
    assert (work.clients, work.rate, work.requests, work.duration) == ((1,), None, None, 10.0)
    assert Workload.of(BenchOptions(requests=5)).duration is None
    assert Workload.of(BenchOptions(request_rate=2.0)).clients == (256,)


def test_random_prompts() -> None:
    work = Workload.of(BenchOptions(prompt_tokens="64-256", seed=3))
    texts = list(islice(work.texts("run 0"), 200))
    lengths = [len(text.split()) for text in texts]
    assert 64 <= min(lengths) < 80 and 240 < max(lengths) <= 256
    assert texts == list(islice(work.texts("run 0"), 200))
    assert texts[0] != next(work.texts("run 1"))
    assert {len(text.split()) for text in islice(Workload.of(BenchOptions()).texts("run 0"), 9)} == {80}


@pytest.mark.parametrize("kind", [Texts.ordinary, Texts.repetitive])
def test_workloads(kind: Texts) -> None:
    work = Workload.of(BenchOptions(workload=kind))
    texts = list(islice(work.texts("run 0"), 20))
    assert len(set(texts)) == 20 and texts == list(islice(work.texts("run 0"), 20))
    assert not set(texts) & {*islice(work.texts("run 1"), 20), *islice(work.texts("warm-up 0"), 20)}


def test_prompts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\nt\xe2\x80\xa8wo\n")  # with the mark some editors write, and U+2028
    texts = Workload.of(BenchOptions(prompts=str(path))).texts("run 0")
    assert list(islice(texts, 3)) == ["one", "t\u2028wo", "one"]


@pytest.mark.parametrize(("options", "words"), [
    ({"prompts": "/does/not/exist"}, "prompts=/does/not/exist"),
    ({"prompts": "/dev/null"}, "no prompts"),
    ({"prompts": "x", "prompt_tokens": "8"}, "exclude"),
    ({"prompts": "x", "workload": Texts.ordinary}, "prompts and workload=ordinary"),
    ({"prompt_tokens": "9", "workload": Texts.repetitive}, "prompt_tokens and workload=repetitive"),
    ({"temperature": 0.0, "top_p": 0.9}, "top_p=0.9"),
    ({"sampling_seed": 1 << 63}, "sampling_seed="),
    ({"prompt_tokens": "9-8"}, "prompt_tokens=9-8"),
    ({"prompt_tokens": "x"}, "prompt_tokens=x"),
    ({"prompt_tokens": "1-2-3"}, "prompt_tokens=1-2-3"),
    ({"clients": "1,2", "request_rate": 1.0}, "request_rate"),
    ({"new_tokens": 1 << 63}, "new_tokens="),
    ({"seed": 1 << 63}, "seed="),
])  # fmt: skip
def test_mistakes(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        Workload.of(BenchOptions(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("url", "target"), [
    ("http://127.0.0.1:8000", Target("127.0.0.1", 8000)),
    ("http://host/v1/", Target("host", 80)),
    ("https://host/base/v1", Target("host", 443, "/base", True)),
    ("http://[::1]:3000", Target("::1", 3000)),
])  # fmt: skip
def test_targets(url: str, target: Target) -> None:
    assert Target.parse(url) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:99999", "http://x?y=1", "http://x/a b", "http://\u00e4"]
)
def test_no_targets(url: str) -> None:
    with pytest.raises(UsageError, match="target="):
        Target.parse(url)


def test_passwords_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="a user name or password") as error:
        Target.parse("http://me:secret@host")
    assert "secret" not in str(error.value)


def test_machine(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    (tmp_path / "meminfo").write_text("MemTotal:       16777216 kB\n")
    assert facts(tmp_path).items() >= {"Processor": "Some CPU @ 2 GHz", "Memory": "16 GiB"}.items()
    assert facts(tmp_path / "none")["Memory"] == "unknown"
