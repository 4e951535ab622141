"""Faults on purpose: which, where and when; the processes they hit; and what may not break."""
