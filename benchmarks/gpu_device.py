# SPDX-License-Identifier: Apache-2.0
"""How the GPU benchmarks run and time work: on a GPU, or rehearsed on the processor.

A rehearsal runs every benchmark with tiny sizes and the kernels compiled for the processor. Its
times mean nothing, but it finds errors without a GPU.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfseg_ros.kernels.launch import Launch

Work = Callable[[], object]
L2_TIMES = 4
"""Total size of the sets of buffers, in L2 cache sizes, so that the cache never holds the next
set."""
MAX_SETS = 64


class CudaDevice:
    """The current GPU. Work is queued on torch's current stream."""

    torch_device = torch.device("cuda")
    rehearsal = False

    def __init__(self) -> None:
        from sfseg_ros.kernels.cuda_memory import Gpu

        # The last Gpu to close unloads the kernels, which captured graphs still launch.
        self._gpu = Gpu()
        properties = torch.cuda.get_device_properties(0)
        self.l2_bytes = int(properties.L2_cache_size)
        product, _ = matrix_product(self)
        for _ in range(300):  # raise the clocks to those under load: 0.4 s on an H200
            product()
        torch.cuda.synchronize()

    def upload(self, target: Tensor, source: Tensor) -> None:
        """Copy from pinned memory, in the current stream. This calls the driver, because torch
        records its own copies of pinned memory, which a capture may refuse."""
        self._copy("cuMemcpyHtoDAsync", target, source)

    def download(self, target: Tensor, source: Tensor) -> None:
        """Copy to pinned memory, in the current stream."""
        self._copy("cuMemcpyDtoHAsync", target, source)

    def _copy(self, function: str, target: Tensor, source: Tensor) -> None:
        from sfseg_ros.kernels.cuda_memory import call, driver

        stream = driver().CUstream(torch.cuda.current_stream().cuda_stream)
        call(function, target.data_ptr(), source.data_ptr(), source.nbytes, stream)

    def launch(self, launch: Launch, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Put one of our kernels into the current stream."""
        from sfseg_ros.kernels.cuda_memory import launch_kernel

        stream = torch.cuda.current_stream().cuda_stream
        launch_kernel(
            launch, [t.data_ptr() for t in inputs], [t.data_ptr() for t in outputs], stream
        )

    def graph(self, work: Work) -> Work:
        """Capture `work` after three warm-up runs. Returns a function that replays it."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        torch.cuda.synchronize()
        return graph.replay

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def times_ms(self, works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
        """Measure the device time of each work, interleaved: one run of each per round, in turn.

        The host runs ahead of the device, so its launches do not count. Meant for replays of
        graphs.
        """
        names = list(works)
        pairs: dict[str, list[tuple[Any, Any]]] = {name: [] for name in names}
        for turn in range(rounds + 3):
            for name in _turned(names, turn):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                works[name]()
                end.record()
                pairs[name].append((begin, end))
        torch.cuda.synchronize()
        return {name: [a.elapsed_time(b) for a, b in pairs[name][3:]] for name in names}


class Rehearsal:
    """The processor, used in place of a GPU."""

    torch_device = torch.device("cpu")
    rehearsal = True
    l2_bytes = 1

    def __init__(self) -> None:
        from sfseg_ros.kernels.host_emulation import HostKernels

        self._kernels = HostKernels()

    def launch(self, launch: Launch, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self._kernels.run(launch, [_bytes(t) for t in inputs], [_bytes(t) for t in outputs])

    def upload(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source)

    download = upload

    def graph(self, work: Work) -> Work:
        work()
        return work

    def synchronize(self) -> None:
        pass

    def times_ms(self, works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
        return latencies_ms(self, works, rounds)


Device = CudaDevice | Rehearsal


def device_of(rehearse: bool) -> Device:
    return Rehearsal() if rehearse else CudaDevice()


def latencies_ms(device: Device, works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Measure the host's time from the call until the device is done, interleaved."""
    names = list(works)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 3):
        for name in _turned(names, turn):
            device.synchronize()
            begin = time.perf_counter()
            works[name]()
            device.synchronize()
            found[name].append((time.perf_counter() - begin) * 1e3)
    return {name: times[3:] for name, times in found.items()}


def statistics_of(times_ms: Sequence[float], calls: int = 1) -> dict[str, float]:
    """Return median, p99 and minimum of one call in ms; each time covers `calls` calls."""
    ordered = sorted(t / calls for t in times_ms)
    last = min(len(ordered) - 1, int(0.99 * len(ordered)))
    return {
        "median_ms": statistics.median(ordered),
        "p99_ms": ordered[last],
        "min_ms": ordered[0],
        "rounds": len(ordered),
    }


def times_faster(reference_ms: Sequence[float], ours_ms: Sequence[float]) -> float:
    """Return the median over the rounds of reference / ours."""
    return statistics.median(r / o for r, o in zip(reference_ms, ours_ms, strict=True))


def sets_past_cache(device: Device, bytes_moved: int) -> int:
    """Return the number of sets of buffers to cycle through so that none stays in the L2 cache."""
    if device.rehearsal:
        return 2
    return max(2, min(MAX_SETS, -(-L2_TIMES * device.l2_bytes // bytes_moved)))


def copy_work(device: Device, size: int) -> tuple[Work, int]:
    """Return a copy of `size` random bytes on the device, and the bytes read and written."""
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device.torch_device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * size


def matrix_product(device: Device) -> tuple[Work, float]:
    """Return an fp16 product of random square matrices and its floating-point operations."""
    n = 64 if device.rehearsal else 8192
    a, b = (
        torch.randn(n, n, device=device.torch_device, dtype=torch.float16) / n**0.5
        for _ in range(2)
    )
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2.0 * n**3


class Report:
    """The results of a part. Each entry is written to disk at once, so a crash loses none."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.found: dict[str, Any] = {}
        self._deadline = time.monotonic() + seconds

    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    def add(self, key: str, value: Any) -> None:
        """Append `value` to the list `key`."""
        self.found.setdefault(key, []).append(value)
        self._write()

    def put(self, key: str, value: Any) -> None:
        self.found[key] = value
        self._write()

    def attempt(self, what: str, work: Callable[[], Any], needs_s: float = 0.0) -> Any:
        """Return the result of `work`. If it raises, or if less than `needs_s` remains, add the
        exact reason to `not_measured` and return None. An error that ends all work of this process
        on the GPU is also recorded, and raised again."""
        if self.seconds_left() < needs_s:
            reason = f"{self.seconds_left():.0f} s were left, {needs_s:.0f} s are needed"
        else:
            try:
                return work()
            except Exception as error:  # from any library under test; recorded below
                reason = f"{type(error).__name__}: {error}"[:4000]
                self._say(what, reason)
                if _context_is_lost():
                    raise  # all later calls would fail with the same error
                return None
        self._say(what, reason)
        return None

    def _say(self, what: str, reason: str) -> None:
        print(f"not measured: {what}: {reason.splitlines()[0][:300]}", flush=True)
        self.add("not_measured", {"what": what, "reason": reason})

    def _write(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)


def _context_is_lost() -> bool:
    """Return whether a kernel's error has ended all work of this process on the GPU."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _turned(names: list[str], turn: int) -> list[str]:
    start = turn % max(len(names), 1)
    return names[start:] + names[:start]


def _bytes(tensor: Tensor) -> Any:
    """Return the tensor's memory as a flat uint8 numpy array, in its own order."""
    storage = tensor.untyped_storage()
    first = tensor.storage_offset() * tensor.element_size()
    flat = torch.empty(0, dtype=torch.uint8).set_(storage)
    return flat[first : first + tensor.numel() * tensor.element_size()].numpy()
