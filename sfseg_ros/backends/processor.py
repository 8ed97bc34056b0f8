# SPDX-License-Identifier: Apache-2.0
"""What the processor offers: how many cores this process may use, and whether it has bf16."""

import os
from pathlib import Path

PROCESSOR_INFO = Path("/proc/cpuinfo")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def thread_count(threads: int) -> int:
    """The number of threads to ask a library for; 0 leaves it to the library.

    `threads` > 0 is taken as it is. With 0 the libraries count the machine's cores; where this
    process may use fewer (taskset, a container's CPU limit) their threads would wait for each
    other, so the allowed number is returned.
    """
    if threads > 0:
        return threads
    allowed = usable_cores()
    return allowed if allowed < (os.cpu_count() or 1) else 0


def threads_text(count: int) -> str:
    """For people: the result of `thread_count` in words."""
    if count == 0:
        return "the library's number of threads"
    return "1 thread" if count == 1 else f"{count} threads"


def usable_cores() -> int:
    """Cores that the affinity mask and the container's CPU limit leave to this process."""
    affinity = len(os.sched_getaffinity(0))
    try:
        quota, period = CONTAINER_LIMIT.read_text(encoding="ascii").split()
        return max(1, min(affinity, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return affinity


def bf16_is_faster() -> bool:
    """True if the processor has AMX. AVX-512 BF16 alone is slower than fp32 (docs/adr/0011)."""
    return bf16_unit() == "AMX"


def bf16_unit() -> str | None:
    """The unit that multiplies bf16 ("AMX" or "AVX-512 BF16"), or None if there is none.

    OpenVINO's OPTIMIZATION_CAPABILITIES names BF16 on every processor with AVX-512 and emulates it
    where it is missing, slower than fp32; so the processor itself is asked.
    """
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper() not in ("ALL", "DEFAULT"):
        return None  # somebody limits oneDNN to an older processor; fp32 is safe on all of them
    try:
        text = PROCESSOR_INFO.read_text(encoding="utf-8")
    except OSError:
        return None
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    if "amx_bf16" in flags:
        return "AMX"
    return "AVX-512 BF16" if "avx512_bf16" in flags else None
