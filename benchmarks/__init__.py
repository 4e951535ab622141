"""What is measured, each beside what a user would run instead, in one run."""
