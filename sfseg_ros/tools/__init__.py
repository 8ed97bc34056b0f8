# SPDX-License-Identifier: Apache-2.0
"""Console scripts that work without ROS in the process: they start nodes, they are none."""

import sys

from sfseg_ros.errors import no_traceback_of_ctrl_c

# `main` handles Ctrl-C, but the imports come before it.
sys.excepthook = no_traceback_of_ctrl_c
