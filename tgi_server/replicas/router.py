"""Ray Serve's request router: who of the running replicas gets a request."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from tgi_server.replicas.affinity import MARGIN, Affinity
from tgi_server.replicas.call import Call


class PrefixRouter(RequestRouter):
    """Chooses by `affinity.Affinity`; what is under way is counted here, where all requests come by."""

    def initialize_state(self, prefixes: bool, margin: int | None) -> None:
        """Called by Ray Serve.

        Args:
            prefixes: whether the beginnings of prompts count at all.
            margin: see `Affinity`, whose default stands for None.
        """
        self._prefixes = prefixes
        self._affinity: Affinity[ReplicaID] = Affinity(MARGIN if margin is None else margin)
        self._under_way: Counter[ReplicaID] = Counter()
        self._at: dict[str, ReplicaID] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The one replica for a request; asked again while that has no room."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        self._release(pending_request)  # of an earlier attempt
        keys = _keys(pending_request) if self._prefixes else []
        running = {replica.replica_id: replica for replica in candidate_replicas}
        chosen = self._affinity.choose(keys, {each: self._under_way[each] for each in running})
        self._affinity.add(chosen, keys)
        if not pending_request.future.cancelled():
            self._take(pending_request, chosen)
        return [[running[chosen]]]

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """A request is done, or its client or its replica is gone; or it was sent elsewhere in the meantime."""
        if self._at.get(internal_request_id) == replica_id:
            del self._at[internal_request_id]
            if replica_id in self._under_way:  # it may be gone
                self._under_way[replica_id] -= 1

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Other replicas run now: those that are gone took their caches with them."""
        running = {replica.replica_id for replica in replicas}
        for gone in set(self._affinity) - running:
            self._affinity.forget(gone)
        for gone in set(self._under_way) - running:
            del self._under_way[gone]
        super().update_replicas(replicas)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """A replica was found dead."""
        self._affinity.forget(replica_id)
        super().on_replica_actor_died(replica_id)

    def _take(self, request: PendingRequest, replica: ReplicaID) -> None:
        """Count a request from now on, as others are chosen for before it has arrived there."""
        self._at[request.metadata.internal_request_id] = replica
        self._under_way[replica] += 1

    async def _choose_replica_for_request(self, pending_request: PendingRequest, **kwargs: Any) -> RunningReplica:
        """Called by Ray Serve, which forgets the replica if its caller goes away while this waits."""
        try:
            return await super()._choose_replica_for_request(pending_request, **kwargs)
        except asyncio.CancelledError:
            self._release(pending_request)
            raise

    def _release(self, request: PendingRequest) -> None:
        number = request.metadata.internal_request_id
        if (replica := self._at.get(number)) is not None:
            self.on_request_completed(replica, number)


def _keys(request: PendingRequest) -> list[int]:
    call = request.args[0] if request.args else None
    return call.keys if isinstance(call, Call) else []
