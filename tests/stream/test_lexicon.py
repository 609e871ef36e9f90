"""Lexicons from TOML: what they hold, what they find, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.data import synthetic
from nvcim_jax.stream import lexicon, metrics

EXAMPLE = """
glove = ["activity"]
[medical]
admin = ["dose", "pills", "inhale"]
drug = ["ACOVA", "Deep Breath"]
[emotion]
fear = ["fear", ["chasm"]]
joy = ["happy"]
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "words.toml").write_text(text, encoding="utf-8")
        return lexicon.read(tmp_path / "words.toml")

    return read


def test_dss_of_a_text_by_hand():
    made = lexicon.lexicon(
        {"medical": ["dose", "pills", "inhale"], "emotion": ["fear", "happy"], "glove": ["activity"]}
    )
    text = "take two pills and a deep breath"
    found, count = jnp.array(made.matches(text)), len(lexicon.words(text))
    assert count == 7 and float(metrics.dss(found, count)) == pytest.approx(0.047619, abs=1e-6)
    assert made.name(int(metrics.dominant_domain(found))) == "medical"
    for repeats, value in ((False, 1 / 9), (True, 2 / 9)):
        found = jnp.array(made.matches("pills pills help", repeats=repeats))
        assert float(metrics.dss(found, 3)) == pytest.approx(value)
    assert made.name(int(metrics.dominant_domain(jnp.array(made.matches("no word of them"))))) == "none"


def test_sub_lexicons_are_merged_case_is_lost_and_phrases_are_found(read):
    made = read(EXAMPLE)
    assert made.names == ("glove", "medical", "emotion")
    text = "Acova? A deep breath of fear, and into the CHASM. Deep-breath, deep. Breath"
    np.testing.assert_array_equal(made.matches(text), [0, 2, 2])
    np.testing.assert_array_equal(made.matches(text, repeats=True), [0, 3, 2])


def test_a_word_may_belong_to_two_domains():
    made = lexicon.lexicon({"a": ["oak"], "b": ["oak", "pine"]})
    np.testing.assert_array_equal(made.matches("oak and pine"), [1, 2])


def test_the_toy_vocabulary_is_a_lexicon():
    toy = lexicon.toy()
    assert toy.names == tuple(domain.name for domain in synthetic.domains()) and len(toy.names) == 24
    assert toy.name(int(np.argmax(toy.matches("She kneaded the crusty dough")))) == "baking"


def test_the_digest_is_of_the_words():
    one, two = lexicon.lexicon({"a": ["x", "y"]}), lexicon.lexicon({"a": ["Y", "x", "x"]})
    assert one.digest == two.digest != lexicon.lexicon({"a": ["x"]}).digest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the lexicon is empty: without a domain every DSS is 0"),
        ("[medical]\n", "the domain 'medical' has no word: give it words"),
        ("[medical]\na = []\n", "the domain 'medical' has no word: give it words"),
        ('[a]\nwords = ["x", "--"]', "the domain 'a' has the entry '--', which holds no word"),
        ("[a]\nwords = [1]", "'words' holds 1: a lexicon has lists of words only"),
        ('[x.a]\nw = ["b"]\n[y.a]\nw = ["c"]', "two domains are called 'a': rename one"),
        ("[a", "is not TOML in UTF-8"),
    ],
)
def test_what_is_no_lexicon_is_refused_in_one_sentence(read, text, told):
    with pytest.raises(lexicon.LexiconError) as refused:
        read(text)
    assert told in str(refused.value) and "words.toml" in str(refused.value) and "\n" not in str(refused.value)


def test_a_lexicon_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(lexicon.LexiconError, match="cannot be read"):
        lexicon.read(tmp_path / "none.toml")
    with pytest.raises(lexicon.LexiconError, match="is no file"):
        lexicon.read(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'a = ["caf\xe9"]')
    with pytest.raises(lexicon.LexiconError, match="not TOML in UTF-8"):
        lexicon.read(tmp_path / "latin.toml")
