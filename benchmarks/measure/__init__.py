"""How benchmarks measure: fresh processes, turns, medians, and what the machine allows at best."""
