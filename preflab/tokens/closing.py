"""Chat templates that end where a reward model's text does: at the end token of the assistant's turn.

Templates write more behind it, mostly a line break, and some write no end token at all. preflab's models read neither
of the two; other programs read whatever the template writes. No torch here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from preflab.tokens.endings import PROBE, Ends, rendered_probe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASKING = "add_generation_prompt"
MARK = "{#- ends at the end token of a last turn of the assistant's -#}"


def closed_template(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return a tokenizer's chat template (or all, by name) so that a dialogue that ends in an answer ends in its end.

    What asks for an answer, and every other dialogue, stays as the template writes it, and so does a template that
    was closed before. None where there is none.
    """
    template = tokenizer.chat_template
    if not template:
        return None
    end = str(tokenizer.convert_ids_to_tokens(Ends.of(tokenizer).closing))
    writes_it = end in rendered_probe(tokenizer).rpartition(PROBE)[2]
    if isinstance(template, dict):
        return {name: _closed(text, end, writes_it) for name, text in template.items()}
    return _closed(template, end, writes_it)


def _closed(template: str, end: str, writes_it: bool) -> str:
    if template.startswith(MARK):
        return template
    literal = json.dumps(end)
    closed = f"written.rsplit({literal}, 1)[0] + {literal}" if writes_it else f"written + {literal}"
    ends = "messages and messages[-1]['role'] == 'assistant'"
    if ASKING in template:  # by its name others tell whether a template knows of asking
        ends += f" and not {ASKING}"
    # The empty expressions keep Jinja from taking a line break at the template's edge for the block's.
    body = "{% set written %}{{ '' }}" + template.removesuffix("\n") + "{{ '' }}{% endset %}"
    return MARK + body + "{{ " + f"{closed} if {ends} else written" + " }}"
