# SPDX-License-Identifier: Apache-2.0
"""Our GPU kernels: the warps of SFNet, labels from scores, camera images in, coloured images out.

Each kernel has a numpy reference that defines the correct result, a function that returns its
launch, and a `.cu` file with the device code:

    flow_warp           SFNet's warp (FAM)
    gated_flow_fusion   SFNet-Lite's two warps, gate and sum in one pass (GD-FAM)
    upsample_argmax     class scores -> labels and confidence at full size
    camera_image        a camera's bytes -> the network's input
    overlay             labels -> colour mask, overlay

`host_emulation` compiles the device code for the CPU and runs it on numpy arrays: one function per
kernel, with the name and arguments of the reference plus `layout`. `binaries` compiles the device
code for a GPU, and `cuda_memory` runs it there.

Maps are (N, C, H, W) in every signature. In memory they are "linear" (NCHW) or "hwc" (NHWC, dense).
Storage is float32 or float16; arithmetic is always float32.
"""

ONNX_DOMAIN = "sfseg"
"""Domain of the operators of these kernels in an ONNX file, and namespace of their plugins."""
