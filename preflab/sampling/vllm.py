"""Rollouts by vLLM (arXiv 2309.06180): another engine on the same base, given the role's adapter each time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from preflab.data.batches import padded
from preflab.errors import UserError
from preflab.errors.answering import is_out_of_memory
from preflab.method.contract import Batch, Role
from preflab.model.roles import Roles
from preflab.model.work import sampled
from preflab.sampling.decoding import EndIds, several
from preflab.sampling.sampler import Samples
from preflab.sampling.vllm_engine import close, import_vllm, opened
from preflab.seeds import derive, seeded
from preflab.settings.training import VLLM_TEMPERATURES

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The widths that vLLM can give its adapters."""

_numbers = itertools.count(1)  # of adapters, in whichever engine: none is used twice


class VllmSampler:
    """Samples a role with vLLM: token ids in, token ids and their log-probabilities out.

    The engine is made with the first samples and kept (`preflab.sampling.vllm_engine`). It holds a base of its own;
    each call hands it the role's adapter as it is now, as a PEFT folder under a number and a name never used before: by
    these vLLM keeps adapters and the keys and values of prompts. What is not finite never enters, and an engine that
    computed such a thing is given up: it would stay in its cache and spoil whoever draws next.

    Nothing is filtered and vLLM takes nothing from the model's ``generation_config``: its defaults are off, and the end
    tokens are those given here. Nothing is sent anywhere: vLLM's usage statistics are off.

    Args:
        model: folder or hub name of the base.
        end_ids: the only tokens that end a response; the one that does belongs to the response.
        pad_id: what padding is filled with; lengths never come from it.
        max_prompt_tokens: the longest prompt.
        max_response_tokens: length limit T.
        memory: share of the GPU's memory that the engine takes and keeps; on a CPU, of the machine's, for keys and
            values alone.
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

    def __call__(
        self, roles: Roles, role: Role, prompts: Sequence[Sequence[int]], *, k: int, temperature: float, seed: int
    ) -> Samples:
        """Return `k` samples for each prompt; ``logps`` are the engine's.

        Raises:
            UserError: if vLLM is not there, cannot load the base or fails, if it cannot run the role's adapter or the
                temperature, or if the adapter or the model's probabilities are not finite.
        """
        _check(roles, role, temperature)
        params = [self._params(k, temperature, derive(seed, "sample", place)) for place in range(len(prompts))]
        # In one process with us, vLLM seeds our generators and may draw from them.
        with seeded(seed, "vllm"), _adapter(roles, role) as adapter:
            rows = self._drawn(roles, role, prompts, params, adapter)
        samples = self._samples(roles, prompts, rows, k)
        assert samples.logps is not None
        if not samples.logps.isfinite().all():
            close()
            raise _diverged(role)
        roles.work.add(sampled(samples.batch, prompt_once=True))
        return samples

    def _drawn(
        self, roles: Roles, role: Role, prompts: Sequence[Sequence[int]], params: Sequence[Any], adapter: Any
    ) -> list[Any]:
        """Return vLLM's completions, prompt by prompt."""
        engine, given = self._engine(roles), import_vllm().TokensPrompt
        try:
            outputs = engine.generate(
                [given(prompt_token_ids=list(prompt)) for prompt in prompts],
                params,
                lora_request=adapter,
                use_tqdm=False,
            )
        except RuntimeError as error:
            close()  # what was asked for may still be under way in it
            if is_out_of_memory(error):
                raise
            raise UserError(f"vLLM failed in drawing from the {role}: {error}; set sampler to transformers") from error
        return [completion for output in outputs for completion in output.outputs]

    def _params(self, k: int, temperature: float, seed: int) -> Any:
        """Return how one prompt is sampled; of its `k` samples, number i has the seed that is i higher."""
        return import_vllm().SamplingParams(
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

    def _engine(self, roles: Roles) -> Any:
        """Return the engine, made at the first call."""
        return opened(
            self.model,
            roles.model.dtype,
            self.memory,
            trust_remote_code=self.trust_remote_code,
            max_model_len=self.max_prompt_tokens + self.max_response_tokens,
            enable_prefix_caching=True,  # of k samples of a prompt, one prefill serves all
            enable_lora=True,
            max_loras=1,
            max_lora_rank=_rank(roles.rank),
            skip_tokenizer_init=True,
            generation_config="vllm",
            logprobs_mode="processed_logprobs",  # at the temperature
            use_tqdm_on_load=False,
            seed=0,
        )

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


@contextmanager
def _adapter(roles: Roles, role: Role) -> Iterator[Any]:
    """Give vLLM the role's adapter as it is now; None where the role is the bare base."""
    if not roles.has(role):
        yield None
        return
    if not all(parameter.isfinite().all() for parameter in roles.parameters_of(role)):
        raise _diverged(role)
    from vllm.lora.request import LoRARequest

    number = next(_numbers)
    with TemporaryDirectory(prefix="preflab-") as folder:
        roles.save(role, Path(folder))
        yield LoRARequest(lora_name=f"{role}-{number}", lora_int_id=number, lora_path=folder)


def _diverged(role: Role) -> UserError:
    return UserError(f"the {role} gives no finite probabilities: it has diverged; lower the learning rate")


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
