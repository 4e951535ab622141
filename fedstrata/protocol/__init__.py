"""What server and sites must agree on: messages, plan, codings and limits."""
