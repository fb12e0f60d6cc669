"""What the tests of scenes share."""

from collections.abc import Callable

import pytest
from small_scene import small_scene

from feedalign_lab.scenes.scene import Scene


@pytest.fixture
def made_scene() -> Callable[..., Scene]:
    """Makes small scenes, as they are once read."""
    return small_scene
