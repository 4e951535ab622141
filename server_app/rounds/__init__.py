"""One round: who is asked, what is sent, what is taken, what the server then knows."""
