# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import numpy as np
import pytest

from sfseg_ros.backends import processor
from sfseg_ros.backends.processor import (
    bf16_is_faster,
    bf16_unit,
    thread_count,
    threads_text,
    usable_cores,
)
from sfseg_ros.backends.protocol import BackendOptions
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import cpu_tail

AMX = "processor: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n"
AVX512_BF16 = "processor: 0\nflags\t\t: fpu avx512f avx512_bf16\n"
AVX512 = "processor: 0\nflags\t\t: fpu avx512f avx512_vnni\n"
ARM = "processor: 0\nFeatures\t: fp asimd bf16\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Stands in for another machine: its /proc/cpuinfo, cgroup limit and cores."""

    def pretend(info=AVX512, limit=None, cores=8, affinity=8):
        (tmp_path / "cpuinfo").write_text(info)
        monkeypatch.setattr(processor, "PROCESSOR_INFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(processor, "CONTAINER_LIMIT", tmp_path / "cpu.max")
        if limit is not None:
            (tmp_path / "cpu.max").write_text(limit)
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)))
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)

    return pretend


@pytest.mark.parametrize(
    ("info", "unit"),
    [(AMX, "AMX"), (AVX512_BF16, "AVX-512 BF16"), (AVX512, None), (ARM, None), ("", None)],
)
def test_bf16_needs_a_unit_of_the_processor(machine, info, unit):
    machine(info)
    assert bf16_unit() == unit
    assert bf16_is_faster() == (unit == "AMX")


def test_no_processor_info_means_no_bf16(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "PROCESSOR_INFO", tmp_path / "missing")
    assert bf16_unit() is None


def test_a_limited_onednn_gets_no_bf16(machine, monkeypatch):
    machine(AMX)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert bf16_unit() is None


def test_without_bf16_unit_openvino_chooses_fp32_and_refuses_bf16(machine, tiny_manifest):
    pytest.importorskip("openvino")
    from sfseg_ros.backends.openvino_backend import OpenVinoBackend

    machine(AVX512)
    assert "fp32" in OpenVinoBackend(tiny_manifest).description
    with pytest.raises(BackendError, match="neither AMX nor AVX-512 BF16") as caught:
        OpenVinoBackend(tiny_manifest, BackendOptions("bf16"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("info", "precision", "hint"),
    [
        (AMX, "auto", "bf16"),
        (AMX, "bf16", "bf16"),
        (AMX, "fp32", "f32"),
        (AVX512_BF16, "auto", "f32"),
        (AVX512_BF16, "bf16", "bf16"),
        (AVX512, "auto", "f32"),
        (ARM, "auto", "f32"),
    ],
)
def test_openvino_is_told_its_precision(machine, monkeypatch, tiny_manifest, info, precision, hint):
    pytest.importorskip("openvino")
    from sfseg_ros.backends import openvino_backend

    machine(info)
    told = []
    compile_model = openvino_backend.ov.Core.compile_model

    def compile_and_note(core, model, device, options):
        told.append(options["INFERENCE_PRECISION_HINT"])
        # This machine may lack the unit.
        return compile_model(core, model, device, options | {"INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(cpu_tail, "LIBRARY", Path("not built"))
    monkeypatch.setattr(openvino_backend.ov.Core, "compile_model", compile_and_note)
    backend = openvino_backend.OpenVinoBackend(tiny_manifest, BackendOptions(precision))
    backend.infer(np.zeros((1, 64, 96, 3), np.uint8), confidence=False)
    assert told == [hint, "f32"]  # the trunk, then the tail of OpenVINO's operators
    assert backend.precision == {"bf16": "bf16", "f32": "fp32"}[hint]
    assert backend.precision in backend.description


@pytest.mark.parametrize(
    ("limit", "affinity", "cores"),
    [
        (None, 8, 8),
        ("max 100000", 8, 8),
        ("200000 100000", 8, 2),
        ("250000 100000", 8, 2),
        ("50000 100000", 8, 1),
        ("nonsense", 3, 3),
        ("400000 100000", 3, 3),
    ],
)
def test_usable_cores_are_what_affinity_and_container_leave(machine, limit, affinity, cores):
    machine(limit=limit, affinity=affinity)
    assert usable_cores() == cores


def test_all_cores_are_left_to_the_library(machine):
    machine()
    assert thread_count(0) == 0
    assert threads_text(0) == "the library's number of threads"


def test_fewer_cores_than_the_machine_has_become_a_number(machine):
    machine(limit="200000 100000")
    assert thread_count(0) == 2


def test_a_number_of_threads_is_taken_as_it_is(machine):
    machine(limit="200000 100000")
    assert thread_count(5) == 5
    assert threads_text(5) == "5 threads"
