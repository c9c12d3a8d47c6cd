"""What operators' own code works with."""
