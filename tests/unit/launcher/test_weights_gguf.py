"""GGUF files: what comes out of them, and that a damaged one is refused in one line."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from tests import gguf_files
from tests.gguf_files import TOKENS
from tgi_server.config.schema import DType, ModelOptions
from tgi_server.errors import ConfigError, ModelError
from tgi_server.launcher import conversions, weights
from tgi_server.launcher.gguf.convert import convert
from tgi_server.launcher.gguf.reader import GgufFile
from tgi_server.models.description import Description
from tgi_server.models.families import read_spec
from tgi_server.models.files import TensorInfo, headers


def ignore(stage: str, fraction: float) -> None:
    pass


@pytest.fixture(scope="module")
def tensors() -> gguf_files.Weights:
    return gguf_files.random_weights()


@pytest.fixture
def source(tmp_path: Path, tensors: gguf_files.Weights) -> Path:
    return gguf_files.write(tmp_path / "tiny.gguf", tensors)


def converted(source: Path, dtype: DType = DType.float32) -> Path:
    """Converted in this process, without the cache."""
    directory = source.with_suffix(f".{dtype.value}")
    directory.mkdir()
    convert(source, directory, dtype, ignore)
    return directory


def converted_with(path: Path, tensors: gguf_files.Weights, **metadata: Any) -> Path:
    changes = {key.replace("__", "."): value for key, value in metadata.items()}
    return converted(gguf_files.write(path / "tiny.gguf", tensors, changes))


def read(directory: Path, name: str) -> dict[str, Any]:
    content = json.loads((directory / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


# Through the cache, in a child process


@pytest.mark.alone
def test_a_file_is_converted_once(source: Path, tensors: gguf_files.Weights, tmp_path: Path) -> None:
    options = ModelOptions(model_id=str(source), conversion_cache=str(tmp_path / "cache"))
    directory = weights.fetch(options, DType.float32, ignore).directory
    stored = load_file(directory / "model.safetensors")
    assert stored.keys() == tensors.keys()
    assert all(np.array_equal(stored[name], tensors[name]) for name in tensors)
    before = [path.stat().st_mtime_ns for path in sorted(directory.iterdir())]

    def seconds_of_another_fetch() -> float:
        started = time.perf_counter()
        assert weights.fetch(options, DType.float32, ignore).directory == directory
        return time.perf_counter() - started

    assert min(seconds_of_another_fetch() for _ in range(5)) < 0.05
    assert [path.stat().st_mtime_ns for path in sorted(directory.iterdir())] == before

    os.utime(source, ns=(1, 1))
    assert weights.fetch(options, DType.float32, ignore).directory != directory


def test_two_at_once_and_what_a_dead_one_left(source: Path, tmp_path: Path) -> None:
    left = tmp_path / "cache" / "gguf" / "other-float32-abc.partial"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    options = ModelOptions(model_id=str(source), conversion_cache=str(tmp_path / "cache"))
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(weights.fetch(options, DType.bfloat16, ignore).directory))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert len(set(results)) == 1
    assert [path.name for path in left.parent.iterdir() if path.is_dir()] == [results[0].name]


def test_a_damaged_file_leaves_nothing_in_the_cache(source: Path, tmp_path: Path) -> None:
    os.truncate(source, source.stat().st_size - 1)
    options = ModelOptions(model_id=str(source), conversion_cache=str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=f"{source} is not a usable GGUF file: it is truncated"):
        weights.fetch(options, DType.float32, ignore)
    assert not (tmp_path / "cache").exists()  # refused before the conversion


def test_damaged_weights_leave_nothing_in_the_cache(tmp_path: Path, tensors: gguf_files.Weights) -> None:
    broken = {**tensors, "model.norm.weight": np.full(gguf_files.HIDDEN, np.inf, np.float32)}
    source = gguf_files.write(tmp_path / "tiny.gguf", broken)
    options = ModelOptions(model_id=str(source), conversion_cache=str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"output_norm\.weight holds values that are not finite numbers in float32"):
        weights.fetch(options, DType.float32, ignore)
    assert [path.name for path in (tmp_path / "cache" / "gguf").iterdir()] == [".lock"]


def test_a_full_disk_is_one_line(source: Path, tmp_path: Path) -> None:
    """The most a file may hold stands for the disk; the child process inherits it."""
    options = ModelOptions(model_id=str(source), conversion_cache=str(tmp_path / "cache"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        with pytest.raises(ModelError, match=f"^{tmp_path}/cache/gguf: File too large$"):
            weights.fetch(options, DType.float32, ignore)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "cache" / "gguf").iterdir()] == [".lock"]


# Weights


def nearest_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Slow and plain: of the two neighbours the nearer one, the even one on a tie."""
    below = values.view(np.uint32) >> 16
    lower, upper = ((below + step).astype(np.uint32) << 16 for step in (0, 1))
    exact = values.astype(np.float64)
    to_lower, to_upper = (abs(exact - bits.view(np.float32).astype(np.float64)) for bits in (lower, upper))
    up = (to_upper < to_lower) | ((to_upper == to_lower) & (below % 2 == 1))
    return np.asarray(below + up, np.uint16)


def test_bfloat16_is_rounded_to_nearest_even(tmp_path: Path, tensors: gguf_files.Weights) -> None:
    ties = np.array([1.00390625, 1.01171875, -1.00390625, 0.0, -0.0, 3e-39, 1e38], np.float32)
    embedding = tensors["model.embed_tokens.weight"].copy()
    embedding[0, : len(ties)] = ties
    source = gguf_files.write(tmp_path / "tiny.gguf", {**tensors, "model.embed_tokens.weight": embedding})
    content = (converted(source, DType.bfloat16) / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    stored = np.frombuffer(content, np.uint16, embedding.size, start)
    assert np.array_equal(stored, nearest_bfloat16(embedding).reshape(-1))


def test_float16(source: Path, tensors: gguf_files.Weights) -> None:
    stored = load_file(converted(source, DType.float16) / "model.safetensors")
    assert all(np.array_equal(stored[name], tensors[name].astype(np.float16)) for name in tensors)


def test_quantised_and_untied_weights(tmp_path: Path) -> None:
    tensors = gguf_files.random_weights(tied=False)
    source = gguf_files.write(tmp_path / "tiny.gguf", tensors, kind=GGMLQuantizationType.Q8_0)
    directory = converted(source)
    stored = load_file(directory / "model.safetensors")
    assert stored.keys() == tensors.keys()
    assert all(np.allclose(stored[name], tensors[name], atol=3e-3) for name in tensors)
    assert read(directory, "config.json")["tie_word_embeddings"] is False


def test_values_that_do_not_fit_are_refused(tmp_path: Path, tensors: gguf_files.Weights) -> None:
    broken = {**tensors, "model.norm.weight": np.full(gguf_files.HIDDEN, 70000, np.float32)}
    source = gguf_files.write(tmp_path / "tiny.gguf", broken)
    with pytest.raises(ModelError, match=r"output_norm\.weight holds values that are not finite numbers in float16"):
        converted(source, DType.float16)


# Descriptions


def test_configuration(source: Path) -> None:
    directory = converted(source)
    config = read(directory, "config.json")
    expected = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "vocab_size": len(TOKENS), "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32",
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert read(directory, "generation_config.json") == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    settings = read(directory, "tokenizer_config.json")
    assert settings["chat_template"] == gguf_files.TEMPLATE
    assert (settings["bos_token"], settings["eos_token"]) == ("<|im_start|>", "<|im_end|>")


def test_all_ids_that_end_a_generation(tmp_path: Path, tensors: gguf_files.Weights) -> None:
    directory = converted_with(tmp_path, tensors, tokenizer__ggml__eot_token_id=0)
    assert read(directory, "generation_config.json")["eos_token_id"] == [2, 0]


def tokenizer_with(path: Path, tensors: gguf_files.Weights, **metadata: Any) -> Tokenizer:
    return Tokenizer.from_file(str(converted_with(path, tensors, **metadata) / "tokenizer.json"))


def test_tokenizer_of_smollm(tmp_path: Path, tensors: gguf_files.Weights) -> None:
    tokenizer = tokenizer_with(tmp_path, tensors)
    assert tokenizer.encode("Say the 12").tokens == ["S", "a", "y", "Ġthe", "Ġ", "1", "2"]
    text = "<|im_start|>the ünïcode 日本 <tool><|im_end|>"
    ids = tokenizer.encode(text).ids
    assert (ids[0], ids[-2], ids[-1]) == (1, 3, 2)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.decode(ids) == "the ünïcode 日本 <tool>"
    assert tokenizer.get_vocab_size() == len(TOKENS)


@pytest.mark.parametrize(
    ("pre", "tokens"),
    [
        ("gpt-2", ["Ġthe", "12", "12", "12", ","]),
        ("llama-bpe", ["<|im_start|>", "Ġthe", "12", "1", "2", "12", ","]),
        ("qwen2", ["Ġthe", "1", "2", "1", "2", "1", "2", ","]),
    ],
)
def test_how_other_tokenizers_cut_text(
    tmp_path: Path, tensors: gguf_files.Weights, pre: str, tokens: list[str]
) -> None:
    tokenizer = tokenizer_with(tmp_path, tensors, tokenizer__ggml__pre=pre, tokenizer__ggml__add_bos_token=None)
    assert tokenizer.encode(" the121212,").tokens == tokens


def test_tokens_around_a_text(tmp_path: Path, tensors: gguf_files.Weights) -> None:
    added = {"tokenizer__ggml__add_bos_token": True, "tokenizer__ggml__add_eos_token": True}
    tokenizer = tokenizer_with(tmp_path, tensors, **added)
    assert tokenizer.encode("h").tokens == ["<|im_start|>", "h", "<|im_end|>"]
    assert tokenizer.encode("h", add_special_tokens=False).tokens == ["h"]


# What is refused

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"general.architecture": "mamba"}, r"architecture 'mamba' is not supported .*\(these are: "),
    "tokenizer model": ({"tokenizer.ggml.model": "bert"}, r"tokenizer model 'bert' is not supported"),
    "pre-tokenizer": ({"tokenizer.ggml.pre": "deepseek-llm"}, r"tokenizer\.ggml\.pre is 'deepseek-llm'; supported are"),
    "no pre-tokenizer": ({"tokenizer.ggml.pre": None}, r"the metadata tokenizer\.ggml\.pre is missing"),
    "layers": ({"llama.block_count": 3}, r"tensors are missing: 'blk\.2\.attn_k\.weight', .* and 4 more"),
    "absurd layers": ({"llama.block_count": 2**32 - 1}, r"4294967295 layers, but 20 tensors"),
    "fewer layers": ({"llama.block_count": 1}, r"tensors that llama does not have here: 'blk\.1\..*"),
    "no layers": ({"llama.block_count": 0}, r"llama\.block_count is 0"),
    "shape": ({"llama.feed_forward_length": 95}, r"gate_proj\.weight has the shape \[96, 64\], \[95, 64\] was"),
    "heads": ({"llama.attention.head_count": 1000}, r"rotary embedding of 16 of 1 values"),
    "rope scaling": ({"llama.rope.scaling.type": "spiral"}, r"rope scaling 'spiral' is not supported"),
    "type": ({"llama.context_length": "long"}, r"llama\.context_length should be of type int"),
    "token twice": ({"tokenizer.ggml.tokens": ["a"] * len(TOKENS)}, r"holds tokens twice"),
    "merges": ({"tokenizer.ggml.merges": ["x"]}, r"merges cannot be used"),
    "unknown merge": ({"tokenizer.ggml.merges": ["x yy"]}, r"merges cannot be used"),
    "token types": ({"tokenizer.ggml.token_type": [1]}, r"264 tokens, but 1 token types"),
    "bos": ({"tokenizer.ggml.bos_token_id": 9999}, r"bos_token_id is 9999, outside the vocabulary"),
    "no bos": (
        {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None},
        r"bos_token_id is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_refused(tmp_path: Path, tensors: gguf_files.Weights, case: str) -> None:
    metadata, message = REFUSED[case]
    source = gguf_files.write(tmp_path / "tiny.gguf", tensors, metadata)
    with pytest.raises(ModelError, match=message) as caught:
        converted(source)
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"GG", b"GGUF", b"<html>", b"GGUF\x09\0\0\0", b"GGUF\x03\0\0\0" + b"\xff" * 64]
)
def test_what_is_no_gguf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"^{re.escape(str(path))} is not a usable GGUF file: [^\n]+$"):
        GgufFile(path)


@pytest.mark.parametrize("missing", [1, 4, 256, 100_000])
def test_a_truncated_file(source: Path, missing: int) -> None:
    os.truncate(source, source.stat().st_size - missing)
    with pytest.raises(ModelError, match=f"^{source} is not a usable GGUF file: it is truncated or damaged [^\n]+$"):
        GgufFile(source)


@pytest.mark.alone
@pytest.mark.parametrize("count", [2**17, 2**64 - 1])
def test_a_damaged_element_count_takes_little_time_and_memory(tmp_path: Path, count: int) -> None:
    """The gguf package alone follows such a count until memory runs out, if whole elements fit before the end."""
    key, element = b"tokenizer.ggml.token_type", 4
    for shift in range(element):
        source = gguf_files.write(tmp_path / "tiny.gguf", {}, {"tokenizer.ggml.pre": "x" * shift})
        content = bytearray(source.read_bytes())
        start = content.index(key) + len(key) + 8
        if (len(content) - start) % element == 0:
            break
    content[start : start + 8] = count.to_bytes(8, "little")
    source.write_bytes(content)
    started = time.perf_counter()
    with pytest.raises(ModelError, match=r"it is truncated or damaged \((it ends too early|a list of \d+ elements)\)"):
        weights.fetch(ModelOptions(model_id=str(source), conversion_cache=str(tmp_path)), DType.float32, ignore)
    assert time.perf_counter() - started < 3


def test_reading_leaves_the_memory_limit_as_it_was(source: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_AS)
    GgufFile(source)
    assert resource.getrlimit(resource.RLIMIT_AS) == limit


def test_random_damage_never_ends_in_another_error(source: Path) -> None:
    generator = random.Random(0)
    whole = source.read_bytes()
    header = whole.index(b"output_norm.weight") + 40
    directory = source.parent / "out"
    directory.mkdir()
    for _ in range(100):
        broken = bytearray(whole)
        for _ in range(generator.choice([1, 1, 8])):
            broken[generator.randrange(header)] = generator.choice([0, 1, 0x7F, 0xFF, generator.randrange(256)])
        source.write_bytes(broken)
        try:
            convert(source, directory, DType.float32, ignore)
        except ModelError as error:
            assert "\n" not in str(error)


# Before the conversion


def test_a_model_is_judged_before_it_is_converted(source: Path, tmp_path: Path) -> None:
    """`look` sees config.json, `weigh` the tensors as they would be; neither happens for what is there already."""
    options = ModelOptions(model_id=str(source), conversion_cache=str(tmp_path / "cache"))
    seen: list[Any] = []

    def look(directory: Path) -> Description:
        seen.append(read(directory, "config.json"))
        return read_spec(directory)

    def weigh(directory: Path, tensors: Mapping[str, TensorInfo], adapter: Path | None) -> None:
        assert adapter is None
        assert not (tmp_path / "cache").exists()
        seen.append({name: (info.dtype, info.shape, info.bytes) for name, info in tensors.items()})

    directory = weights.fetch(options, DType.bfloat16, ignore, look, weigh).directory
    stored = {name: (info.dtype, info.shape, info.bytes) for name, info in headers(directory).items()}
    assert seen == [read(directory, "config.json"), stored]
    weights.fetch(options, DType.bfloat16, ignore, look, weigh)
    assert len(seen) == 2


@pytest.mark.parametrize("error", [ConfigError("too large"), ModelError("{directory}/config.json: no such model")])
def test_what_is_refused_is_not_converted(source: Path, tmp_path: Path, error: ConfigError) -> None:
    options = ModelOptions(model_id=str(source), conversion_cache=str(tmp_path / "cache"))

    def look(directory: Path) -> Description:
        raise type(error)(str(error).format(directory=directory))

    expected = str(error).format(directory="").replace("/config.json", str(source))
    with pytest.raises(type(error), match=f"^{re.escape(expected)}$"):
        weights.fetch(options, DType.bfloat16, ignore, look)
    assert not (tmp_path / "cache").exists()


# Split files


@pytest.fixture
def split(tmp_path: Path, tensors: gguf_files.Weights) -> list[Path]:
    """A model in three parts, as llama.cpp's gguf-split makes them: the metadata are in the first."""
    names, paths = list(tensors), []
    for number in range(3):
        path = tmp_path / f"tiny-{number + 1:05d}-of-00003.gguf"
        own = {name: tensors[name] for name in names[number::3]}
        counts = {"split.count": 3, "split.no": number, "split.tensors.count": len(tensors)}
        if number:
            writer = GGUFWriter(path, "llama")
            gguf_files.finish(writer, counts, own)
        else:
            gguf_files.write(path, own, counts)
        paths.append(path)
    return paths


@pytest.mark.parametrize("named", [0, 2])
def test_a_split_file(split: list[Path], tensors: gguf_files.Weights, named: int) -> None:
    """Whichever part is named."""
    directory = split[0].parent / "out"
    directory.mkdir()
    convert(split[named], directory, DType.float32, ignore)
    stored = load_file(directory / "model.safetensors")
    assert stored.keys() == tensors.keys()
    assert all(np.array_equal(stored[name], tensors[name]) for name in tensors)


def test_a_missing_part(split: list[Path], tmp_path: Path) -> None:
    split[1].unlink()
    with pytest.raises(ModelError, match=r"its part tiny-00002-of-00003\.gguf is missing$"):
        GgufFile(split[0])
    with pytest.raises(ModelError, match=r"No such file or directory: .*tiny-00002-of-00003\.gguf$"):
        weights.fetch(ModelOptions(model_id=str(split[0]), conversion_cache=str(tmp_path)), DType.float32, ignore)


def test_a_part_under_another_name(split: list[Path]) -> None:
    renamed = split[0].rename(split[0].with_name("model.gguf"))
    with pytest.raises(ModelError, match=r"model\.gguf: it is one of 3 parts; they have to be called NAME-00001-of-"):
        GgufFile(renamed)


def test_a_part_of_another_model(split: list[Path], tensors: gguf_files.Weights) -> None:
    split[1].write_bytes(split[2].read_bytes())
    with pytest.raises(ModelError, match=r"tiny-00003-of-00003\.gguf .* the tensor .* is in two parts$"):
        GgufFile(split[0])
    gguf_files.write(split[1], {}, {"split.count": 3})
    with pytest.raises(ModelError, match=r"its parts hold 13 tensors, 20 expected$"):
        GgufFile(split[0])


def test_another_part_is_another_conversion(split: list[Path]) -> None:
    before = conversions.of_gguf(split[0], DType.float32, None)
    os.utime(split[2], ns=(1, 1))
    assert conversions.of_gguf(split[0], DType.float32, None) != before
