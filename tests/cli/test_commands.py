"""The commands as a user meets them: output, files, refusals."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nvcim_jax import cli
from nvcim_jax.data import synthetic
from nvcim_jax.evaluation import methods
from nvcim_jax.memory.storage import store
from nvcim_jax.memory.storage.about import EMBEDDED_WORLD
from nvcim_jax.pipeline import memory
from nvcim_jax.pipeline.model import TOY
from nvcim_jax.pipeline.presets import RECOMMENDED
from tests.helpers.command import nvcim


@pytest.mark.parametrize("command", ["run", "stream", "learn", "grow", "ask", "chat", "devices", "vary", "cost"])
def test_help_shows_an_example(command):
    assert f"nvcim {command}" in nvcim(command, "--help")


def test_devices_prints_table_ii():
    text = nvcim("devices", "--sigma", "0.01")
    assert "0.0049" in text and "FeFET6" in text and "0.0155" in text


def test_learn_then_ask(tmp_path):
    half, user = ("--weights", "bfloat16"), synthetic.HELD_OUT + 1
    made_for = ("--device", "NVM-5", "--sigma", "0.3")
    text = nvcim("learn", "--task", "LaMP-2", "--user", user, "--out", tmp_path / "bank", *half, *made_for)
    assert "the OVTs of user 1000001" in text and text.splitlines()[-1] == (
        f"ask it: nvcim ask {tmp_path / 'bank'} 'your question' --weights bfloat16"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]
    about = store.load(tmp_path / "bank").about
    assert (about.source, about.device, about.sigma, about.preset) == (EMBEDDED_WORLD, "NVM-5", 0.3, "recommended")
    query = synthetic.users(cli_task("LaMP-2"), 1, first=user)[0].queries[0]
    text = nvcim("ask", tmp_path / "bank", query.content, *half)
    assert "with the OVT" in text and "->" in text and "search on NVM-5, sigma 0.3" in text
    assert nvcim("ask", tmp_path / "bank", query.question, *half) == text  # the whole question is the same question
    assert "with another model" in nvcim("ask", tmp_path / "bank", query.content, code=2)  # its weights rounded no more
    assert "exists already" in nvcim("learn", "--out", tmp_path / "bank", code=2)


def cli_task(name):
    from nvcim_jax.data import lamp

    return lamp.task(name)


def test_a_short_run_has_the_few_methods_that_a_model_of_ones_own_gets(tmp_path):
    text = nvcim("run", "--methods", "short", "--task", "LaMP-3", "--users", 1, "--draws", 1, "--out", tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())["tasks"]["LaMP-3"]
    assert len(found["methods"]) == 4 and found["gain_kept_by_recommended"] is None
    assert "one prompt for all" in text and "with OVT" in text and "flat MIPS" not in text


def test_a_model_of_ones_own_starts_from_what_others_have_in_common(tmp_path):
    model, people = tmp_path / "model", tmp_path / "LaMP_3"
    shutil.copytree(TOY, model)
    synthetic.write(people, cli_task("LaMP-3"), 2)
    words = ["run", "--model", model, "--task", "LaMP-3", "--data", people, "--draws", 1]
    text = nvcim(*words, "--users", 1, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out/results.json").read_text())["tasks"]["LaMP-3"]["methods"]
    assert list(found) == [methods.BASE, methods.OWN, methods.OTHERS, methods.ONE, methods.whole("recommended")]
    assert "others' prompt" in text and "flat MIPS" not in text
    learned, common = (memory.load(tmp_path / "out" / name) for name in ("bank-LaMP-3-0", "common-LaMP-3"))
    assert (learned.about.preset, common.about.preset) == ("personal", "common")
    assert np.array_equal(learned.codec.encoder[0][0][0], common.codec.encoder[0][0][0])
    nvcim(*words, "--users", 2, "--out", tmp_path / "all")  # nobody is left beside them
    found = json.loads((tmp_path / "all/results.json").read_text())["tasks"]["LaMP-3"]["methods"]
    assert list(found) == [methods.BASE, methods.OWN, methods.ONE, methods.whole("recommended")]
    assert not list((tmp_path / "all").glob("common*"))


def test_a_model_of_ones_own_learns_one_prompt_for_all_of_a_users_samples_first(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(TOY, model)
    text = nvcim("learn", "--model", model, "--task", "LaMP-3", "--out", tmp_path / "bank")
    assert memory.load(tmp_path / "bank").about.preset == "personal" and not (tmp_path / "bank.unfinished").exists()
    assert "nvcim common" in text
    nvcim("learn", "--model", model, "--preset", "paper", "--task", "LaMP-3", "--out", tmp_path / "other")
    assert memory.load(tmp_path / "other").about.preset == "paper"
    assert "nvcim common" not in nvcim("learn", "--task", "LaMP-3", "--out", tmp_path / "toy")


def test_run_leaves_results_that_can_be_repeated(tmp_path):
    words = ["run", "--task", "LaMP-3", "--users", 1, "--draws", 1]
    text = nvcim(*words, "--out", tmp_path / "a")
    nvcim(*words, "--out", tmp_path / "b")
    first, second = (json.loads((tmp_path / out / "results.json").read_text()) for out in "ab")
    assert first == second
    assert f"results.json, results.png, predictions and the banks are in {tmp_path / 'a'}" in text
    assert "mean-pooled MIPS, three copies" in text and "without OVT" in text
    assert first["settings"]["seed"] == 0 and first["provenance"]["versions"]["jax"]
    assert first["tasks"]["LaMP-3"]["methods"]["base model"]["users"] == 1
    assert (tmp_path / "a/results.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "a").glob("bank*")] == ["bank-LaMP-3-0"]
    told = first["tasks"]["LaMP-3"]["methods"]["base model"]["official"]
    assert set(told) == {"MAE", "RMSE"} and "as LaMP scores" in text
    queries = synthetic.users(cli_task("LaMP-3"), 1)[0].queries
    base, golds = (
        json.loads((tmp_path / f"a/predictions/{name}/LaMP_3.json").read_text()) for name in ("base-model", "golds")
    )
    assert golds == {"task": "LaMP_3", "golds": [{"id": each.id, "output": each.answer} for each in queries]}
    assert [each["id"] for each in base["golds"]] == [each.id for each in queries] and queries[0].id == "1000000-q0"
    errors = [abs(float(one["output"]) - float(two["output"])) for one, two in zip(base["golds"], golds["golds"])]
    assert told["MAE"] == pytest.approx(sum(errors) / len(errors))
    question = queries[0].content
    assert "with the OVT" in nvcim("ask", tmp_path / "a/bank-LaMP-3-0", question)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--device", "NVM-9"], "unknown device 'NVM-9'"),
        (["run", "--task", "LaMP-8"], "unknown task 'LaMP-8'"),
        (["run", "--task", "LaMP-4"], "the embedded world has no users of LaMP-4"),
        (["run", "--model", "/nonexistent"], "neither a folder nor a hub name"),
        (["run", "--weights", "float16"], "--weights float16: choose float32, bfloat16 or packed"),
        (["run", "--weights", "packed"], "is not quantised"),
        (["run", "--data", "/nonexistent", "--task", "LaMP-3"], "is not a folder"),
        (["run", "--data", "/nonexistent"], "name it with one --task"),
        (["run", "--out", "/proc/nvcim"], "cannot be written"),
        (["learn", "--out", "/proc/nvcim/bank"], "cannot be written"),
        (["learn", "--out", "x", "--preset", "best"], "unknown preset 'best'"),
        (["ask", "x", "why?", "--preset", "best"], "unknown preset 'best'"),
        (["ask", "x", "why?", "--mitigation", "best"], "unknown mitigation 'best': choose one of none, swv, cxdnn"),
        (["run", "--memory", "much"], "memory of 'much': give a size such as 6GB or 512MiB"),
        (["run", "--mitigation", "best"], "unknown mitigation 'best'"),
        (["run", "--methods", "some"], "--methods some: choose all or short"),
        (
            ["vary", "--mitigation", "swv"],
            "NVM-1 (and NVM-2, NVM-3, NVM-4, NVM-5): no closed form for a mitigation: program the banks instead",
        ),
        (["vary", "--adc", "3.5"], "--adc '3.5': whole numbers with commas between them"),
        (["vary", "--adc", "6", "--cell-bits", "5"], "5 cell bits: 1 to 4 are possible"),
        (["vary", "--adc", "6", "--seconds", "1"], "--adc reads freshly written arrays: leave out --seconds"),
        (["learn", "--out", "x", "--user", "Ann"], "users are numbers"),
        (["ask", "/nonexistent", "why?"], "is no bank"),
        (["chat", "/nonexistent"], "is no bank"),
        (["grow", "/nonexistent", "--history", "a.jsonl"], "is no bank"),
        (["learn", "--out", "x", "--history", "a.jsonl", "--data", "d"], "give one of them"),
        (["learn", "--out", "x", "--history", "a.jsonl", "--task", "LaMP-3"], "is of the task free, not LaMP-3"),
        (["learn", "--out", "x", "--history", "/nonexistent.csv"], "nonexistent.csv is missing"),
        (["learn", "--out", "x", "--history", "a.csv", "--column", "Frage"], "'Frage' has no '='"),
        (["learn", "--out", "x", "--history", "a.csv", "--column", "label=x"], "columns name 'label'"),
        (["learn", "--out", "x", "--column", "question=Frage"], "--column is about --history"),
        (["learn", "--out", "x", "--task", "free"], "give one with --history"),
        (["learn", "--out", "x", "--hold-out", "25"], "has 25 samples: hold out fewer"),
        (["run", "--task", "free"], "unknown task 'free'"),
        (["ask", "/nonexistent", " "], "the question is empty"),
    ],
)
def test_bad_input_is_one_sentence(words, said):
    text = nvcim(*words, code=2)
    assert said in text.replace("\n", " ") and text.count("error:") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--sigma", "-0.1"], "'--sigma': '-0.1': a number from 0 to 10 is needed"),
        (["learn", "--out", "x", "--sigma", "nan"], "'--sigma': 'nan': a number from 0 to 10 is needed"),
        (["run", "--seed", str(2**64)], "'--seed': '18446744073709551616': a whole number from 0 to 4294967295"),
        (["run", "--out", ""], "'--out': the path is empty"),
        (["run", "--model", ""], "'--model': the path is empty"),
        (["ask", "", "why?"], "'BANK': the path is empty"),
    ],
)
def test_an_option_is_checked_where_it_is_declared(words, said):
    text = nvcim(*words, code=2)
    assert said in text and text.count("Error") == 1


def test_more_virtual_tokens_than_columns_are_refused():
    import jax
    import jax.numpy as jnp

    from nvcim_jax.hardware.catalogue import device
    from nvcim_jax.memory import programming

    many = jnp.ones((1, 129, 48))
    with pytest.raises(ValueError, match="at most 128"):
        programming.program(jax.random.key(0), many, many, jnp.ones(1, bool), device("NVM-1"), sigma=0.1)
    assert RECOMMENDED.tokens <= 128


@pytest.mark.parametrize(
    ("words", "there"),
    [
        (["run"], "results.json"),
        (["run"], "bank-LaMP-2-0"),
        (["run"], "predictions"),
        (["learn"], "anything"),
        (["vary"], "vary.json"),
        (["cost"], "fig5.png"),
        (["bank", "export", "bank"], "anything"),
    ],
)
def test_no_command_overwrites_anything(tmp_path, words, there):
    (tmp_path / there).write_text("mine")
    assert f"exists already and holds {there}" in nvcim(*words, "--out", tmp_path, code=2)
    assert [path.name for path in tmp_path.iterdir()] == [there] and (tmp_path / there).read_text() == "mine"


def test_vary_through_converters_shows_answers_beside_energy(tmp_path):
    small = ["--users", "2", "--draws", "2", "--sigma", "0.1", "--out", tmp_path / "out"]
    text = nvcim("vary", "--adc", "2,6", "--cell-bits", "1,2", *small)
    assert "2 bits" in text and "6 bits" in text and "pJ" in text and "vary.json and vary.png are in" in text
    told = json.loads((tmp_path / "out" / "vary.json").read_text())
    assert [(each["cell_bits"], each["adc"]) for each in told["points"]] == [
        (bits, adc) for bits in (1, 2) for adc in (None, 2, 6)
    ]
    shares = {(each["cell_bits"], each["adc"]): each["found"]["mean"] for each in told["points"]}
    assert shares[2, 2] <= shares[2, None] and told["front"] and (tmp_path / "out" / "vary.png").stat().st_size > 10_000


def test_a_refresh_has_its_price():
    """100 OVTs written anew each hour: 1e5 pulses of NVM-4 last 1e5 hours, 11.4 years; half as often, twice as long."""
    hourly, rarer = (nvcim("cost", "--device", "NVM-4", "--refresh", each, "--json") for each in ("3600", "7200"))
    assert "every 3600 s takes" in hourly and "its cells last 11.4 years" in hourly
    assert "its cells last 22.8 years" in rarer and "refresh of" not in nvcim("cost", "--device", "NVM-4")


def test_long_work_is_refused_before_it_begins():
    for option in ("--users", "--draws"):
        text = nvcim("run", option, "1000000000", code=2).replace("\n", " ")
        assert "would take about" in text and "or allow more than 48 hours with --hours" in text


def test_the_version():
    from importlib.metadata import version

    assert nvcim("--version") == f"nvcim_jax {version('nvcim_jax')}\n"


@pytest.mark.parametrize("command", [[], ["run"], ["bank"], ["bank", "show"]])
def test_help_is_short_too(command):
    assert nvcim(*command, "-h") == nvcim(*command, "--help")


def test_the_suggested_command_is_for_a_shell(tmp_path):
    from nvcim_jax.cli.learn import _command

    words = shlex.split(_command(tmp_path / "my $(bank)`s`", "my own.toml", "a model/of 'mine'", "packed"))
    assert words == ["nvcim", "ask", str(tmp_path / "my $(bank)`s`"), "your question",
                     "--device", "my own.toml", "--model", "a model/of 'mine'", "--weights", "packed"]  # fmt: skip
    assert shlex.split(_command(Path("-x"), "NVM-3", cli.EMBEDDED, None)) == ["nvcim", "ask", "./-x", "your question"]


def test_what_stays_of_the_unfinished_is_told_after_the_bank_is_saved(tmp_path):
    from nvcim_jax.cli.learn import discard

    unfinished = tmp_path / "bank.unfinished"
    unfinished.mkdir()
    (unfinished / "thesis.tex").write_text("years of work")
    with pytest.warns(UserWarning, match="bank is saved, but .* holds thesis.tex, which tuning did not write"):
        discard(unfinished, tmp_path / "bank")
    assert (unfinished / "thesis.tex").read_text() == "years of work"


@pytest.mark.slow
def test_real_files_run_through(outside, tmp_path):
    for task, folder in (("LaMP-3", "LaMP_3"), ("LaMP-5", "LaMP_5")):
        text = nvcim(
            "run", "--model", outside / "models/stories260K", "--task", task, "--data", outside / "data/lamp" / folder,
            "--users", 1, "--draws", 1, "--out", tmp_path / folder,
        )  # fmt: skip
        assert "mean-pooled MIPS, three copies" in text
        results = json.loads((tmp_path / folder / "results.json").read_text())["tasks"][task]
        assert len(results["users"]) == 1 and "OVT, right domain known, clean" not in results["methods"]


def test_a_real_malformed_file_is_named(outside):
    text = nvcim("run", "--task", "LaMP-7", "--data", outside / "data/lamp/LaMP_7", code=2)
    assert "entry 0: field 'input' is None" in text.replace("\n", " ")


@pytest.mark.slow
def test_ctrl_c_keeps_the_finished_users(tmp_path):
    command = [sys.executable, "-m", "nvcim_jax", "run", "--task", "LaMP-2", "--users", "40", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
    deadline = time.time() + 300
    while not list(tmp_path.glob("bank*")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "interrupted" in text and "Traceback" not in text
    results = json.loads((tmp_path / "results.json").read_text())["tasks"]["LaMP-2"]
    assert 8 <= len(results["users"]) < 40


@pytest.mark.slow
def test_ctrl_c_while_learning_keeps_what_is_done(tmp_path):
    command = [sys.executable, "-m", "nvcim_jax", "learn", "--out", str(tmp_path / "bank")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
    unfinished, deadline = tmp_path / "bank.unfinished", time.time() + 120
    while not unfinished.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.1)
    time.sleep(1)  # by now the first program is being compiled
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "keeps what is done" in text and "Traceback" not in text
    assert list(unfinished.glob("rows-*.safetensors")) and not (tmp_path / "bank").exists()
    assert "the OVTs of user" in nvcim("learn", "--out", tmp_path / "bank") and not unfinished.exists()


def test_a_device_of_ones_own_is_held_to_its_range(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('name = "X"\nsource = "a paper"\nlevels = 4\nnoise = [0.1, 0.1, 0.1, 0.1]\nsigma_range = [1, 1]\n')
    for command in ("run", "vary"):
        said = nvcim(command, "--device", path, "--sigma", "0.1", code=2)
        assert "sigma 0.1 is outside 1 to 1, for which X is known (a paper)" in said.replace("\n", " ")


@pytest.mark.slow
def test_learn_refuses_a_folder_that_it_did_not_make(tmp_path):
    unfinished = tmp_path / "bank.unfinished"
    unfinished.mkdir()
    (unfinished / "thesis.tex").write_text("years of work")
    said = nvcim("learn", "--out", tmp_path / "bank", code=2).replace("\n", " ")
    assert "holds thesis.tex, which tuning did not write" in said
    assert (unfinished / "thesis.tex").read_text() == "years of work" and not (tmp_path / "bank").exists()
