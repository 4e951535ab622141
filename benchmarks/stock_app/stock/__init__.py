"""FedAvg over ResNet-18 with Flower's own strategy."""
