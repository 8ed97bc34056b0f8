# SPDX-License-Identifier: Apache-2.0
"""How many cores this process may use, and whether the processor has bf16 instructions."""

import os
from pathlib import Path

PROCESSOR_INFO = Path("/proc/cpuinfo")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def thread_count(threads: int) -> int:
    """Return the number of threads to request from a library, 0 for the library's own choice.

    A positive `threads` is returned unchanged. If it is 0, the libraries use one thread per core of
    the machine. If this process may use fewer cores (taskset, a container's CPU limit), their
    threads would wait for each other, so the number of allowed cores is returned instead.
    """
    if threads > 0:
        return threads
    allowed = usable_cores()
    return allowed if allowed < (os.cpu_count() or 1) else 0


def threads_text(count: int) -> str:
    """Describe a result of `thread_count` in words."""
    if count == 0:
        return "the library's number of threads"
    return "1 thread" if count == 1 else f"{count} threads"


def usable_cores() -> int:
    """Return the number of cores that the affinity mask and the container's CPU limit allow."""
    affinity = len(os.sched_getaffinity(0))
    try:
        quota, period = CONTAINER_LIMIT.read_text(encoding="ascii").split()
        return max(1, min(affinity, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return affinity


def bf16_is_faster() -> bool:
    """Return whether the processor has AMX. AVX-512 BF16 alone is slower than fp32 (ADR 11)."""
    return bf16_unit() == "AMX"


def bf16_unit() -> str | None:
    """Return the unit that multiplies bf16 ("AMX" or "AVX-512 BF16"), or None.

    OpenVINO's OPTIMIZATION_CAPABILITIES lists BF16 on every processor with AVX-512. If the unit is
    missing, OpenVINO emulates it, slower than fp32. So this function asks the processor itself.
    """
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper() not in ("ALL", "DEFAULT"):
        return None  # oneDNN is limited to an older instruction set; fp32 works with all of them
    try:
        text = PROCESSOR_INFO.read_text(encoding="utf-8")
    except OSError:
        return None
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    if "amx_bf16" in flags:
        return "AMX"
    return "AVX-512 BF16" if "avx512_bf16" in flags else None
