# SPDX-License-Identifier: Apache-2.0
"""What the C library does with memory that was freed; glibc only, elsewhere nothing happens."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h
_LARGEST_KEPT_BYTES = 32 * 1024 * 1024  # the most that glibc before 2.36 takes; a 4K image has 25


def keep_large_buffers() -> None:
    """Let the C library keep what it freed instead of giving it back to the kernel.

    Each frame needs buffers of megabytes: received bytes, message, RGB, mask. By default glibc maps
    each anew, and the kernel clears every page of it, which costs more than copying the image:
    benchmarks/node_overhead.json has latency and processor time with and without. The process then
    keeps the memory of its largest frames. In two heaps: by default there are eight per processor,
    each new thread of a library takes another, and each keeps what was freed in it for itself.

    To be called before other threads begin.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, 16 * _LARGEST_KEPT_BYTES)
    mallopt(_M_ARENA_MAX, 2)


def give_back_free_memory() -> None:
    """Give the kernel all pages in which nothing lives.

    For the moment after a model was closed: what it freed lies between what lives on, so that the
    process would grow with each model that it loads. Takes milliseconds, so not for each frame.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    malloc_trim(0)
