"""Who takes part: roster, members, joining, allowed keys."""
