# SPDX-License-Identifier: Apache-2.0
"""Kernels of our own for the GPU: the warps of SFNet, labels from scores, images in and out.

Each has a numpy reference that defines correct, a function that says how the kernel is launched,
and the `.cu` file with the kernel itself:

    flow_warp           SFNet's warp (FAM)
    gated_flow_fusion   SFNet-Lite's two warps, gate and sum in one pass (GD-FAM)
    upsample_argmax     class scores -> labels and confidence at full size
    camera_image        a camera's bytes -> the network's input
    overlay             labels -> colour mask, overlay

`sfseg_ros.kernels.host_emulation` compiles the same device code for the CPU and runs it on numpy
arrays: one function per kernel, with the arguments of the reference of that name plus `layout`.
`sfseg_ros.kernels.binaries` compiles it for a GPU, `sfseg_ros.kernels.cuda_memory` runs it there.

Maps are (N, C, H, W) in every signature. In memory they are "linear" (NCHW) or "hwc" (NHWC, dense).
Storage is float32 or float16, arithmetic always float32.
"""

ONNX_DOMAIN = "sfseg"
"""Domain of the operators of these kernels in an ONNX file, and namespace of their plugins."""
