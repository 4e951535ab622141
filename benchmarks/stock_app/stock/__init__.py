"""FedAvg over one network with Flower's own strategy."""
