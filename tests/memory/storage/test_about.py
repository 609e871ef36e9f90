"""What a bank says about itself: read back as it was written, and refused where it is something else."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.memory.bank import Bank, unknown
from nvcim_jax.memory.storage.about import EMBEDDED_WORLD, About
from nvcim_jax.people import Sample

ONE, TWO = Sample("q1", "a1", "c1", "jazz"), Sample("q2", "a2", "c2")
WHOLE = About(
    model="f00", task="LaMP-5", source=EMBEDDED_WORLD, users=("Ann", "Bob"), samples=((ONE, None), (None, TWO)),
    domains=("jazz",), devices=("NVM-3",), settings={"preset": "paper", "device": "NVM-3", "sigma": 0.1, "seed": 7},
    provenance={"commit": None}, more={"note": [1]},
)  # fmt: skip


def held(*, count=(1, 1), **origin):
    """A block of two users with two slots; the origin's numbers are those of slots 0."""
    fields = unknown((2, 2))._asdict()
    for name, numbers in origin.items():
        fields[name] = fields[name].at[:, 0].set(jnp.array(numbers))
    codes = np.zeros((2, 2, 1, 3), np.float32)
    origin = type(unknown())(**{name: np.asarray(leaf) for name, leaf in fields.items()})
    return Bank(codes, codes, origin, np.array(count, np.int32), np.zeros(codes.shape[:-2], np.int32))


def test_it_is_read_back_as_it_was_written():
    told = json.loads(json.dumps(WHOLE.to_json()))
    assert About.from_json(told) == WHOLE and told["note"] == [1]
    assert (WHOLE.preset, WHOLE.device, WHOLE.sigma) == ("paper", "NVM-3", 0.1)
    assert About.from_json({}) == About() and About().sigma is None


def test_an_id_is_written_where_a_sample_has_one():
    asked = ONE._replace(id="410")
    told = json.loads(json.dumps(About(users=("Ann",), samples=((asked, ONE),)).to_json()))
    assert [set(sample) for sample in told["samples"][0]] == [set(Sample._fields), set(Sample._fields) - {"id"}]
    assert About.from_json(told).samples == ((asked, ONE),)


def test_what_is_missing_is_told_by_name():
    WHOLE.require("model", "task", "users", "preset", "sigma")
    with pytest.raises(ValueError, match="does not say its task and preset: save it with"):
        About(users=("Ann",)).require("task", "users", "preset")
    About(settings={"sigma": 0.0}).require("sigma")


def test_names_and_samples_by_number():
    assert [WHOLE.name("domains", at) for at in (-1, 0, 1)] == ["", "jazz", ""]
    assert WHOLE.sample(1, 1) == TWO and WHOLE.sample(1, 0) is WHOLE.sample(2, 0) is WHOLE.sample(0, -1) is None
    block = held(count=(1, 2), user=(0, 1), sample=(0, 1))
    assert WHOLE.of_slots(block) == [[ONE, None], [TWO, ONE]]  # the last slot's origin is of user 0, sample 0


def test_a_name_that_is_listed_keeps_its_number_and_a_new_one_is_the_last():
    assert WHOLE.numbered("users", "Bob") == (1, WHOLE)
    number, more = WHOLE.numbered("domains", "baking")
    assert number == 1 and more.domains == ("jazz", "baking") and WHOLE.domains == ("jazz",)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (None, "the description is null: an object"),
        ([], "the description is a list"),
        (7, "the description is the number 7"),
        ({"model": 5}, "model is the number 5: a text"),
        ({"task": ["LaMP-2"]}, "task is a list: a text"),
        ({"source": {}}, "source is an object: a text"),
        ({"prompt_space": True}, "prompt_space is a truth value"),
        ({"users": {"Ann": 1}}, "users is an object: a list"),
        ({"users": None}, "users is null: a list"),
        ({"users": [None]}, "an entry of users is null: a text"),
        ({"domains": [3.5]}, "an entry of domains is the number 3.5"),
        ({"samples": "text"}, "samples is a text: a list"),
        ({"samples": ["text"]}, "an entry of samples is a text: a list"),
        ({"samples": [[5]]}, "a sample is the number 5: an object"),
        ({"samples": [[{"question": "q", "answer": "a"}]]}, "a sample has a wrong 'content'"),
        ({"samples": [[ONE._asdict() | {"answer": 3}]]}, "a sample has a wrong 'answer'"),
        ({"samples": [[ONE._asdict() | {"run": "x"}]]}, "a sample has a wrong 'run'"),
        ({"samples": [[ONE._asdict() | {"domain": 3}]]}, "a sample's domain is the number 3"),
        ({"samples": [[ONE._asdict() | {"id": 3}]]}, "a sample's id is the number 3"),
        ({"users": ["Ann"], "samples": [[], []]}, "names 1 users, but has samples of 2"),
        ({"settings": []}, "settings is a list: an object"),
        ({"settings": {"preset": 3}}, "the setting preset is the number 3"),
        ({"settings": {"sigma": "0.1"}}, "the setting sigma is a text: a finite number"),
        ({"settings": {"sigma": float("nan")}}, "the setting sigma is the number nan"),
        ({"settings": {"sigma": -1}}, "the setting sigma is the number -1"),
        ({"settings": {"sigma": 10**400}}, "the setting sigma is the number 1000"),
        ({"settings": {"sigma": True}}, "the setting sigma is a truth value"),
        ({"provenance": "git"}, "provenance is a text: an object"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(told, said):
    with pytest.raises(ValueError, match=said):
        About.from_json(told)


@pytest.mark.parametrize(
    ("bank", "said"),
    [
        (held(count=(1, 3)), "a bank of 2 slots cannot hold"),
        (held(count=(-1, 0)), "a bank of 2 slots cannot hold"),
        (held(user=(0, 2)), "an OVT is of user 2, but the bank's list of users has none such"),
        (held(user=(0, -1)), "an OVT is of user -1"),
        (held(user=(0, 1), sample=(2, 0)), "an OVT is of sample 2"),
        (held(domain=(0, 1)), "an OVT is of domain 1"),
        (held(domain=(-2, 0)), "an OVT is of domain -2"),
        (held(device=(1, 0)), "an OVT is of device 1"),
    ],
)
def test_numbers_past_the_lists_are_refused(bank, said):
    WHOLE.check(held(user=(0, 1), sample=(1, 1), domain=(-1, 0)))
    WHOLE.check(held(count=(0, 0), user=(9, 9)))  # free slots may hold anything
    About().check(held(user=(9, 9), domain=(3, 3)))  # without lists nothing is known
    with pytest.raises(ValueError, match=said):
        WHOLE.check(bank)


def test_as_many_users_as_the_arrays_have():
    with pytest.raises(ValueError, match="names 1 users, but holds 2"):
        About(users=("Ann",)).check(held())
