"""The head has hidden layers with ReLU, and one output per class."""

from torch import nn

from models.networks.head import head


def test_head_is_named_by_number_and_the_last_layer_out(network):
    model = network("mlp", shape=(561,), classes=6, hidden=[16, 8])
    assert [k for k in model.state_dict() if k.endswith("weight")] == [
        *("fc1.weight", "fc2.weight", "fc3.weight"),
        *("head.0.weight", "head.1.weight", "head.out.weight"),
    ]
    assert list(dict(head(7, [4, 3], 2, dropout=0.5).named_children())) == [
        *("0", "relu0", "drop0", "1", "relu1", "drop1", "out")
    ]
    assert list(dict(head(7, [], 2).named_children())) == ["out"]


def test_the_papers_head_is_4096_2048_1024():
    sizes = [m.out_features for m in head(512, [4096, 2048, 1024], 3) if isinstance(m, nn.Linear)]
    assert sizes == [4096, 2048, 1024, 3]
