# SPDX-License-Identifier: Apache-2.0
"""How a kernel is started: its name, its grid and its scalar arguments.

Arguments of every kernel are pointers to the inputs, then `scalars`, then pointers to the outputs.
All arrays are dense; a pointer of any alignment is right, one of 16 bytes is fast.
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
"""A block of channels-last maps: threads per pixel, columns, rows. Neighbouring threads of a pixel
read neighbouring vectors, 64 bytes at once, and each takes several, because all of them compute the
pixel's position. Several rows, because neighbouring rows sample the same pixels, which are then
still in L1."""
# The device code counts the elements of one image in 32 bits, up to one image beyond its end.
MAX_ELEMENTS = 10**9
# Positions are float32, which from 2**24 on skips whole pixels: upsample_argmax.cu would then write
# beyond its tile. reciprocal_of is exact up to 2.7 million.
MAX_MAP_SIDE = 2**21
MAX_GRID_YZ = 65535


@dataclass(frozen=True)
class Launch:
    """One kernel launch. `grid` in blocks and `block` in threads, each (x, y, z).

    An int of `scalars` is passed as int32, a float as float32. `bytes_moved` is the least that the
    kernel must move through device memory: each input read once, each output written once.
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
    """Raises BackendError unless `shape` is a non-empty (N, C, H, W) that kernels can count."""
    expected = f"(N, {'C' if channels is None else channels}, H, W)"
    if len(shape) != 4 or min(shape) < 1 or (channels is not None and shape[1] != channels):
        raise BackendError(f"{name} has shape {tuple(shape)}, expected {expected}, none of them 0")
    if max(shape[2:]) > MAX_MAP_SIDE:
        raise BackendError(f"{name} is {shape[2]}x{shape[3]}, expected sides up to {MAX_MAP_SIDE}")
    if elements(shape[1:]) > MAX_ELEMENTS:
        raise BackendError(
            f"{name} has {elements(shape[1:])} elements per image, expected up to {MAX_ELEMENTS}"
        )


def check_storage(dtype: str, layout: str, other_dtype: str = "float32") -> None:
    """Raises BackendError unless there is a kernel for these; `other_dtype` is that of flow and
    gate."""
    if dtype not in ("float32", "float16") or layout not in LAYOUTS:
        raise BackendError(
            f"no kernel for {dtype} in layout {layout}: expected float32 or float16 in "
            f"{' or '.join(LAYOUTS)}"
        )
    if other_dtype not in ("float32", dtype):
        raise BackendError(f"flow is {other_dtype}, expected float32 or {dtype} as the features")


def elements(shape: Shape) -> int:
    """Number of elements of an array of `shape`."""
    count = 1
    for size in shape:
        count *= size
    return count


def blocks(count: int, per_block: int) -> int:
    """Blocks for `count` items, the last one perhaps not full."""
    return -(-count // per_block)
