# SPDX-License-Identifier: Apache-2.0
import sfseg_ros  # noqa: F401 - turns off telemetry before any module imports a library
