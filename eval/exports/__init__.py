"""What preflab trains, samples and scores in the formats of other programs, a module for each of them.

`alpaca_eval`, `rewardbench`, `lm_eval` and `trl` are functions of rows; `command` writes what they give to files.
What another program reads is not always what preflab's models read: `as_read` says where it is, and leaves out
the rest. The names below need no torch.
"""

from preflab.eval.exports.alpaca_eval import alpaca_annotations, alpaca_outputs
from preflab.eval.exports.rewardbench import rewardbench_pairs, rewardbench_scores
from preflab.eval.exports.trl import trl_pairs

__all__ = ["alpaca_annotations", "alpaca_outputs", "rewardbench_pairs", "rewardbench_scores", "trl_pairs"]
