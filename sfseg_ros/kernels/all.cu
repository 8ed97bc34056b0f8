// SPDX-License-Identifier: Apache-2.0
// All kernels in one module.
#include "camera_image.cu"
#include "flow_warp.cu"
#include "gated_flow_fusion.cu"
#include "overlay.cu"
#include "upsample_argmax.cu"
