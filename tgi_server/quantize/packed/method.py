"""What methods share that read packed checkpoints: the operator's options, and what a checkpoint's settings mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Optional

from tgi_server.config.base import option
from tgi_server.errors import ConfigError
from tgi_server.quantize.base import ACTIVATIONS, Activations, Reader
from tgi_server.quantize.packed.layouts import AwqLayout, CompressedLayout, GptqLayout, Packed
from tgi_server.quantize.pick import asked_for
from tgi_server.quantize.settings import LOOKED_AT, Settings

BITS = (2, 3, 4, 8)
_SAME = "checkpoints with the same bits and group_size everywhere"


@dataclass
class PackedMethod:
    """Reads each of the layouts, whichever its own is: a checkpoint knows better than the option.

    Attributes:
        spelling: its own, for checkpoints that say nothing, and in messages.
    """

    activations: Activations = option(Activations.exact, ACTIVATIONS)
    bits: Optional[int] = option(
        None, "Bits of a weight, for checkpoints that do not tell.", minimum=min(BITS), maximum=max(BITS)
    )
    group_size: Optional[int] = option(
        None, "Inputs that share a scale, -1 for all of a layer, for checkpoints that do not tell.", minimum=-1
    )
    spelling: ClassVar[str]

    def reader(self, settings: Settings | None) -> Reader:
        """See `QuantizeMethod`."""
        if settings is None:
            told, place = Told(self.spelling, bits=4 if self.spelling == "awq" else None), LOOKED_AT
        elif (spelling := spelled(settings)) is None:
            asked_for(settings)  # which refuses what no method reads
            raise ConfigError(
                f"quantize={self.spelling} cannot read a checkpoint that was quantised by {settings.method} "
                f"({settings.place}); leave quantize out"
            )
        else:
            told, place = _TOLD[spelling](settings), settings.place
        return self._layout(told, place)

    def _layout(self, told: Told, place: str) -> Packed:
        bits, size = self._agreed("bits", told.bits, place), self._agreed("group_size", told.group_size, place)
        if bits is None or size is None:
            names = [name for name, number in (("bits", bits), ("group_size", size)) if number is None]
            raise ConfigError(
                f"quantize={self.spelling}: the checkpoint does not tell {' and '.join(names)} (looked at: {place}); "
                "its layers would have the tensors NAME.qweight, NAME.qzeros, NAME.scales: if it has them, set "
                f"{' and '.join(f'quantize.{name}' for name in names)}"
            )
        if bits not in BITS or (told.spelling == "awq" and bits != 4):
            served = "4" if told.spelling == "awq" else ", ".join(map(str, BITS))
            raise ConfigError(f"bits={bits} ({place}) is not served by {told.spelling}; served: {served}")
        if size == 0 or size < -1:
            raise ConfigError(f"group_size={size} ({place}) means nothing; -1 stands for all inputs of a layer")
        if told.spelling == "awq":
            return AwqLayout(bits, size, told.asymmetric, self.activations)
        if told.spelling == "gptq":
            ordered = told.ordered and size > 0
            return GptqLayout(bits, size, told.asymmetric, self.activations, told.less, told.borrowed, ordered)
        return CompressedLayout(bits, size, told.asymmetric, self.activations, told.ordered)

    def _agreed(self, name: str, told: int | None, place: str) -> int | None:
        """A number that the checkpoint or the option tells, but not differently."""
        own: int | None = getattr(self, name)
        if told is not None and own is not None and own != told:
            raise ConfigError(f"quantize.{name}={own}: the checkpoint says {told} ({place}); leave it out")
        return own if told is None else told


class Told(NamedTuple):
    """What settings say, in the words of `Packed` and of its layouts; None for what they leave out."""

    spelling: str
    bits: int | None = None
    group_size: int | None = None
    asymmetric: bool = False
    less: int = 1
    borrowed: bool = False
    ordered: bool = False


def spelled(settings: Settings) -> str | None:
    """Which of `gptq`, `awq` and `compressed-tensors` a checkpoint is; None for all others."""
    if settings.method not in _AUTO_ROUND:
        return settings.method if settings.method in _TOLD else None
    packing = _packing(settings)
    if "awq" in packing:
        return "awq"
    return "gptq" if "gptq" in packing or packing in _NATIVE else None


_AUTO_ROUND = ("auto-round", "auto_round", "intel/auto-round")
_NATIVE = ("auto_round", "auto_round:exllamav2", "auto_round:tritonv2")
"""What auto-round calls its own packing, which is `gptq_v2`."""


def _packing(settings: Settings) -> str:
    return str(settings.entries.get("packing_format", settings.entries.get("backend", "auto_round"))).lower()


def _gptq(settings: Settings) -> Told:
    entries = settings.entries
    named = str(entries.get("checkpoint_format") or entries.get("format") or "gptq").lower()
    if settings.method in _AUTO_ROUND:
        packing = _packing(settings)
        named = "gptq" if "gptq" in packing and "gptqmodel" not in packing else "gptq_v2"
    if entries.get("is_marlin_format"):
        named = "marlin"
    if named not in ("gptq", "gptq_v2"):
        raise _refusal(settings, f"checkpoint_format {named!r}", "gptq, gptq_v2")
    _alike(settings)
    return Told(
        "gptq", settings.number("bits"), settings.number("group_size"), entries.get("sym") is False,
        less=1 if named == "gptq" else 0, borrowed=named == "gptq" and _by_gptqmodel(entries),
        ordered=entries.get("desc_act") is True and not entries.get("static_groups"),
    )  # fmt: skip


def _by_gptqmodel(entries: Mapping[str, Any]) -> bool:
    """Whether GPTQModel wrote a checkpoint, by the list of tools (of one, in old ones its name alone) that it keeps."""
    meta = entries.get("meta")
    tools = meta.get("quantizer") if isinstance(meta, dict) else None
    return any(str(tool).startswith("gptqmodel") for tool in (tools if isinstance(tools, list) else [tools]))


def _awq(settings: Settings) -> Told:
    entries = settings.entries
    named = str(entries.get("version") or entries.get("checkpoint_format") or entries.get("format") or "gemm").lower()
    if entries.get("backend") == "llm-awq":
        named = "llm-awq"
    if settings.method not in _AUTO_ROUND and named != "gemm":
        raise _refusal(settings, f"version {named!r}", "gemm")
    _alike(settings)
    bits, asymmetric = settings.number("bits"), entries.get("zero_point") is not False
    return Told("awq", 4 if bits is None else bits, settings.number("group_size"), asymmetric)


def _compressed(settings: Settings) -> Told:
    weights = _compressed_weights(settings)
    for entry, served in (("type", ("int",)), ("strategy", ("group", "channel"))):
        if weights.get(entry, "int") not in served:
            raise _refusal(settings, f"weights of the {entry} {weights.get(entry)!r}", ", ".join(served))
    place = Settings(f"{settings.place}: weights", weights)
    return Told(
        "compressed-tensors", place.number("num_bits"),
        -1 if weights.get("strategy") == "channel" else place.number("group_size"),
        asymmetric=weights.get("symmetric") is False,
        ordered=weights.get("actorder") in ("group", "dynamic", True),
    )  # fmt: skip


def _compressed_weights(settings: Settings) -> Mapping[str, Any]:
    """The one entry that all groups of layers have for their weights."""
    groups = settings.entries.get("config_groups")
    found = list(groups.values()) if isinstance(groups, dict) else []
    if not found or not all(isinstance(group, dict) and isinstance(group.get("weights"), dict) for group in found):
        raise _refusal(settings, "config_groups without weights", "groups that describe them")
    formats = {str(group.get("format") or settings.entries.get("format")) for group in found}
    if formats != {"pack-quantized"}:
        raise _refusal(settings, f"the format {', '.join(map(repr, sorted(formats)))}", "pack-quantized")
    if any(group.get("input_activations") for group in found):
        raise _refusal(settings, "input_activations", "checkpoints of which only the weights are quantised")
    if settings.entries.get("transform_config"):
        raise _refusal(settings, "transform_config", "checkpoints whose inputs are not rotated")
    weights: Mapping[str, Any] = found[0]["weights"]
    if any(group["weights"] != weights for group in found):
        raise _refusal(settings, "groups of layers whose weights differ", _SAME)
    return weights


def _alike(settings: Settings) -> None:
    """Refuse layers with settings of their own (`dynamic` of GPTQModel, `extra_config` of auto-round), and a head."""
    entries = settings.entries
    if entries.get("lm_head"):
        raise _refusal(settings, "a quantised lm_head", "checkpoints that leave it as it was")
    for entry in ("dynamic", "extra_config"):
        rules = entries.get(entry)
        for name, own in rules.items() if isinstance(rules, dict) else ():
            if not name.startswith("-:") and isinstance(own, dict) and _differs(own, settings):
                raise _refusal(settings, f"{entry} with settings of {name} alone", _SAME)


def _differs(own: Mapping[str, Any], settings: Settings) -> bool:
    bits = own.get("bits")
    if isinstance(bits, int) and bits >= 16:
        return False  # it is not quantised
    usual = settings.entries
    return any(own.get(name, usual.get(name)) != usual.get(name) for name in ("bits", "group_size"))


def _refusal(settings: Settings, what: str, served: str) -> ConfigError:
    return ConfigError(f"{settings.place}: {what} ({settings.method}) is not served; served: {served}")


_TOLD = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed}
