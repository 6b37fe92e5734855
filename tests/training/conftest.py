"""A directory with a saved model, which the tests damage or open."""

import pytest
from builders import random_unet


@pytest.fixture
def saved(tmp_path):
    """A directory with a good model in it."""
    random_unet().save_pretrained(tmp_path / "model")
    return tmp_path / "model"
