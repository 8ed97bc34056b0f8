# SPDX-License-Identifier: Apache-2.0
"""`python -m sfseg_ros.tools.end_with_parent PID MODULE [ARGUMENTS]`: run a module that the kernel
ends (SIGTERM) when its parent, the process PID, ends in any way, `kill -9` included.

Linux only. The parent is in fact the thread that starts this process, so start it from a thread
that lives as long as its process.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with_parent(pid: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends. Ends at once if the parent is not `pid`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != pid:  # the parent has ended before the call
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
