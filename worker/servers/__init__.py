"""Other model servers on this machine: what they have loaded, and having them give it back."""
