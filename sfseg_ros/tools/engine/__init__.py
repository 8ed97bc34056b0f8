# SPDX-License-Identifier: Apache-2.0
"""`sfseg engine`: TensorRT engines of a model directory, one module per subcommand.

Engines are stored in $SFSEG_CACHE_DIR or ~/.cache/sfseg_ros; the node finds them there.
"""
