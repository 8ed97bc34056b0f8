# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: fp32, any size without preparation; on the processor, or on an NVIDIA GPU."""

import contextlib
import re
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from sfseg_ros.backends.cut_graph import check_scores, split_model_of
from sfseg_ros.backends.processor import thread_count, threads_text
from sfseg_ros.backends.protocol import DEFAULT_OPTIONS, BackendOptions, check_images
from sfseg_ros.errors import BackendError, BackendUnavailableError, one_line
from sfseg_ros.imaging import Uint8Array
from sfseg_ros.kernels.cpu_tail import installed_tail
from sfseg_ros.kernels.cuda_memory import LOST, reset_lost_context
from sfseg_ros.model.manifest import Manifest

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
CUDA_MEMORY = "cuda"
# The provider reports a failed CUDA runtime call as number, text and place (its cuda_call.cc).
CUDA_FAILURE = re.compile(r"\bCUDA failure (\d+):")


class OnnxRuntimeBackend:
    """See `Backend`. Nothing is compiled per image size, so a new size costs no time."""

    name = "onnxruntime"
    precisions: tuple[str, ...] = ("fp32",)
    precision = "fp32"
    reason = "asked for"
    scores_stay_on_gpu = False

    def __init__(self, manifest: Manifest, options: BackendOptions = DEFAULT_OPTIONS) -> None:
        self._manifest = manifest
        self._options = ort.SessionOptions()
        self._options.intra_op_num_threads = thread_count(options.threads)
        # Idle threads sleep instead of spinning: other nodes of the robot need the cores, and the
        # trunk's threads would spin while the tail's threads work.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._options.log_severity_level = 3  # errors only; they arrive as exceptions anyway
        model = split_model_of(manifest)
        self._trunk: Any = self._session(model.trunk)
        self._routine = None if self.scores_stay_on_gpu else installed_tail(options.warn)
        self._tails: dict[bool, Any] = {}
        if self._routine is None:
            self._tails = {
                False: self._session(model.labels_tail),
                True: self._session(model.confidence_tail),
            }
        self.description = f"ONNX Runtime {ort.__version__}, fp32, {self._device()}"

    def infer(self, rgb: Uint8Array, confidence: bool) -> tuple[Uint8Array, Uint8Array | None]:
        check_images(self._manifest, rgb)
        trunk, tail = self._trunk, self._tails.get(confidence)
        if trunk is None:
            raise BackendError(f"backend {self.name} is closed: open it again")
        try:
            labels, certainty = self._run(trunk, tail, np.ascontiguousarray(rgb), confidence)
        except BackendError:
            raise
        except Exception as error:  # its exceptions share no base class
            raise self._failure(error) from error
        return labels, certainty

    def close(self) -> None:
        self._trunk, self._tails = None, {}

    def _run(self, trunk: Any, tail: Any, rgb: Uint8Array, confidence: bool) -> Any:
        (scores,) = trunk.run(None, {"image": rgb})
        check_scores(self._manifest, rgb.shape[1:3], scores.shape)
        if self._routine is not None:
            return self._routine.labels_of(scores, self._manifest.output_stride, confidence)
        outputs = tail.run(None, {tail.get_inputs()[0].name: scores})
        return outputs[0], outputs[1] if confidence else None

    def _failure(self, error: Exception) -> BackendError:
        return BackendError(f"ONNX Runtime failed: {one_line(error)}")

    def _device(self) -> str:
        return threads_text(self._options.intra_op_num_threads)

    def _providers(self) -> list[Any]:
        return [CPU]

    def _session(self, model: ModelProto) -> Any:
        try:
            return ort.InferenceSession(
                model.SerializeToString(), self._options, providers=self._providers()
            )
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} refuses {self._manifest.onnx_path}: "
                f"{one_line(error)}"
            ) from error


class OnnxRuntimeCudaBackend(OnnxRuntimeBackend):
    """ONNX Runtime on an NVIDIA GPU, for machines without TensorRT. Never falls back to the CPU.

    The scores stay on the device between the trunk and its tail. Not run on a GPU.
    """

    name = "onnxruntime-cuda"
    scores_stay_on_gpu = True

    def __init__(self, manifest: Manifest, options: BackendOptions = DEFAULT_OPTIONS) -> None:
        if CUDA not in ort.get_available_providers():
            raise BackendUnavailableError(
                f"onnxruntime-cuda: this onnxruntime {ort.__version__} was built without "
                f"{CUDA}: pip uninstall onnxruntime; pip install onnxruntime-gpu"
            )
        self._lost = ""
        super().__init__(manifest, options)

    def close(self) -> None:
        """Release the model, and reset the CUDA context if it was lost. The whole process shares
        the context, so a new backend would otherwise fail like this one."""
        super().close()
        lost, self._lost = self._lost, ""
        if lost:
            with contextlib.suppress(
                BackendError
            ):  # without cuda.bindings the next session reports it
                reset_lost_context(lost)

    def _failure(self, error: Exception) -> BackendError:
        failure = super()._failure(error)
        numbers = {int(number) for number in CUDA_FAILURE.findall(str(error))}
        if not numbers.isdisjoint(LOST.values()):
            failure.lost = True
            self._lost = str(failure)
        return failure

    def _run(self, trunk: Any, tail: Any, rgb: Uint8Array, confidence: bool) -> Any:
        binding = trunk.io_binding()
        binding.bind_cpu_input("image", rgb)
        binding.bind_output(trunk.get_outputs()[0].name, CUDA_MEMORY)
        trunk.run_with_iobinding(binding)
        scores = binding.get_outputs()[0]
        check_scores(self._manifest, rgb.shape[1:3], scores.shape())
        tail_binding = tail.io_binding()
        tail_binding.bind_ortvalue_input(tail.get_inputs()[0].name, scores)
        for output in tail.get_outputs():
            tail_binding.bind_output(output.name, "cpu")
        tail.run_with_iobinding(tail_binding)
        outputs = tail_binding.copy_outputs_to_cpu()
        return outputs[0], outputs[1] if confidence else None

    def _device(self) -> str:
        return "CUDA"

    def _providers(self) -> list[Any]:
        # TF32 would be faster, but the manifest's parity was measured in fp32. Operators that the
        # provider lacks, such as Shape, run on the processor by ONNX Runtime's design.
        return [(CUDA, {"use_tf32": "0"}), CPU]

    def _session(self, model: ModelProto) -> Any:
        """Open a session. Raises BackendUnavailableError if the GPU or the provider's libraries are
        missing; ONNX Runtime itself would use the processor and only log it."""
        session = super()._session(model)
        if CUDA not in session.get_providers():
            raise BackendUnavailableError(
                f"onnxruntime-cuda: ONNX Runtime {ort.__version__} could not start its {CUDA}: "
                "look at nvidia-smi, and install the CUDA and cuDNN libraries that it was built "
                "for (pip install 'onnxruntime-gpu[cuda,cudnn]')"
            )
        session.disable_fallback()  # report errors of the GPU instead of running on the processor
        return session
