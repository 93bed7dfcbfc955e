"""JSON schemas as far as texts can follow them.

llguidance refuses a schema as a whole for anything in it that it does not know, and does not say where that is. So what
cannot be followed is searched for: first each keyword by itself, then each beside those before it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from llguidance import LLMatcher

from tgi_server.errors import ValidationError
from tgi_server.router.http.checks import MOST_SAID, failure, mistake

Schema = dict[str, Any] | bool
Path = tuple[str, ...]

MOST_MEMBERS = 1000
"""Members of an object or list in a schema: what they cost grows with their square."""
MOST_PATTERNS = 12
"""Regular expressions that one text has to match: whether any text does takes time that doubles with each."""
MOST_PLACES = 20_000
"""Of a schema that are looked at for them."""
DEEPEST = 100
"""Steps from the root of a schema to a part that is looked at."""
PATIENCE = 1.0
"""Seconds of computing that a request's schemas may take to be searched."""

COMPACT: Mapping[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write each JSON value: where white space may be written without end, some models do."""
LOOSE: Mapping[str, Any] = {**COMPACT, "coerce_one_of": True}
"""The same, where `oneOf` is `anyOf` if its alternatives may overlap."""

FOR_PEOPLE = frozenset(["title", "description", "examples", "default", "$comment", "deprecated"])
_VALUES = frozenset(["enum", "const"])
_DEFINITIONS = frozenset(["$defs", "definitions"])
_BY_NAME = _DEFINITIONS | {"properties", "patternProperties", "dependentSchemas"}
_IN_LISTS = frozenset(["allOf", "anyOf", "oneOf", "prefixItems", "items"])
_SINGLE = frozenset(
    ["items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties",
     "propertyNames", "not", "if", "then", "else"]
)  # fmt: skip
_NEUTRAL = {"uniqueItems": False, "unevaluatedProperties": True, "unevaluatedItems": True, "dependentRequired": {}}
"""Values of keywords, not known here, that ask for nothing."""
_FIRST = ("type", "properties", "patternProperties", "prefixItems", "items")
"""Keywords that others build on."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of a schema that cannot be followed: where it is, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        if not self.path:
            return f"the schema: {self.reason}"
        place = "$" + "".join(map(_step, self.path[:-1]))
        shown = place if len(place) <= MOST_SAID else f"…{place[-MOST_SAID:]}"
        return f"`{self.path[-1][:MOST_SAID]}` at `{shown}`: {self.reason}"


def _step(name: str) -> str:
    """A step of a JSON path."""
    return f".{name}" if name.isidentifier() else f"[{name if name.isdigit() else json.dumps(name)}]"


class Patience:
    """How long the schemas of one request are searched, in time that this thread computes."""

    def __init__(self, seconds: float = PATIENCE) -> None:
        self._until = time.thread_time() + seconds

    @property
    def over(self) -> bool:
        """There is no time left."""
        return time.thread_time() > self._until


def followable(schema: dict[str, Any], patience: Patience) -> tuple[dict[str, Any], list[LeftOut]]:
    """The schema without what cannot be followed, if anything, and what that is.

    With `LOOSE` options it can be followed. At worst nothing is left but its type.
    """
    search = _Search(schema, patience)
    left = search.reconciled(search.pruned(schema))
    return left, search.left_out


def obstacles(schema: dict[str, Any], patience: Patience, formats: bool) -> tuple[dict[str, Any], list[LeftOut]]:
    """Why a schema cannot be followed as a whole: what is found first. None where only what asks for nothing had to be
    left out of the one that is returned.

    Args:
        formats: a `format` that is not known asks for something too; else it is only said of a text.
    """
    search = _Search(schema, patience)
    left = search.pruned(schema)
    found = [part for part in search.left_out if not _asks_nothing(schema, part, formats)]
    if not found:
        pruned = len(search.left_out)
        left = search.reconciled(left, most=1)
        found = search.left_out[pruned:] or _overlapping(left)
    return left, found


def _overlapping(schema: dict[str, Any]) -> list[LeftOut]:
    """The `oneOf` of a schema that can be followed with `LOOSE` options only."""
    path = next((path for path in _keywords(schema) if path[-1] == "oneOf"), None)
    if path is None or trouble(schema, COMPACT) is None:
        return []
    return [LeftOut(path, "alternatives that may overlap")]


def _asks_nothing(schema: dict[str, Any], part: LeftOut, formats: bool) -> bool:
    value: Any = schema
    for step in part.path:
        value = value[int(step)] if isinstance(value, list) else value[step]
    keyword = part.path[-1] if part.path else None
    if keyword in _NEUTRAL:
        return bool(_NEUTRAL[keyword] == value)
    if keyword != "format" or formats or not isinstance(value, str):
        return False
    return trouble({"type": "string", "format": value}, judge=mistake) is not None


def trouble(
    schema: Schema, options: Mapping[str, Any] = LOOSE, judge: Callable[[str], str | None] = failure
) -> str | None:
    """Why a schema cannot be followed, None if it can."""
    try:
        return judge(LLMatcher.grammar_from_json_schema(_text(schema, options)))
    except (ValueError, RecursionError) as error:
        return str(error) if isinstance(error, _UnwritableError) else "nested too deeply"


def grammar_of(schema: Schema, param: str, options: Mapping[str, Any]) -> str:
    """The grammar of the JSON that follows a schema. Raises ValidationError as `schema_text` does."""
    return LLMatcher.grammar_from_json_schema(schema_text(schema, param, options))


def schema_text(schema: Schema, param: str, options: Mapping[str, Any]) -> str:
    """A schema as it stands in a grammar, without what is only meant for people; `options` are llguidance's.

    Raises:
        ValidationError: it is nested too deeply, or has too many members in one place.
    """
    try:
        return _text(schema, options)
    except (_UnwritableError, RecursionError) as error:
        reason = str(error) if isinstance(error, _UnwritableError) else "nested too deeply"
        fault = f"the schema in `{param}` cannot be followed"
        raise ValidationError(f"{fault}: {reason}", param, logged=fault) from None


class _UnwritableError(ValueError):
    """A schema is too large in some way to be written into a grammar."""


def _text(schema: Schema, options: Mapping[str, Any]) -> str:
    known = schema if isinstance(schema, dict) else {} if schema else {"not": {}}
    if _Patterns(known).of(known) > MOST_PATTERNS:
        raise _UnwritableError(f"more than {MOST_PATTERNS} patterns for one text")
    asked = known.get("x-guidance")
    return json.dumps(_bare({**known, "x-guidance": {**(asked if isinstance(asked, dict) else {}), **options}}))


def _bare(value: Any) -> Any:
    if not isinstance(value, dict | list):
        return value
    if len(value) > MOST_MEMBERS:
        raise _UnwritableError(f"more than {MOST_MEMBERS} members in one place")
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return {name: _member(name, member) for name, member in value.items() if name not in FOR_PEOPLE}


def _member(name: str, value: Any) -> Any:
    if name in _VALUES:
        return value
    if name not in _BY_NAME or not isinstance(value, dict):
        return _bare(value)
    return dict(zip(value, _bare(list(value.values())), strict=True))


class _Patterns:
    """How many regular expressions a text may have to match at once, by a schema within `root`."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._counts: dict[frozenset[int], int] = {}

    def of(self, *schemas: Any) -> int:
        """Those of schemas that hold together, and of the place within them that has most."""
        parts = self._parts(schemas)
        known = frozenset(map(id, parts))
        if known not in self._counts:
            self._counts[known] = 0  # as long as it is looked at: references may go in circles
            own = sum(keyword in part for part in parts for keyword in ("pattern", "format"))
            within = max((self.of(*inner) for inner in _by_place(parts).values()), default=0)
            self._counts[known] = own + within if len(self._counts) < MOST_PLACES else MOST_PLACES
        return self._counts[known]

    def _parts(self, schemas: Sequence[Any]) -> list[dict[str, Any]]:
        """The schemas with those that `allOf` and `$ref` add to them."""
        parts, left = dict[int, dict[str, Any]](), list(schemas)
        while left:
            schema = left.pop()
            if isinstance(schema, dict) and id(schema) not in parts:
                parts[id(schema)] = schema
                added = schema.get("allOf")
                left += [*(added if isinstance(added, list) else ()), _referred(self._root, schema.get("$ref"))]
        return [*parts.values()]


def _by_place(schemas: Sequence[dict[str, Any]]) -> dict[Path, list[Any]]:
    """The schemas that those hold, by the ways there."""
    places: dict[Path, list[Any]] = {}
    for schema in schemas:
        for keyword, value in schema.items():
            if keyword not in _DEFINITIONS | {"allOf"}:
                _mapped(keyword, value, lambda inner, way: places.setdefault(way, []).append(inner))
    return places


class _Search:
    """What of one schema can be followed.

    Attributes:
        left_out: what was found that cannot be.
    """

    def __init__(self, root: dict[str, Any], patience: Patience) -> None:
        self.left_out: list[LeftOut] = []
        self._root = root
        self._patience = patience
        self._mistakes: dict[str, str | None] = {}

    def pruned(self, schema: Any, path: Path = ()) -> Any:
        """A schema without the keywords that cannot be followed wherever they are."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict) or len(path) > DEEPEST:
            self._leave(path, "nested too deeply" if isinstance(schema, dict) else "no schema")
            return {}
        return {
            keyword: _mapped(keyword, schema[keyword], lambda inner, way: self.pruned(inner, path + way))
            for keyword in self._usable(schema, path)
        }

    def _usable(self, schema: dict[str, Any], path: Path) -> Collection[str]:
        """The keywords that can be followed, whatever is in the schemas that they hold or refer to."""
        alone = {
            keyword: _mapped(keyword, value, lambda *_: {})
            for keyword, value in schema.items()
            if keyword not in _DEFINITIONS and not (keyword == "$ref" and _referred(self._root, value) is not None)
        }
        if self._patience.over or self._mistake(alone) is None:
            return schema
        kept: dict[str, Any] = {}
        for keyword in sorted(alone, key=lambda keyword: keyword not in _FIRST):
            searched = not self._patience.over
            if reason := self._mistake({**kept, keyword: alone[keyword]}) if searched else "too much to be followed":
                self._leave((*path, keyword), reason)
            else:
                kept[keyword] = alone[keyword]
        return [keyword for keyword in schema if keyword in kept or keyword not in alone]

    def reconciled(self, schema: dict[str, Any], most: int = MOST_MEMBERS) -> dict[str, Any]:
        """A schema without the keywords, `most` of them, that cannot be followed beside those before them."""
        keywords = list(_keywords(schema))
        good, dropped = 0, set[Path]()
        while not self._patience.over and len(dropped) < most:
            left: dict[str, Any] = _only(schema, {*keywords} - dropped)
            if (reason := trouble(left)) is None:
                return left
            good, reason = self._culprit(schema, keywords, dropped, good, reason)
            if self._patience.over:
                break
            dropped.add(keywords[good])
            self._leave(keywords[good], reason)
        if len(dropped) < most:
            self._leave((), "too much to be followed")
        return {"type": "object"} if schema.get("type") == "object" else {}

    def _culprit(
        self, schema: dict[str, Any], keywords: Sequence[Path], dropped: Collection[Path], good: int, reason: str
    ) -> tuple[int, str]:
        """Which keyword, of those from number `good` on, cannot be followed beside those before it, and why not."""
        bad = len(keywords)
        while bad - good > 1 and not self._patience.over:
            middle = (good + bad) // 2
            if found := trouble(_only(schema, {*keywords[:middle]} - {*dropped})):
                bad, reason = middle, found
            else:
                good = middle
        return bad - 1, reason

    def _mistake(self, schema: dict[str, Any]) -> str | None:
        text = json.dumps(schema)
        if text not in self._mistakes:
            self._mistakes[text] = trouble(schema, judge=mistake)
        return self._mistakes[text]

    def _leave(self, path: Path, reason: str) -> None:
        self.left_out.append(LeftOut(path, reason))


def _mapped(keyword: str, value: Any, of: Callable[[Any, Path], Any]) -> Any:
    """The value of a keyword with `of` each schema that it holds and the way there, in place of that schema."""
    if keyword in _BY_NAME and isinstance(value, dict):
        return {name: of(inner, (keyword, name)) for name, inner in value.items()}
    if keyword in _IN_LISTS and isinstance(value, list):
        return [of(inner, (keyword, str(index))) for index, inner in enumerate(value)]
    return of(value, (keyword,)) if keyword in _SINGLE else value


def _referred(root: dict[str, Any], reference: Any) -> Any:
    """Where a `$ref` leads within its own schema, None for nowhere."""
    found: Any = root
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    for step in unquote(reference).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = dict(enumerate(found)).get(int(name) if name.isdecimal() and len(name) < 10 else -1)
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict | bool) else None


def _keywords(schema: Schema, path: Path = ()) -> Iterator[Path]:
    """The paths of all keywords, each before those within it; definitions come first."""
    if isinstance(schema, bool):
        return
    for keyword in sorted(schema, key=lambda keyword: keyword not in _DEFINITIONS):
        inner: list[tuple[Schema, Path]] = []
        _mapped(keyword, schema[keyword], lambda found, way: inner.append((found, path + way)))  # noqa: B023
        yield (*path, keyword)
        for found in inner:
            yield from _keywords(*found)


def _only(schema: Any, kept: Collection[Path], path: Path = ()) -> Any:
    """A schema with the keywords whose paths are in `kept`; what is defined stays defined, if only as anything."""
    if isinstance(schema, bool):
        return schema
    return {
        keyword: _mapped(keyword, value, lambda inner, way: _only(inner, kept, path + way))
        for keyword, value in schema.items()
        if (*path, keyword) in kept or keyword in _DEFINITIONS
    }
