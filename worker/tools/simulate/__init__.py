"""What a recorded trace of uses costs under each policy, and at best."""
