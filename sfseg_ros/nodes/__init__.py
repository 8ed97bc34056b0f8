# SPDX-License-Identifier: Apache-2.0
import sys

from sfseg_ros.errors import no_traceback_of_ctrl_c

# `main` handles Ctrl-C, but the imports come before it, and take a second on a slow machine.
sys.excepthook = no_traceback_of_ctrl_c
