# SPDX-License-Identifier: Apache-2.0
"""The command `sfseg`. It runs without ROS in its own process; `sfseg demo` starts ROS nodes."""

import sys

from sfseg_ros.errors import no_traceback_of_ctrl_c

# `main` handles Ctrl-C, but the imports come before it.
sys.excepthook = no_traceback_of_ctrl_c
