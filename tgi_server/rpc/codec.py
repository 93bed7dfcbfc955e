"""The messages between router and shards: the dataclasses of `types`, as msgpack."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from tgi_server.errors import GenerationError
from tgi_server.types import Outcome, Plan, ShardInfo

Message = TypeVar("Message")

SERVICE = "tgi_server.Shard"
"""Name of the gRPC service; its methods are Info, Health and Steps."""

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
"""gRPC options of both sides: a prompt may be longer than gRPC's default of 4 MB."""

KEY = "tgi-server-key"
"""Name of the metadata with which a router shows to shards of other nodes that it is theirs."""


class Codec(Generic[Message]):
    """Encodes and decodes one kind of message."""

    def __init__(self, kind: type[Message]) -> None:
        self._kind = kind
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(kind)

    def encode(self, message: Message) -> bytes:
        """The bytes of `message`."""
        return self._encoder.encode(message)

    def decode(self, data: bytes) -> Message:
        """The message in `data`. Raises GenerationError when it is not one of this kind."""
        try:
            return self._decoder.decode(data)
        except msgspec.DecodeError as error:
            raise GenerationError(f"unreadable {self._kind.__name__} ({len(data)} bytes): {error}") from error


PLAN = Codec(Plan)
OUTCOME = Codec(Outcome)
INFO = Codec(ShardInfo)
