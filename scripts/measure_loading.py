"""Loading against plain reads of the same files, and its memory. See scripts/measure-loading.

Each load is a process of its own. Its memory is what its resident set grows by at the peak: all that it allocates and
all that it maps of files (VmHWM of /proc/PID/status, which the kernel keeps). Pages that the system caches of files are
not counted: it gives them to whoever needs memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from math import prod
from pathlib import Path

from tgi_server.config import parts
from tgi_server.config.base import Part
from tgi_server.config.schema import DType, ServerConfig
from tgi_server.models.check import ITEM_BYTES
from tgi_server.models.description import Description
from tgi_server.models.families import read_spec
from tgi_server.models.files import weight_files


def drop(directory: Path) -> None:
    """Have the system forget what it caches of the files."""
    for path in weight_files(directory):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_to_nowhere(directory: Path) -> float:
    """Seconds to read the files into one small buffer, as `cat FILE > /dev/null` does."""
    begin, buffer = time.perf_counter(), bytearray(1 << 20)
    for path in weight_files(directory):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - begin


def read_into_memory(directory: Path) -> float:
    """Seconds to have the files in memory."""
    begin = time.perf_counter()
    kept = [path.read_bytes() for path in weight_files(directory)]
    seconds = time.perf_counter() - begin
    del kept
    return seconds


METHODS = {name: path for name, path in parts.choices("quantize").items() if name in ("eetq", "bitsandbytes-nf4")}
"""Those that quantise while they load, one of each size."""


def weight_bytes(spec: Description, dtype: DType, quantized: float | None) -> float:
    """What the weights take once they are loaded: one copy of each, in the dtype it is computed with, or in so many
    bytes."""
    item = ITEM_BYTES[dtype]
    linear = spec.layers()[0] + "."
    return sum(
        prod(shape) * (quantized if quantized and len(shape) > 1 and name.startswith(linear) else item)
        for name, shape in spec.tensors()
    )


def resident(field: str) -> int:
    """Bytes of this process: VmRSS, now, or VmHWM, the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def load_once(directory: Path, dtype: DType, quantize: str | None) -> dict[str, float]:
    """Load in this process: seconds, bytes at the peak and afterwards, and those of the weights."""
    import torch

    from tgi_server.kernels.native.build import NativeError, library
    from tgi_server.kernels.row import Needs
    from tgi_server.models.load import load_model

    try:
        library()  # compiled once, which is no part of loading
    except NativeError as error:
        print(f"no compiled kernels: {error}", file=sys.stderr)
    spec = read_spec(directory, ServerConfig())
    method = None if quantize is None else parts.instantiate(Part(METHODS[quantize]))
    needs = Needs(device=torch.device("cpu"), dtype=getattr(torch, dtype.value))
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before = resident("VmRSS")
    begin = time.perf_counter()
    model = load_model(directory, spec, needs, 128, method)
    seconds = time.perf_counter() - begin
    peak, after = resident("VmHWM") - before, resident("VmRSS") - before
    del model
    weights = weight_bytes(spec, dtype, method and method.reader(None).weight_bytes)
    return {"seconds": seconds, "peak": peak, "after": after, "weights": weights}


def main() -> None:
    parser = argparse.ArgumentParser(prog="measure-loading", description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="of each kind, in turns; medians are printed")
    parser.add_argument("--cold", action="store_true", help="from the disk each time, not from the system's cache")
    parser.add_argument("--dtype", type=DType, choices=list(DType), default=DType.bfloat16)
    parser.add_argument("--quantize", choices=list(METHODS))
    parser.add_argument("--once", action="store_true", help="load in this process and print what was measured as JSON")
    given = parser.parse_args()
    if given.once:
        print(json.dumps(load_once(given.directory, given.dtype, given.quantize)))
        return
    command = [sys.executable, "-m", "scripts.measure_loading", *sys.argv[1:], "--once"]
    nowhere, memory, loads = [], [], []
    size = sum(path.stat().st_size for path in weight_files(given.directory))
    for _ in range(given.rounds):
        for times, read in ((nowhere, read_to_nowhere), (memory, read_into_memory)):
            if given.cold:
                drop(given.directory)
            times.append(read(given.directory))
        if given.cold:
            drop(given.directory)
        loads.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    seconds = statistics.median(load["seconds"] for load in loads)
    for what, times in (("read to nowhere", nowhere), ("read into memory", memory)):
        median = statistics.median(times)
        print(f"{what}: {size / median / 1e9:.2f} GB/s; loading has {median / seconds:.2f} times that speed")
    peak, after, weights = (max(load[name] for load in loads) for name in ("peak", "after", "weights"))
    print(f"loaded in {seconds:.2f} s, {size / seconds / 1e9:.2f} GB/s of the file")
    print(f"memory: {peak / weights:.3f} times the weights at the peak, {after / weights:.3f} times afterwards")


if __name__ == "__main__":
    main()
