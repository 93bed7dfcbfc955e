"""Values that servers stumble over, as JSON text: not all of it is JSON, nor UTF-8."""

from __future__ import annotations

import json

NUMBERS = [
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "9" * 400, "-" + "9" * 5000, "-0", "-0.0", "1.0", "0",
    "-1", "2147483648", "4294967296", "9223372036854775808", "18446744073709551615", "18446744073709551616", "1e2",
    "-9223372036854775809", "0.1e1", "1e39", "1e-50", "01", "+1", ".5", "1.", "0x10", "3.4028236e38", "5e-324",
]  # fmt: skip
TEXTS = [
    "", " ", "\x00", "a\x00b", "\ufeff", "\u202eabc", "e" + "\u0301" * 500,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\uffff", "\U0010ffff", "\x1b[31mred\x1b[0m", "x\r\nSet-Cookie: a=b\r\n\r\n", "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "data: [DONE]\n\n", "{{ 7 * 7 }}", "{% for x in range(10**9) %}{% endfor %}", "{{ ''.__class__.__mro__ }}",
    "%s%n%d", "{0.__class__}", "../../etc/passwd", "<|end|>", "<|im_start|>system", "<|im_end|>", "<|endoftext|>",
    "<tool_call>", "</think>", "a" * 10_000, "\U0001f600" * 3000, " " * 5000, "\n" * 3000, "0" * 2000, "null", "$(id)",
    "' OR 1=1 --", "<script>alert(1)</script>", "2026-11-27T00:00:00Z", "\x7f\x80\x9f", "\u2028\u2029", "auto", "f",
]  # fmt: skip
HALVES = ['"\\ud800"', '"\\udfff\\ud800"', '"a\\ud83d"', '"\\ude00b"', '"\\u0000"', '"\\ud800\\u0041"']
"""Halves of characters, which JSON can write but UTF-8 cannot."""
BROKEN = [
    "[1,]", "{,}", '{"a":1,}', "'a'", "undefined", "/* a */1", "True", '"\n"', '"\\x41"', '"\\u12"', "", "[", "{", '"',
    '{"a" 1}', '{1:2}', "[1 2]", '{"a":{"a":', "nul", "\x00", "\x0c",
]  # fmt: skip
REGEXES = [
    "(a+)+$", "(a{1000}){1000}", "[", "(?=a)b", "\\p{L}{1,10000}", "(((((((((a*)*)*)*)*)*)*)*)*)*", "a{0,1000000}",
    ".*" * 99,
    "(" * 500 + ")" * 500, "[\\x00-\\U0010ffff]{500}", "\\1(a)", "(?<n>a)\\k<n>", "a|" * 2000, "^" * 1000, "[a-z]{2,5}",
]  # fmt: skip


def _nested(depth: int) -> object:
    schema: object = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


SCHEMAS: list[object] = [
    {}, True, False, {"type": "string"}, {"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    {"$ref": "http://127.0.0.1:1/x"}, {"$ref": "file:///etc/passwd"}, {"$ref": "#/%00/~2"}, {"type": "thing"},
    {"type": []},
    {"type": "array", "minItems": 10**9}, {"type": "array", "maxItems": -1}, {"type": "string", "minLength": 10**12},
    {"type": "integer", "minimum": 5, "maximum": 1}, {"type": "number", "multipleOf": 0}, {"enum": []}, {"enum": "a"},
    {"type": "integer", "minimum": -10**30, "maximum": 10**30}, {"type": "number", "multipleOf": 1e-300},
    {"const": None},
    {"enum": [str(number) for number in range(3000)]}, {"anyOf": [{"const": number} for number in range(500)]},
    {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(1200)}}, {"not": {}},
    {"allOf": [{"type": "string", "pattern": f"a{{{number}}}"} for number in range(20)]}, {"properties": 7},
    _nested(60),
    {"oneOf": [{"type": "object", "properties": {"a": {"$ref": "#"}}}, {"type": "array", "items": {"$ref": "#"}}]},
    {"type": "object", "patternProperties": {"(a+)+": {}, "[": {}}, "additionalProperties": False}, {"required": [1]},
    {"type": "object", "properties": {"\x00": {"type": "null"}, "": {}}, "required": ["\x00", "b"]}, _nested(2),
    {"type": "string", "format": "date-time"}, {"type": "string", "format": "no such"}, {"x-guidance": {"a": 1}},
    *({"type": "string", "pattern": pattern} for pattern in REGEXES),
]  # fmt: skip


def deep(depth: int) -> list[str]:
    """Lists and objects within each other, closed and not."""
    return ["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth, '[{"a":' * depth]


STRINGS = [json.dumps(text) for text in TEXTS] + [json.dumps(text, ensure_ascii=False) for text in TEXTS] + HALVES
GUIDES = [json.dumps(schema) for schema in SCHEMAS] + [json.dumps(regex) for regex in REGEXES]
OTHERS = [
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "[null]",
    '{"a":1}',
    "[[]]",
    '[""]',
    "[0,1,2]",
    '{"":""}',
    '["a",1,null]',
]
DEEP = [*deep(3), *deep(99), *deep(1100), *deep(30_000)]
