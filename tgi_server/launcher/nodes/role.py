"""Which part this launcher has among those of several nodes."""

from __future__ import annotations

from tgi_server.config.schema import DType, ServerConfig
from tgi_server.launcher.nodes import agreement
from tgi_server.launcher.nodes.alone import Alone
from tgi_server.launcher.nodes.first import First
from tgi_server.launcher.nodes.other import Other
from tgi_server.launcher.supervise import StopSignals


def of(config: ServerConfig, num_shard: int, dtype: DType, gpu: bool, stop: StopSignals) -> Alone:
    """The nodes of a configuration, to be entered."""
    if config.num_nodes == 1:
        return Alone(stop)
    kind = Other if config.node_rank else First
    return kind(config, num_shard, agreement.of_options(config, num_shard, dtype, gpu), stop)
