"""What a person types: the command `fedstrata` with its subcommands."""
