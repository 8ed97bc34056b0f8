# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation of camera frames in ROS 2 with SFNet-Lite models.

Importing the package turns off the telemetry of OpenVINO and ONNX Runtime before any module can
import them. `training` and `benchmarks` import this package first.
"""

import os
import sys

# `import openvino` starts a process that reports to an analytics host and writes ~/intel. Without
# this module, OpenVINO takes the stub that it ships for the case.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
# From 1.31 on, ONNX Runtime's wheel for Linux has a client that reports to an analytics host and
# writes a device id below ~/.cache/Microsoft. Child processes inherit the variable.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
