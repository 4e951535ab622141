"""FedAvg over a perceptron with Flower's own strategy."""
