# SPDX-License-Identifier: Apache-2.0
"""Console scripts that work without ROS in the process: they start nodes, they are none."""
