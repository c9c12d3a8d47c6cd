"""What every layer may import."""
