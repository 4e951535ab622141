"""How well one number tells a label."""


def balanced_accuracy(says_positive, label):
    """Mean of the hit rates of both classes; ``says_positive`` may have more columns."""
    return (says_positive[label == 1].mean(0) + 1.0 - says_positive[label == 0].mean(0)) / 2.0
