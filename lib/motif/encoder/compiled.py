"""Image towers compiled for one machine: by OpenVINO on a CPU, by TorchInductor on a GPU.

On a CPU, TorchInductor gains less than OpenVINO does (benchmarks/encoder.py), and loses where a
tower has torch's own attention, which runs fast only uncompiled.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from motif.encoder.tower import ImageTower
from motif.errors import InputError

Tower = Callable[[Tensor], tuple[Tensor, ...]]


def by_inductor(tower: ImageTower, size: int, device: torch.device) -> Tower:
    """Compile once for any batch; what fails, fails here and not in mid-run.

    Raises:
        InputError: This machine lacks a compiler.
    """
    compiled = torch.compile(tower, dynamic=True)

    @torch.inference_mode()
    def run(pixels: Tensor) -> tuple[Tensor, ...]:
        if len(pixels) > 1:
            return compiled(pixels)
        # One is a size that would be compiled apart.
        return tuple(rows[:1] for rows in compiled(pixels.repeat(2, 1, 1, 1)))

    try:
        with torch.inference_mode():  # a tensor made outside it would be compiled for apart
            run(torch.zeros(2, size, size, 3, dtype=torch.uint8, device=device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of torch's compiler, of Triton or of the C++ compiler
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
        raise InputError(
            "the encoder cannot be compiled here: that needs Triton and a C++ compiler (g++);"
            f" install them or leave compiling off: {reason}"
        ) from error
    return run


def by_openvino(tower: ImageTower, size: int, precision: torch.dtype) -> Tower:
    """Convert a float32 tower for the CPU, for any batch, with as many threads as torch has.

    Raises:
        InputError: OpenVINO is not installed, or cannot convert this tower.
    """
    try:
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    except ImportError as error:
        raise InputError(
            "compiling the encoder for a CPU needs OpenVINO: pip install 'openvino>=2026.1,<2027',"
            " or leave compiling off"
        ) from error
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    try:
        with torch.no_grad():
            program = torch.export.export(
                tower,
                (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
                dynamic_shapes={"pixels": {0: batch}},
            )
        # Not openvino.convert_model, which reports each use to its makers over the network.
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchFXPythonDecoder.from_exported_program(program)
        model = _core(openvino.Core).compile_model(
            frontend.convert(frontend.load(decoder)),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if precision == torch.bfloat16 else "f32",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
    except Exception as error:  # of torch.export or OpenVINO
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
        raise InputError(
            f"OpenVINO cannot compile this encoder; leave compiling off: {reason}"
        ) from error
    of_thread = threading.local()  # a request runs one batch at a time

    def run(pixels: Tensor) -> tuple[Tensor, ...]:
        if not hasattr(of_thread, "request"):
            of_thread.request = model.create_infer_request()
        outputs = of_thread.request.infer([pixels.numpy()], share_inputs=True)
        return tuple(torch.from_numpy(rows) for rows in outputs.values())

    return run


@functools.cache
def _core(make: Callable[[], Any]) -> Any:
    """Return this process's only one, which lives as long as the process.

    Each gives its thread a stack for signals and, when it goes, the one from before. Where the
    older of two goes first, that one is freed by then: the next signal would end the process.
    """
    return make()
