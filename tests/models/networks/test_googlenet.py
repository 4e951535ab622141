"""GoogLeNet without what torchvision adds for training it from scratch."""

import torch


def test_neither_auxiliary_classifiers_nor_dropout_are_there(network):
    model = network("googlenet", shape=(1, 32, 32))
    names = [name for name, _ in model.named_children()]
    assert names[0] == "conv1"
    assert names[-3:] == ["avgpool", "flatten", "head"]
    assert not {"aux1", "aux2", "dropout", "fc"} & set(names)
    assert model.head.out.in_features == 1024
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)
