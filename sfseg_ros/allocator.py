# SPDX-License-Identifier: Apache-2.0
"""Tune how the C library handles freed memory. On C libraries other than glibc, nothing happens."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h
_LARGEST_KEPT_BYTES = 32 * 1024 * 1024  # the limit of glibc before 2.36; a 4K image has 25


def keep_large_buffers() -> None:
    """Let the C library keep freed memory instead of returning it to the kernel.

    Each frame needs buffers of megabytes: received bytes, message, RGB, mask. By default glibc maps
    new pages for each buffer, and the kernel clears every page, which costs more than copying the
    image (benchmarks/node_overhead.json has latency and processor time for both). With this
    setting the process keeps the memory of its largest frames. It uses two heaps: by default glibc
    makes up to eight per processor, and each heap keeps its freed memory to itself.

    Call this before other threads start.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, 16 * _LARGEST_KEPT_BYTES)
    mallopt(_M_ARENA_MAX, 2)


def give_back_free_memory() -> None:
    """Return all unused pages to the kernel.

    Call this after closing a model. Its freed memory lies between live objects, so the process
    would otherwise grow with each model that it loads. Takes milliseconds: too long for each frame.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    malloc_trim(0)
