# SPDX-License-Identifier: Apache-2.0
"""Facts about the GPU and its machine, their limits, and how the kernels compile there.

Started by benchmarks/gpu.py.
"""

import argparse
import importlib
import re
import shutil
import statistics
import subprocess
import time
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_device import Device, Report, copy_work, device_of, matrix_product
from sfseg_ros.kernels import binaries
from sfseg_ros.tools.machine import machine_facts

PACKAGES = ("torch", "triton", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "cuda-bindings")
QUERY = (
    "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,"
    "temperature.gpu"
)
COPY_BYTES, HOST_BYTES = 2**32, 2**28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    report = Report(arguments.result, arguments.seconds)
    report.put("machine", dict(machine_facts()))
    report.put("packages", dict(versions()))
    report.attempt("nvidia-smi", lambda: report.put("nvidia-smi", nvidia_smi()))
    device = device_of(arguments.rehearse)
    report.attempt("device", lambda: report.put("device", facts(device)))
    for compiler in ("NVRTC", "nvcc"):
        report.attempt(compiler, partial(build, report, device, compiler))
    report.attempt("ceilings", lambda: report.put("ceilings", ceilings(device)))
    for name in ("ceilings", "device", "compilers"):
        print(name, report.found.get(name), flush=True)


def versions() -> list[tuple[str, str]]:
    found = []
    for package in PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            found.append((package, "missing"))
    return found


def nvidia_smi() -> dict[str, str]:
    output = subprocess.run(
        ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    return dict(
        zip(QUERY.split(","), (field.strip() for field in output.splitlines()[0].split(",")))
    )


def facts(device: Device) -> dict[str, Any]:
    if device.rehearsal:
        return {"name": "the processor"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "compute_capability": 10 * properties.major + properties.minor,
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda_of_torch": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def build(report: Report, device: Device, compiler: str) -> None:
    """Compile all kernels for this GPU with one compiler. Reports seconds, bytes, registers and
    spills, and whether the driver loads the result."""
    architecture = 90 if device.rehearsal else facts(device)["compute_capability"]
    begin = time.perf_counter()
    if compiler == "NVRTC":
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        cubin, log = binaries.compiled_by_nvrtc(nvrtc, architecture)
    else:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise FileNotFoundError("nvcc is not on the PATH")
        cubin, log = binaries.compiled_by_nvcc(nvcc, architecture)
    row: dict[str, Any] = {
        "architecture": architecture,
        "seconds": round(time.perf_counter() - begin, 2),
        "bytes": len(cubin),
        "most_registers": max(map(int, re.findall(r"Used (\d+) registers", log)), default=None),
        "bytes_spilled": sum(map(int, re.findall(r"(\d+) bytes spill", log))),
    }
    report.put("compilers", {**report.found.get("compilers", {}), compiler: row})
    if not device.rehearsal:
        from sfseg_ros.kernels.cuda_memory import call

        torch.zeros(1, device=device.torch_device)  # makes the context current
        call("cuModuleUnload", call("cuModuleLoadData", cubin))
        row["loads"] = True
        report.put("compilers", report.found["compilers"])


def ceilings(device: Device) -> dict[str, float]:
    """Measure copies on the device (bytes read and written) and to and from pinned memory in GB/s,
    and the matrix rate on random data. Each value is a median."""
    rounds = 2 if device.rehearsal else 20
    shrink = 2**16 if device.rehearsal else 1
    copy, copied = copy_work(device, COPY_BYTES // shrink)
    product, operations = matrix_product(device)
    host = torch.empty(HOST_BYTES // shrink, dtype=torch.uint8, pin_memory=not device.rehearsal)
    memory = torch.empty_like(host, device=device.torch_device)
    works = {
        "copy": copy,
        "product": product,
        "upload": lambda: memory.copy_(host, non_blocking=True),
        "download": lambda: host.copy_(memory, non_blocking=True),
    }
    # In sequence: an upload during a copy would share the memory's bandwidth.
    ms = {
        name: statistics.median(device.times_ms({name: work}, rounds)[name])
        for name, work in works.items()
    }
    return {
        "copy_gb_per_s": copied / ms["copy"] / 1e6,
        "matrix_fp16_tflops": operations / ms["product"] / 1e9,
        "upload_gb_per_s": host.numel() / ms["upload"] / 1e6,
        "download_gb_per_s": host.numel() / ms["download"] / 1e6,
    }


if __name__ == "__main__":
    main()
