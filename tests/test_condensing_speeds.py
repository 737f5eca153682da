"""What a step of condensing takes: timed on as many images as take a moment, and as memory has room for."""

from types import SimpleNamespace

from conftest import blobs
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.splits import Counts
from nas_proxy.pipeline import condensing_speeds


def test_a_step_of_condensing_is_timed_on_as_many_images_as_take_a_moment():
    few = blobs(per_class=5)
    prospect = SimpleNamespace(
        few=few, shape=few.shape._replace(classes=10), counts=Counts(train=1000, validation=200, test=400, smallest=90)
    )
    recipe = Condensation(real_batch=256, images_per_class=10)
    more = condensing_speeds._repeated(prospect, recipe, most=1000, together=10)
    # A class has 100 images of 1,000, and 10 synthetic ones that count three times: seven of them are below 1,000.
    assert more.labels.bincount().tolist() == [100] * 7
    assert len(more.classes) == 7
    assert more.images.unique(dim=0).shape[0] == len(few)
    assert (
        condensing_speeds._repeated(prospect, recipe, most=10_000, together=10).labels.bincount().tolist() == [100] * 10
    )
    assert condensing_speeds._repeated(prospect, recipe, most=300, together=10) is None  # hardly more than the few
    # No more classes than memory has room for, as on a small GPU with many of them.
    assert len(condensing_speeds._repeated(prospect, recipe, most=10_000, together=4).classes) == 4
