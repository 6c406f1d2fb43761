"""vLLM's engine: one in a process, opened when first asked for, kept while it serves, closed before another opens.

vLLM keeps process groups and settings in the process itself, and an engine that goes takes those of any other along.
"""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import release_memory

from preflab.errors import UserError
from preflab.settings.training import INSTALL_VLLM

logger = logging.getLogger(__name__)

CPU_WIDTH = 32
"""The narrowest attention heads, in numbers, that vLLM's kernels for CPUs know."""

_held: list[tuple[dict[str, Any], Any]] = []  # the engine at hand and what it was made with; none or one


def import_vllm() -> Any:
    """Import vLLM, late, told to send nothing, to leave errors to us and to schedule in the same order each time.

    Raises:
        UserError: if it is not there.
    """
    os.environ.update(VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
    try:
        import vllm
    except ImportError as error:
        raise UserError(f"vLLM cannot be imported ({error}): {INSTALL_VLLM}, or set sampler to transformers") from error
    return vllm


def on_cpu() -> bool:
    """Whether the vLLM that is installed computes on the CPU."""
    import_vllm()
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def engine_dtype(base: torch.dtype, cpu: bool) -> str:
    """Return the type of an engine beside a base: the base's own, but for one in float32 on CUDA.

    There vLLM's adapters know half precision alone; of its two types bfloat16 is the one that no weight overflows.
    """
    if base == torch.float32:
        return "float32" if cpu else "bfloat16"
    return str(base).removeprefix("torch.")


def opened(model: str, base: torch.dtype, memory: float, **options: Any) -> Any:
    """Return the engine made with these options: the one at hand, or a new one in its place.

    Args:
        model: folder or hub name of the base.
        base: the type in which ours scores.
        memory: share of the GPU's memory that the engine takes and keeps; on a CPU, share of the machine's memory
            that it keeps for keys and values alone.
        options: the rest of what ``vllm.LLM`` takes.

    Raises:
        UserError: if vLLM is not there, cannot open the base, or this process is one of several that train together.
    """
    asked = {"model": model, "base": base, "memory": memory, **options}
    if _held and _held[0][0] == asked:
        return _held[0][1]
    close()
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise UserError(
            "vLLM in the processes of a launcher would join their process group; start the run with python, or set "
            "sampler to transformers"
        )
    vllm, cpu = import_vllm(), on_cpu()
    dtype = engine_dtype(base, cpu)
    if dtype != str(base).removeprefix("torch."):
        logger.warning("vLLM samples this float32 base in %s, as its adapters on CUDA must; see sampler_gap", dtype)
    try:
        with _process_left_alone():
            made = vllm.LLM(model=model, dtype=dtype, **_on_this(memory, cpu), **options)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"vLLM cannot open {model!r} with vllm_memory {memory}: {error}; change that share, or set sampler to "
            "transformers"
        ) from error
    _held.append((asked, made))
    return made


def close() -> None:
    """Give up the engine at hand: its memory, and whatever its caches hold."""
    while _held:
        _, engine = _held.pop()
        engine.llm_engine.engine_core.shutdown()
        del engine
    release_memory()


def check_base(model: str, trust_remote_code: bool = False) -> None:
    """Refuse a base that vLLM could not run here, before anything is trained on it.

    Raises:
        UserError: if its attention heads are too narrow for a CPU.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code).get_text_config()
    # A model without attention has no heads.
    heads = getattr(config, "num_attention_heads", None)
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else CPU_WIDTH)
    if on_cpu() and width < CPU_WIDTH:
        raise UserError(
            f"vLLM on a CPU takes attention heads of {CPU_WIDTH} numbers or more, and those of {model!r} have {width}; "
            "set sampler to transformers"
        )


def _on_this(share: float, cpu: bool) -> dict[str, Any]:
    """Return the options of a GPU's engine or a CPU's, with its memory.

    On a CPU vLLM's own share would count what this process has taken already, whatever for, and fail where that is
    more; and a prompt that it cut in two there would end in an error, as a CPU's generators cannot be turned back.
    """
    if not cpu:
        torch.cuda.empty_cache()
        return {"gpu_memory_utilization": share}
    from vllm.platforms import current_platform

    size = int(share * current_platform.get_device_total_memory())
    given = os.environ.get("VLLM_CPU_KVCACHE_SPACE")  # GiB; where it is set, vLLM follows it
    logger.info("vLLM keeps %.1f GiB for keys and values", float(given) if given else size / 2**30)
    return {"kv_cache_memory_bytes": size, "enable_chunked_prefill": False}


@contextmanager
def _process_left_alone() -> Iterator[None]:
    """Put back what an engine changes of the process it is in: generators, and on a CPU the threads and their setter.

    torch's own generators are the sampler's to keep, in drawing too. What vLLM's own code is warned of stays with it.
    """
    setter, threads = torch.set_num_threads, torch.get_num_threads()
    states = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        torch.set_num_threads = setter
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
