# SPDX-License-Identifier: Apache-2.0
"""Kernel launches: name, grid and scalar arguments.

The arguments of every kernel are pointers to the inputs, then `scalars`, then pointers to the
outputs. All arrays are dense. Pointers may have any alignment; 16 bytes is fastest.
"""

from dataclasses import dataclass
from typing import TypeAlias

from sfseg_ros.errors import BackendError

Shape: TypeAlias = "tuple[int, ...]"

ITEM_BYTES = {"float32": 4, "float16": 2, "uint8": 1}
SUFFIXES = {"float32": "f32", "float16": "f16", "uint8": "u8"}
LAYOUTS = ("linear", "hwc")
VECTOR_BYTES = 16
BLOCK_THREADS = 256
PIXEL_TILE = (4, 16, 4)
"""A block of channels-last maps: threads per pixel, columns, rows. The threads of a pixel read
neighbouring vectors, 64 bytes at once. Each thread reads several vectors, because every thread
computes the pixel's position. A block has several rows, because neighbouring rows sample the same
pixels, which are then still in L1."""
# The device code counts elements in 32 bits, up to one image beyond the end of an image.
MAX_ELEMENTS = 10**9
# Positions are float32, which skips whole pixels from 2**24 on; upsample_argmax.cu would then write
# outside its tile. reciprocal_of is exact up to 2.7 million.
MAX_MAP_SIDE = 2**21
MAX_GRID_YZ = 65535


@dataclass(frozen=True)
class Launch:
    """One kernel launch. `grid` in blocks and `block` in threads, each (x, y, z).

    An int in `scalars` is passed as int32, a float as float32. `bytes_moved` is the minimum that
    the kernel moves through device memory: it reads each input once and writes each output once.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    scalars: tuple[int | float, ...]
    shared_bytes: int = 0
    bytes_moved: int = 0

    def __post_init__(self) -> None:
        if min(self.grid) < 1 or max(self.grid[1:]) > MAX_GRID_YZ:
            raise BackendError(
                f"{self.kernel}: grid {self.grid} of blocks, expected 1 to {MAX_GRID_YZ} in y and z"
            )


def check_map(name: str, shape: Shape, channels: int | None = None) -> None:
    """Raise BackendError unless `shape` is a non-empty (N, C, H, W) that kernels can index."""
    expected = f"(N, {'C' if channels is None else channels}, H, W)"
    if len(shape) != 4 or min(shape) < 1 or (channels is not None and shape[1] != channels):
        raise BackendError(f"{name} has shape {tuple(shape)}, expected {expected} without 0")
    if max(shape[2:]) > MAX_MAP_SIDE:
        raise BackendError(f"{name} is {shape[2]}x{shape[3]}, expected sides up to {MAX_MAP_SIDE}")
    if elements(shape[1:]) > MAX_ELEMENTS:
        raise BackendError(
            f"{name} has {elements(shape[1:])} elements per image, expected up to {MAX_ELEMENTS}"
        )


def check_storage(dtype: str, layout: str, other_dtype: str = "float32") -> None:
    """Raise BackendError unless a kernel exists for these. `other_dtype` is the dtype of flow and
    gate."""
    if dtype not in ("float32", "float16") or layout not in LAYOUTS:
        raise BackendError(
            f"no kernel for {dtype} in layout {layout}: expected float32 or float16 in "
            f"{' or '.join(LAYOUTS)}"
        )
    if other_dtype not in ("float32", dtype):
        raise BackendError(f"flow is {other_dtype}, expected float32 or {dtype} as the features")


def elements(shape: Shape) -> int:
    """Return the number of elements of an array of `shape`."""
    count = 1
    for size in shape:
        count *= size
    return count


def blocks(count: int, per_block: int) -> int:
    """Return the number of blocks for `count` items. The last block may be partly empty."""
    return -(-count // per_block)
