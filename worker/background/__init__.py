"""What acts unasked."""
