# SPDX-License-Identifier: Apache-2.0
"""`python -m sfseg_ros.tools` is `sfseg`."""

import sys

from sfseg_ros.tools.command_line import main

sys.exit(main())
