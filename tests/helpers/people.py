"""People for tests of real models."""

import shutil

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.evaluation.studies import Source
from nvcim_jax.pipeline.model import TOY


def real_source(tmp_path, people=7, folder="LaMP_5"):
    """A LaMP folder of toy people, for the toy model under the name of a real one."""
    task = lamp.task("LaMP-5")
    synthetic.write(tmp_path / folder, task, people)
    model = tmp_path / "some-model"
    if not model.exists():
        shutil.copytree(TOY, model)
    return Source(str(model), tmp_path / folder)
