"""What is server_state: networks, layer groups, the frozen prefix, pre-trained weights. Plain torch."""
