"""Closed templates write what preflab reads of a dialogue, up to its end token and not further."""

from __future__ import annotations

import copy

import pytest

from preflab.data.encoding import Encoder
from preflab.data.rendering import rendered
from preflab.tokens.closing import closed_template
from preflab.tokens.endings import Ends

CHATML = """
{% for m in messages %}
    {{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' -}}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
ENDLESS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
EOS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token + '\\n\\n' }}{% endfor %}"
USER, ANSWER = {"role": "user", "content": "word1 word2"}, {"role": "assistant", "content": "word3"}


@pytest.fixture
def with_template(tiny_tokenizer):
    def make(template, closing="</s>"):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        if closing not in tokenizer.get_vocab():
            tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", closing]})
        tokenizer.chat_template = template
        return tokenizer

    return make


def written(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


@pytest.mark.parametrize(
    ("template", "closing"),
    [(CHATML, "<|im_end|>"), (ENDLESS, "</s>"), (EOS, "</s>")],
    ids=["chatml", "endless", "eos"],
)
def test_a_dialogue_ends_in_its_end_token(with_template, template, closing):
    plain, tokenizer = with_template(template, closing), with_template(template, closing)
    tokenizer.chat_template = closed_template(plain)
    assert tokenizer.convert_ids_to_tokens(Ends.of(plain).closing) == closing
    for dialogue in ([USER, ANSWER], [USER, ANSWER, USER, ANSWER], [USER, {**ANSWER, "content": f"a {closing} b"}]):
        whole = written(plain, dialogue)
        expected = whole + closing if template == ENDLESS else whole[: whole.rindex(closing) + len(closing)]
        assert written(tokenizer, dialogue) == expected != whole
    # What is no finished dialogue stays as it is, and so does what preflab reads.
    for options in ({"add_generation_prompt": True}, {}):
        assert written(tokenizer, [USER], **options) == written(plain, [USER], **options)
    said, before = (rendered([USER], [ANSWER], one) for one in (tokenizer, plain))
    assert (said.prompt, said.bare) == (before.prompt, before.bare)
    assert [Encoder(one, chat=True).response(said.prompt, said.answers[0]) for one in (tokenizer, plain)] == [
        Encoder(plain, chat=True).response(before.prompt, before.answers[0])
    ] * 2
    assert Ends.of(tokenizer) == Ends.of(plain)


def test_closing_is_what_preflab_reads(with_template):
    plain = with_template(CHATML, "<|im_end|>")
    tokenizer = with_template(closed_template(plain), "<|im_end|>")
    said = rendered([USER], [ANSWER], plain)
    assert written(tokenizer, [USER, ANSWER]) == said.prompt + said.answers[0]


def test_closed_once_and_each_of_several(with_template):
    plain = with_template({"default": CHATML, "tool_use": EOS}, "<|im_end|>")
    found = closed_template(plain)
    assert found.keys() == {"default", "tool_use"}
    plain.chat_template = found
    assert closed_template(plain) == found
    assert closed_template(with_template(None)) is None
