"""What options of TRL, transformers and PEFT are called here: taken where they mean the same, else answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from preflab.errors import UserError
from preflab.errors.terminal import shown

TRUE, FALSE = "true", "false"


class Habit(NamedTuple):
    """What an option of another trainer is called here.

    Attributes:
        field: the field that means the same; ``""`` where none does.
        answer: what to use where none does, or with another value than those in `values`.
        values: ours for each of its own, where they differ, or where only some mean the same.
    """

    field: str = ""
    answer: str = ""
    values: Mapping[str, str] = {}

    def ours(self, written: str, given: Sequence[str]) -> list[str]:
        """Return our values for those that were given.

        Raises:
            UserError: with the answer, where nothing here means the same.
        """
        if self.field and not self.values:
            return list(given)
        value = (given[0] if given else TRUE).lower()
        if len(given) > 1 or value not in self.values:
            named = f"{written} {shown(' '.join(given))}" if self.field and given else written
            raise UserError(f"{named}: {self.answer}")
        return [self.values[value]]


SAMPLED = "one limit, --max-response-tokens, ends what is sampled and drops longer responses of the data"
SENT = "what is sent to the hub, if asked, is named by --push-to-hub OWNER/NAME of `preflab train` or `preflab merge`"
NAMED = "a run is called by its folder, --output"
HELD = "held-out rows are cut off by their prompts (--heldout-fraction), or come from a file, --heldout"
LAUNCHED = "several processes are started by a launcher (docs/processes.md), and share the base by --shard-base"

HABITS: dict[str, Habit] = {
    # the model
    "model_name_or_path": Habit("model"),
    "torch_dtype": Habit(
        "dtype",
        "of --dtype, auto is bfloat16 on a GPU and float32 on a CPU, whatever type the files have; name the type",
        {name: name for name in ("float32", "bfloat16", "float16")},
    ),
    "attn_implementation": Habit("attention"),
    "load_in_4bit": Habit("load_in", "give true or false, or --load-in", {TRUE: "4bit", FALSE: "none"}),
    "load_in_8bit": Habit("load_in", "give true or false, or --load-in", {TRUE: "8bit", FALSE: "none"}),
    "model_revision": Habit(
        answer="the newest revision is read; of another, download it and name the folder as --model"
    ),
    "use_peft": Habit(answer="adapters are what is trained, always; leave it out"),
    "lora_r": Habit("lora_rank"),
    "lora_target_modules": Habit("target_modules"),
    "fp16": Habit(answer="--dtype float16 loads the base so; --bf16 is for passes over a float32 base"),
    # the data
    "dataset_name": Habit("dataset"),
    "dataset_train_split": Habit("dataset_split"),
    "dataset_test_split": Habit(answer=HELD),
    "eval_dataset": Habit(answer=HELD),
    "dataset_config": Habit(
        answer="configurations of a data set have no name here; download one, and give --dataset FILE"
    ),
    "max_length": Habit(
        answer="prompts and responses have limits of their own, --max-prompt-tokens and --max-response-tokens"
    ),
    "max_prompt_length": Habit(
        answer="--max-prompt-tokens is the limit, over which a prompt is dropped; --long-prompts truncate cuts it"
    ),
    "max_completion_length": Habit(answer=SAMPLED),
    "max_new_tokens": Habit(answer=SAMPLED),
    "response_length": Habit(answer=SAMPLED),
    "truncation_mode": Habit(answer="--long-prompts and --long-responses say what becomes of what is too long"),
    # where policies start, and what they maximise
    "sft_model_path": Habit(
        answer="a policy with weights of its own goes in as --model, with --sft none; a PEFT adapter as --sft"
    ),
    "ref_model": Habit(answer="the reference is the policy that methods start from, --sft on --model"),
    "reward_model_path": Habit("reward_model"),
    "reward_model_name_or_path": Habit("reward_model"),
    "reward_funcs": Habit(answer="a reward of your own is --reward FILE.py:FUNCTION"),
    # the method
    "loss_type": Habit(
        answer="every loss is a method of its own (`preflab methods`): --algorithms NAME, or preflab train NAME"
    ),
    "kl_coef": Habit(
        answer="--kl-coefficient (in a comparison --METHOD.kl-coefficient) is in another unit: a reward model's "
        "scores are divided by their deviation"
    ),
    "num_ppo_epochs": Habit("rollout_epochs"),
    "num_iterations": Habit("rollout_epochs"),
    "num_generations": Habit("samples_per_prompt"),
    "cliprange": Habit("clip_range"),
    "epsilon": Habit("clip_range"),
    "epsilon_high": Habit("clip_range_high"),
    "cliprange_value": Habit("value_clip_range"),
    "vf_coef": Habit("value_coefficient"),
    "lam": Habit("gae_lambda"),
    "missing_eos_penalty": Habit("missing_end_penalty"),
    "use_vllm": Habit("sampler", "give true or false, or --sampler", {TRUE: "vllm", FALSE: "transformers"}),
    "precompute_ref_log_probs": Habit(
        answer="the reference's log-probabilities are computed once, always; leave it out"
    ),
    # the optimiser's loop
    "seed": Habit(answer="--seeds 0 1 2 trains once with each; --data-seed is that of splits, --eval-seed of samples"),
    "warmup_ratio": Habit(answer="--warmup-steps below 1 is a share of all steps"),
    "eval_strategy": Habit(answer="--eval-steps says how often; 0 is never"),
    "evaluation_strategy": Habit(answer="--eval-steps says how often; 0 is never"),
    "save_strategy": Habit(answer="--save-steps says how often; 0 is never"),
    "per_device_eval_batch_size": Habit("eval_batch_size"),
    "deepspeed": Habit(answer=LAUNCHED),
    "fsdp": Habit(answer=LAUNCHED),
    # the run
    "output_dir": Habit("output"),
    "overwrite_output_dir": Habit(answer="finished stages are reused, whole; to begin anew, choose another --output"),
    "resume_from_checkpoint": Habit(answer="the same command goes on where it was left; leave it out"),
    "run_name": Habit(answer=NAMED),
    "logging_dir": Habit(answer=NAMED),
    "hub_model_id": Habit(answer=SENT),
    # ours, in other words
    "algorithm": Habit("algorithms"),
    "method": Habit("algorithms"),
    "methods": Habit("algorithms"),
    "lr": Habit("learning_rate"),
    "epochs": Habit("num_train_epochs"),
}
"""By name; an option that a command has itself is never looked up here. docs/command.md has them for people."""
