"""What a benchmark is asked on its command line, and how it writes down what it found."""
