"""SentencePiece models (arXiv:1808.06226) as `tokenizers` tokenizers with the same ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as protocol
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.tokenization_utils_base import generate_merges

_UNIGRAM, _BPE = 1, 2
"""Kinds of models, as the files number them."""
_NORMAL = 1
"""The kind of a piece that stands for text."""
_SPACE = "▁"


def read(path: Path) -> Pieces | None:
    """The model in a file; None when it is no SentencePiece model."""
    proto: Any = protocol.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(path.read_bytes())
        processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
    except Exception:  # protobuf's and the library's own classes of errors
        return None
    return Pieces(proto, processor) if proto.pieces else None


class Pieces:
    """A model file, and the library that reads it."""

    def __init__(self, proto: Any, processor: Any) -> None:
        self._proto = proto
        self._processor = processor

    def faithful(self, converted: Tokenizer, settings: Mapping[str, Any], texts: Sequence[str]) -> str:
        """What transformers made of the file, put right where it gives other ids for `texts`.

        Args:
            converted: what transformers made.
            settings: tokenizer_config.json. With `legacy`, the default, a space is put before each stretch of text
                between special tokens, even before a space; without, before the first word alone.

        Raises:
            ValueError: the ids stay different.
        """
        if self._renumbered(converted):
            return converted.to_str()
        legacy = settings.get("legacy") in (None, True)
        texts = [*texts, *(f"  {text} " for text in texts if legacy)]
        if self._differs(converted, texts) is not None:
            converted = self._rebuilt(converted, legacy)
        if (text := self._differs(converted, texts)) is not None:
            raise ValueError(f"it would cut {text!r} otherwise than sentencepiece does")
        if not settings.keys() & {"add_bos_token", "add_eos_token"}:
            self._begin(converted)
        return converted.to_str()

    def _renumbered(self, converted: Tokenizer) -> bool:
        """Whether the model's class gives the pieces other ids than the file."""
        normal = [id for id, piece in enumerate(self._proto.pieces) if piece.type == _NORMAL]
        same: int = sum(converted.id_to_token(id) == self._proto.pieces[id].piece for id in normal)
        return 2 * same < len(normal)  # single ones may have got another name

    def _differs(self, converted: Tokenizer, texts: Sequence[str]) -> str | None:
        """The first text that is cut otherwise."""
        ids = ((text, converted.encode(text, add_special_tokens=False).ids) for text in texts)
        return next((text for text, got in ids if got != self._processor.encode(text)), None)

    def _rebuilt(self, converted: Tokenizer, legacy: bool) -> Tokenizer:
        """Added tokens and template of transformers' tokenizer, around the model and the rules of the file."""
        core = Tokenizer(self._model(converted))
        core.normalizer = normalizers.Sequence(self._normalizers(legacy))
        prefix = self._proto.normalizer_spec.add_dummy_prefix
        if prefix and not legacy:
            core.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, "first", split=False)
        core.decoder = decoders.Sequence(
            [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
            + ([decoders.Strip(" ", 1, 0)] if prefix else [])
        )
        own = json.loads(converted.to_str())
        return Tokenizer.from_str(json.dumps({**own, **_parts(core)}))

    def _model(self, converted: Tokenizer) -> models.Model:
        names = [converted.id_to_token(id) or piece.piece for id, piece in enumerate(self._proto.pieces)]
        scores = {name: piece.score for name, piece in zip(names, self._proto.pieces, strict=True)}
        trainer = self._proto.trainer_spec
        if trainer.model_type == _UNIGRAM:
            return models.Unigram(list(scores.items()), self._processor.unk_id(), trainer.byte_fallback)
        if trainer.model_type != _BPE:
            raise ValueError("it is neither a unigram model nor one of merges")
        vocabulary = {name: id for id, name in enumerate(names)}
        return models.BPE(
            vocabulary, generate_merges(vocabulary, scores), unk_token=names[self._processor.unk_id()],
            fuse_unk=True, byte_fallback=trainer.byte_fallback,
        )  # fmt: skip

    def _normalizers(self, legacy: bool) -> list[normalizers.Normalizer]:
        spec = self._proto.normalizer_spec
        rules: list[normalizers.Normalizer] = []
        if spec.precompiled_charsmap:
            rules.append(normalizers.Precompiled(spec.precompiled_charsmap))
        if spec.remove_extra_whitespaces:
            rules += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
        if spec.add_dummy_prefix and legacy:
            rules.append(normalizers.Prepend(_SPACE))
        return [*rules, normalizers.Replace(" ", _SPACE)]

    def _begin(self, converted: Tokenizer) -> None:
        """Where nothing says otherwise, a text begins with the token that the file has for that."""
        bos = self._processor.bos_id()
        if bos >= 0 and converted.num_special_tokens_to_add(is_pair=False) == 0:
            name = converted.id_to_token(bos)
            converted.post_processor = processors.TemplateProcessing(
                single=f"{name} $A", pair=f"{name} $A {name}:1 $B:1", special_tokens=[(name, bos)]
            )


def _parts(core: Tokenizer) -> dict[str, Any]:
    whole = json.loads(core.to_str())
    return {name: whole[name] for name in ("model", "normalizer", "pre_tokenizer", "decoder")}
