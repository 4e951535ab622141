"""Networks for the tests of this folder."""

import pytest

from models.networks import MODELS, build

OPTIONS = {name: {"hidden": [128, 64, 32]} for name in ("mlp", "mlp_bn")} | {
    name: {"classifier": False} for name in MODELS if name.startswith(("vgg", "mobilenet_v3"))
}


@pytest.fixture(scope="session")
def network():
    def make(name, *, shape=(3, 64, 64), classes=5, hidden=(), **options):
        options = OPTIONS.get(name, {}) | options
        return build(name, input_shape=shape, classes=classes, head=hidden, **options)

    return make
