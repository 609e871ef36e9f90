"""Questions in the user's turn of a chat template, and the place of virtual tokens there."""

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nvcim_jax import llm
from nvcim_jax.data import text
from nvcim_jax.data.wording import Wording, templated, turn
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample
from nvcim_jax.pipeline.learn import pair
from nvcim_jax.pipeline.presets import RECOMMENDED

VOCAB = {
    word: at
    for at, word in enumerate(("<unk>", "<user>", "<end>", "be", "kind", "a", "b", "c", "d", "answer", "Answer", ":"))
}
CHAT = "<user>be kind {{ messages[0]['content'] }}<end>{% if add_generation_prompt %}answer{% endif %}"
AUTO = Wording("auto", "turn")


def tokenizer(template=CHAT):
    words = Tokenizer(models.WordLevel(VOCAB, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<user>", "eos_token": "<end>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template, split_special_tokens=True, **special)


@pytest.mark.parametrize("question", ["a b c", "  a b ", "a\nb"])
@pytest.mark.parametrize("template", [CHAT, CHAT.replace("['content']", "['content'] | trim")])
def test_the_ids_are_those_of_transformers(template, question):
    words = tokenizer(template)
    ids, place = templated(words, question)
    chat = [{"role": "user", "content": question}]
    said = words.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert ids == words(said, add_special_tokens=False, split_special_tokens=False).input_ids
    assert words.convert_ids_to_tokens(ids[:place]) == ["<user>", "be", "kind"]
    assert turn(words, question).after == [2, 9]


def test_the_name_of_a_special_token_in_a_question_is_text():
    words = tokenizer()
    assert 2 in words("<end>", split_special_tokens=False).input_ids
    before, question, after = turn(words, "a <end> b")
    assert (before, after) == ([1, 3, 4], [2, 9]) and 2 not in question and question[0] == 5 and question[-1] == 6


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('only with tools') }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ messages[7]['content'] }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",  # the sandbox gives nothing of Python away
        "{{ messages.append(1) }}{{ messages[0]['content'] }}",
    ],
)
def test_a_template_that_cannot_be_rendered_is_one_sentence(template):
    with pytest.raises(ValueError, match="the chat template cannot be rendered .*: choose template none") as refused:
        templated(tokenizer(template), "a")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("template", ["be kind", "{{ messages[0]['content'] | upper }}"])
def test_a_template_without_the_question_is_refused(template):
    with pytest.raises(ValueError, match="does not hold the question as it stands"):
        templated(tokenizer(template), "a")


SAMPLE = Sample("a b c d", "a b", "c d")


@pytest.mark.parametrize(
    ("wording", "room", "asked"),
    [
        (Wording(), None, ([5, 6, 7, 8, 10, 11], 0)),
        (Wording(), 3, ([5, 10, 11], 0)),
        (Wording(place="second"), None, ([5, 6, 7, 8, 10, 11], 1)),
        (Wording(place="second"), 4, ([5, 6, 10, 11], 1)),  # the first token stays
        (Wording("auto"), None, ([1, 3, 4, 5, 6, 7, 8, 2, 9], 0)),
        (Wording("auto", "second"), None, ([1, 3, 4, 5, 6, 7, 8, 2, 9], 1)),
        (Wording("auto", "turn"), None, ([1, 3, 4, 5, 6, 7, 8, 2, 9], 3)),
        (Wording("auto", "auto"), None, ([1, 3, 4, 5, 6, 7, 8, 2, 9], 3)),
        (Wording("auto", "turn"), 7, ([1, 3, 4, 5, 8, 2, 9], 3)),  # the template stays whole
    ],
)
def test_what_is_asked_and_where_virtual_tokens_stand(wording, room, asked):
    assert tuple(text.asked(tokenizer(), SAMPLE, wording, room)) == asked


def test_a_model_without_a_template_is_asked_plainly():
    for place in ("front", "auto"):
        assert text.asked(tokenizer(None), SAMPLE, Wording("auto", place)) == text.asked(tokenizer(None), SAMPLE)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: Wording("chatty"), "template 'chatty': choose one of none, auto"),
        (lambda: Wording(place="back"), "place 'back': choose one of front, second, turn, auto"),
        (lambda: text.asked(tokenizer(), SAMPLE, Wording(place="turn")), "place 'turn' is inside a chat template"),
        (lambda: text.asked(tokenizer(None), SAMPLE, AUTO), "place 'turn' is inside a chat template"),
        (
            lambda: text.asked(tokenizer(), SAMPLE, AUTO, 5),
            "the chat template alone takes 5 tokens; there is room for 5",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()


def test_tuning_reads_a_sample_as_it_is_asked():
    config = llm.Config(12, 8, 8, 1, 1, 1, 8, 64, 1e-5, True, None)
    model = Model({}, config, tokenizer(), (2,))
    settings = replace(RECOMMENDED, wording=AUTO, longest=7)
    assert pair(model, SAMPLE, settings) == ([1, 3, 4, 5, 8, 2, 9], text.answer_ids(tokenizer(), SAMPLE, AUTO), 3, True)
    assert pair(model, SAMPLE, replace(settings, longest=9))[2:] == (3, False)
