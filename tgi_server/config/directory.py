"""The operator's own directory of YAML files, which Hydra searches before ours; what is wrong in one, and where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf.errors import OmegaConfBaseException

from tgi_server.config import options, parts
from tgi_server.errors import UsageError

_NAMES = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
_KINDS = {yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
_PROBLEMS = {
    "found character '\\t' that cannot start any token": "begins with a tab; YAML is indented with spaces",
    "mapping values are not allowed here": "a colon where none can be: the line is indented more than those around it, "
    "or a value with a colon is not in quotes",
}
"""In other words than YAML's."""


class OwnFiles(FileConfigSource):
    """Reads them as Hydra does its own, but for the words about what cannot be read."""

    @staticmethod
    def scheme() -> str:
        """What their addresses begin with inside Hydra."""
        return "own"

    def load_config(self, config_path: str) -> ConfigResult:
        """A file; UsageError where it is not one."""
        path = Path(self.path) / self._normalize_file_name(config_path)
        try:
            _check(path)
            return super().load_config(config_path)
        except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"{path}{_told(error, path)}") from None


class _OwnDirectory(SearchPathPlugin):
    path: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.path is not None:
            search_path.prepend("config-dir", f"{OwnFiles.scheme()}://{self.path}", anchor="main")


Plugins.instance().register(OwnFiles)
Plugins.instance().register(_OwnDirectory)


def use(config_dir: str | None) -> None:
    """Have Hydra search the directory first, or no longer.

    Raises:
        UsageError: there is no such directory.
    """
    _OwnDirectory.path = None if config_dir is None else Path(config_dir).expanduser().resolve()
    if _OwnDirectory.path is not None and not _OwnDirectory.path.is_dir():
        raise UsageError(f"config_dir={config_dir}: there is no such directory")


def _check(path: Path) -> None:
    """Raise UsageError for a file whose values have no names, and what YAML raises."""
    text = path.read_bytes().decode()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if text.startswith("\ufeff"):  # YAML would pass over it, but Hydra not find the header behind it
        raise UsageError(f"{path}, line 1: begins with a byte order mark; save it as UTF-8 without one")
    if root is None:
        if "@package" not in text:
            raise UsageError(f"{path}: the file sets nothing")
        return
    for node, problem in _problems(root):
        raise UsageError(f"{path}, line {node.start_mark.line + 1}: {problem}")


def _problems(root: yaml.Node) -> Iterator[tuple[yaml.Node, str]]:
    """What Hydra has no good words for."""
    if not isinstance(root, yaml.MappingNode):
        yield root, f"expected names with values (port: 8080), not {_KINDS[type(root)]}"
        return
    for key, value in root.value:
        if key.tag not in _NAMES:
            yield key, "the name is no text to YAML; put it in quotes"
        elif key.value in parts.PARTS and isinstance(value, yaml.SequenceNode):
            yield value, f"{key.value}: expected a part, which names its _target_, not a list"
        elif key.value == "defaults" and not isinstance(value, yaml.SequenceNode):
            yield value, f"defaults: expected a list, not {_KINDS[type(value)]}"


def _told(error: Exception, path: Path) -> str:
    """Line and problem, as far as the error knows them."""
    match error:
        case yaml.MarkedYAMLError():
            return _marked(error)
        case yaml.reader.ReaderError():
            line = path.read_text(encoding="utf-8").count("\n", 0, error.position) + 1
            return f", line {line}: a character that YAML does not allow (#x{error.character:04x})"
        case UnicodeDecodeError():
            line = error.object.count(b"\n", 0, error.start) + 1
            return f", line {line}: not a text in UTF-8"
        case OSError():
            return f": cannot be read: {error.strerror}"
        case OmegaConfBaseException():
            name = str(error.full_key or "")
            return f": {name}: {'cannot be read' if options.is_secret(name) else str(error).splitlines()[0]}"
        case _:
            return ": a value lies too deep, or within itself"


def _marked(error: yaml.MarkedYAMLError) -> str:
    mark, begun, problem = error.problem_mark, error.context_mark, error.problem or ""
    words = _PROBLEMS.get(problem, problem)
    if begun and error.context and (mark is None or begun.line != mark.line):
        words += f" ({error.context} from line {begun.line + 1} on)"
    return f", line {mark.line + 1}: {words}" if mark else f": {words}"
