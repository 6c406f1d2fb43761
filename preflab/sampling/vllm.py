"""Rollouts by vLLM (arXiv 2309.06180), on CUDA: another engine on the same base, given the role's adapter each time."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from preflab.data.batches import padded
from preflab.errors import UserError
from preflab.method.contract import Batch, Role
from preflab.model.roles import Roles
from preflab.model.work import sampled
from preflab.sampling.decoding import EndIds, several
from preflab.sampling.sampler import Samples
from preflab.seeds import derive, seeded
from preflab.settings.training import VLLM_TEMPERATURES

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The widths that vLLM can give its adapters."""


class VllmSampler:
    """Samples a role with vLLM: token ids in, token ids and their log-probabilities out.

    The engine is made with the first samples and kept. It holds a base of its own, in half precision since its
    adapters know no other; each call hands it the role's adapter as it is now, as a PEFT folder under a number and a
    name never used before: by these vLLM keeps adapters and the keys and values of prompts.

    Nothing is filtered and vLLM takes nothing from the model's ``generation_config``: its defaults are off, and the end
    tokens are those given here. Nothing is sent anywhere: vLLM's usage statistics are off.

    Args:
        model: folder or hub name of the base.
        end_ids: the only tokens that end a response; the one that does belongs to the response.
        pad_id: what padding is filled with; lengths never come from it.
        max_prompt_tokens: the longest prompt.
        max_response_tokens: length limit T.
        memory: share of the GPU's memory that the engine takes and keeps.
        trust_remote_code: run code that comes with the model.
    """

    other_engine = True

    def __init__(
        self,
        model: str,
        end_ids: EndIds,
        pad_id: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
        memory: float = 0.3,
        trust_remote_code: bool = False,
    ) -> None:
        self.model, self.end_ids, self.pad_id = model, several(end_ids), pad_id
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        self.memory, self.trust_remote_code = memory, trust_remote_code
        self._engine: Any = None
        self._numbers = itertools.count(1)

    def __call__(
        self, roles: Roles, role: Role, prompts: Sequence[Sequence[int]], *, k: int, temperature: float, seed: int
    ) -> Samples:
        """Return `k` samples for each prompt; ``logps`` are the engine's.

        Raises:
            UserError: if vLLM is not there or cannot load the base, if it cannot run the role's adapter or the
                temperature, or if the model's probabilities are not finite.
        """
        _check(roles, role, temperature)
        vllm = _vllm()
        # In one process with us, vLLM seeds our generators and may draw from them.
        with seeded(seed, "vllm"), self._adapter(roles, role) as adapter:
            outputs = self._opened(roles).generate(
                [vllm.TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts],
                [self._params(k, temperature, derive(seed, "sample", place)) for place in range(len(prompts))],
                lora_request=adapter,
                use_tqdm=False,
            )
        rows = [completion for output in outputs for completion in output.outputs]
        samples = self._samples(roles, prompts, rows, k)
        assert samples.logps is not None
        if not samples.logps.isfinite().all():
            raise UserError(f"the {role} gives no finite probabilities: it has diverged; lower the learning rate")
        roles.work.add(sampled(samples.batch, prompt_once=True))
        return samples

    def _params(self, k: int, temperature: float, seed: int) -> Any:
        """Return how one prompt is sampled; of its `k` samples, number i has the seed that is i higher."""
        return _vllm().SamplingParams(
            n=k,
            temperature=temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
            min_tokens=0,
            max_tokens=self.max_response_tokens,
            stop_token_ids=list(self.end_ids),
            ignore_eos=True,  # what vLLM takes for the model's end; ours are the ones above
            seed=seed >> 1,  # room for the k seeds within 63 bits
            logprobs=0,  # of the drawn token alone
            detokenize=False,
        )

    def _opened(self, roles: Roles) -> Any:
        """Return the engine, made at the first call."""
        if self._engine is not None:
            return self._engine
        torch.cuda.empty_cache()
        try:
            self._engine = _vllm().LLM(
                model=self.model,
                trust_remote_code=self.trust_remote_code,
                dtype="float16" if roles.model.dtype == torch.float16 else "bfloat16",
                max_model_len=self.max_prompt_tokens + self.max_response_tokens,
                gpu_memory_utilization=self.memory,
                enable_prefix_caching=True,  # of k samples of a prompt, one prefill serves all
                enable_lora=True,
                max_loras=1,
                max_lora_rank=_rank(roles.rank),
                skip_tokenizer_init=True,
                generation_config="vllm",
                logprobs_mode="processed_logprobs",  # at the temperature
                seed=0,
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"vLLM cannot open {self.model!r} with vllm_memory {self.memory}: {error}; change that share, or set "
                "sampler to transformers"
            ) from error
        return self._engine

    @contextmanager
    def _adapter(self, roles: Roles, role: Role) -> Iterator[Any]:
        """Give vLLM the role's adapter as it is now; None where the role is the bare base."""
        if not roles.has(role):
            yield None
            return
        from vllm.lora.request import LoRARequest

        number = next(self._numbers)
        with TemporaryDirectory(prefix="preflab-") as folder:
            roles.save(role, Path(folder))
            yield LoRARequest(lora_name=f"{role}-{number}", lora_int_id=number, lora_path=folder)

    def _samples(self, roles: Roles, prompts: Sequence[Sequence[int]], rows: Sequence[Any], k: int) -> Samples:
        """Return what vLLM drew, prompt by prompt, as padded tensors."""
        width = max(len(row.token_ids) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        logps = torch.zeros(len(rows), width)
        ended = torch.zeros(len(rows), dtype=torch.bool)
        for place, row in enumerate(rows):
            tokens = list(row.token_ids)
            ended[place] = tokens[-1] in self.end_ids
            if (row.finish_reason == "stop") != bool(ended[place]):
                raise RuntimeError(
                    f"vLLM finished a response for {row.finish_reason!r} whose last token is {tokens[-1]}"
                )
            ids[place, : len(tokens)] = torch.tensor(tokens)
            mask[place, : len(tokens)] = True
            drawn = [step[token].logprob for token, step in zip(tokens, row.logprobs, strict=True)]
            logps[place, : len(tokens)] = torch.tensor(drawn)
        found = (x.reshape(len(prompts), k, *x.shape[1:]).to(roles.device) for x in (ids, mask, logps, ended))
        ids, mask, logps, ended = found
        return Samples(
            Batch(*padded(prompts, self.pad_id, left=True, device=roles.device), ids, mask), ended, logps=logps
        )


def _vllm() -> Any:
    """Import vLLM, late, told to send nothing and to schedule requests in the same order each time.

    Raises:
        UserError: if it is not there.
    """
    os.environ.update(VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    try:
        import vllm
    except ImportError as error:
        raise UserError(
            f"vLLM cannot be imported ({error}): pip install preflab[vllm] on a machine with CUDA, or set sampler to "
            "transformers"
        ) from error
    return vllm


def _rank(rank: int) -> int:
    """Return the least width that an adapter of this rank fits."""
    if rank > RANKS[-1]:
        raise UserError(
            f"vLLM takes adapters up to rank {RANKS[-1]}, and lora_rank is {rank}; set sampler to transformers"
        )
    return next(width for width in RANKS if width >= rank)


def _check(roles: Roles, role: Role, temperature: float) -> None:
    """Refuse what vLLM would refuse, or change without a word."""
    low, high = VLLM_TEMPERATURES
    if not (low <= temperature <= high and math.isfinite(temperature)):
        raise UserError(f"vLLM samples at temperatures from {low} to {high}, not {temperature}")
    if role in roles.heads:
        raise UserError(f"the {role} has a scalar head and no words to say; vLLM samples policy and reference")
    if roles.has(role) and (roles.shape(role).use_dora or roles.shape(role).lora_bias):
        raise UserError("vLLM reads plain adapters, not DoRA or biases; set sampler to transformers")
    for layer in (roles.model.get_input_embeddings(), roles.model.get_output_embeddings()):
        if isinstance(layer, LoraLayer) and (role in layer.lora_A or role in layer.lora_embedding_A):
            raise UserError(
                "vLLM cannot be trusted with adapters on the output head or the embeddings; take them out of "
                "target_modules, or set sampler to transformers"
            )
