"""What is learnt: networks, layer groups, the frozen prefix, pre-trained weights. Plain torch."""
