# SPDX-License-Identifier: Apache-2.0
import sys
from types import TracebackType

from sfseg_ros.errors import no_traceback_of_ctrl_c, one_line
from sfseg_ros.installed_files import install_command


def _explain(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """For sys.excepthook: a missing library is one line, as after `pip install` without extras."""
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("sfseg_ros"):
        ros = "source /opt/ros/DISTRO/setup.bash for ROS, or "
        print(f"{one_line(error)}; {ros}{install_command('demo')}", file=sys.stderr)
    else:
        no_traceback_of_ctrl_c(kind, error, traceback)


# `main` handles Ctrl-C, but the imports come before it, and take a second on a slow machine.
sys.excepthook = _explain
